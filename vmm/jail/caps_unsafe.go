package jail

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shareCaps are what a share of root's works with: files in the name of others, whatever their modes.
const shareCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID

// dropCaps leaves all threads with no other capabilities than these, of those that they have. None is inheritable, so
// that none is ambient either.
func dropCaps(keep uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}
	none := true
	for i := range sets {
		none = none && sets[i] == unix.CapUserData{}
		kept := sets[i].Permitted & uint32(keep>>(32*i))
		sets[i] = unix.CapUserData{Effective: kept, Permitted: kept}
	}
	if none {
		return nil
	}
	header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0)
	runtime.KeepAlive(&sets)
	if errno != 0 {
		return errno
	}
	return nil
}
