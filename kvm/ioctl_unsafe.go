package kvm

import (
	"fmt"
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

// Bytes returns a copy of a structure of the kernel's as the kernel has it in
// memory. T must not hold pointers: what an ioctl copies does not.
func Bytes[T any](v *T) []byte {
	b := make([]byte, unsafe.Sizeof(*v))
	copy(b, unsafe.Slice((*byte)(unsafe.Pointer(v)), len(b)))
	return b
}

// FromBytes is the reverse of Bytes. It fails when b is not as long as a T.
func FromBytes[T any](b []byte) (*T, error) {
	v := new(T)
	p := unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
	if len(b) != len(p) {
		return nil, fmt.Errorf("%T has %d bytes, not %d", *v, len(p), len(b))
	}
	copy(p, b)
	return v, nil
}

// xsaveCall makes a call whose argument is a state area of any length.
func (v *VCPU) xsaveCall(name string, op uintptr, area []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(v.fd), op, uintptr(unsafe.Pointer(unsafe.SliceData(area)))); errno != 0 {
		return fmt.Errorf("%s: %w", name, errno)
	}
	return nil
}
