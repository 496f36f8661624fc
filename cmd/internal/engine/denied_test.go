package engine

import (
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeniedSystemCallIsTold: who is killed by the filter cannot say so itself.
func TestDeniedSystemCallIsTold(t *testing.T) {
	err := vmEnd{wait: syscall.WaitStatus(unix.SIGSYS), denied: "system call 59"}.err()
	if want := "the VM ended: its process was killed by its seccomp filter: system call 59"; err.Error() != want || err.Signal != unix.SIGSYS {
		t.Errorf("%v (%v), want %s", err, err.Signal, want)
	}
	// A crash that HULL_JAIL=trap has made of it comes with its stack.
	err = vmEnd{wait: syscall.WaitStatus(2 << 8), stderr: "SIGSYS: bad system call\nPC=0x40a74e"}.err()
	if !strings.Contains(err.Error(), "bad system call") {
		t.Error(err)
	}
}
