package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawSetgroups sets the supplementary groups of this thread. unsafe: the kernel
// wants an array, and the wrapper that takes a slice acts on all threads.
func rawSetgroups(groups []int) error {
	list := make([]uint32, len(groups)+1) // one more, so that there is an address
	for i, g := range groups {
		list[i] = uint32(g)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return errno
	}
	return nil
}
