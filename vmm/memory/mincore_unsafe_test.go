package memory

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore tells for each page of b whether the host has memory for it.
func mincore(b []byte) ([]bool, error) {
	states := make([]byte, len(b)/PageSize)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(unsafe.Pointer(&states[0])))
	if errno != 0 {
		return nil, errno
	}
	resident := make([]bool, len(states))
	for i, state := range states {
		resident[i] = state&1 != 0
	}
	return resident, nil
}

// hostAddress is where b is in this process.
func hostAddress(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
