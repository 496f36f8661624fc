package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's struct for rt_sigaction(2) on x86-64 (arch/x86/include/uapi/asm/signal.h).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	sigDefault = 0 // SIG_DFL
	sigIgnore  = 1 // SIG_IGN
	lastSignal = 64
)

// heedSignals makes the default of each signal that is ignored: unlike handlers,
// that would outlive execve. unsafe: no package gives access to a signal's plain disposition.
func heedSignals() {
	for n := uintptr(1); n <= lastSignal; n++ {
		var old sigaction
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&old)), unsafe.Sizeof(old.mask), 0, 0)
		if errno != 0 || old.handler != sigIgnore {
			continue
		}
		plain := sigaction{handler: sigDefault}
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&plain)), 0, unsafe.Sizeof(plain.mask), 0, 0)
	}
}
