package jail

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestNoMounts: where mounting is denied, the host is not said to have namespaces that protect it.
func TestNoMounts(t *testing.T) {
	if err := ownNamespaces(); err != nil || os.Geteuid() != 0 {
		t.Skip("only root makes namespaces, where it may: ", err)
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: what is denied to the thread ends with it
		program := []unix.SockFilter{
			{Code: opLoad, K: dataNr},
			{Code: opEqual, K: unix.SYS_MOUNT, Jf: 1},
			{Code: opRet, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)},
			{Code: opRet, K: unix.SECCOMP_RET_ALLOW},
		}
		p := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
		if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&p)), 0, 0); err != nil {
			result <- err
			return
		}
		result <- tryNamespaces()
	}()
	if err := <-result; !errors.Is(err, ErrNoMounts) {
		t.Errorf("%v, want %v", err, ErrNoMounts)
	}
}
