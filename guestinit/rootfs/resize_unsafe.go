package rootfs

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resize asks a mounted ext4 to be so many blocks long. The kernel reads the number through the pointer.
func resize(f *os.File, blocks uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlResize, uintptr(unsafe.Pointer(&blocks)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}
