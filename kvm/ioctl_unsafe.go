package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl makes a call whose argument is a number.
func ioctl(fd int, op, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// ioctlPtr makes a call whose argument points at a struct. The conversion to
// uintptr stands in the call's own argument list, as package unsafe demands.
func ioctlPtr[T any](fd int, op uintptr, arg *T) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// addressOf is the host address of guest RAM, which lies outside the Go heap
// and therefore never moves.
func addressOf(b []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}

// runPage overlays the kernel's struct kvm_run on the mapping that it shares
// with us.
func runPage(b []byte) *runData {
	return (*runData)(unsafe.Pointer(unsafe.SliceData(b)))
}

// view reinterprets the exit-specific union of the run page.
func view[T any](r *runData) *T {
	return (*T)(unsafe.Pointer(&r.union[0]))
}
