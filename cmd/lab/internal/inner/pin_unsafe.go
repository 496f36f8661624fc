package inner

import (
	"encoding/binary"
	"runtime"
	"unsafe" // x/sys has no ioctl that takes a buffer

	"golang.org/x/sys/unix"
)

// disableAPIC clears the enable bit of a virtual CPU's APIC base register.
func disableAPIC(cpu int) error {
	var sregs [sregsSize]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(cpu), kvmGetSregs, uintptr(unsafe.Pointer(&sregs))); errno != 0 {
		return errno
	}
	base := sregs[sregsAPICBase:]
	binary.LittleEndian.PutUint64(base, binary.LittleEndian.Uint64(base)&^(1<<apicBaseEnableBit))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(cpu), kvmSetSregs, uintptr(unsafe.Pointer(&sregs)))
	runtime.KeepAlive(&sregs)
	if errno != 0 {
		return errno
	}
	return nil
}
