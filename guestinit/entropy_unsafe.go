package guestinit

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlAddEntropy passes a struct rand_pool_info (linux/random.h): the entropy in
// bits, the size of the buffer in bytes, the buffer. unsafe: the struct ends in
// an array of any length, so the kernel gets the address of bytes laid out like it.
func ioctlAddEntropy(fd uintptr, seed []byte) error {
	info := binary.NativeEndian.AppendUint32(nil, uint32(len(seed)*8))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return errno
	}
	return nil
}
