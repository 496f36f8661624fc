package balloon

import (
	"unsafe"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// unsafe because a slice does not say where in guest memory it lies.

// wholePages reports whether p is pages of guest memory.
func wholePages(mem *virtiotest.Memory, p []byte) bool {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(p)))
	for _, r := range mem.Regions {
		base := uintptr(unsafe.Pointer(unsafe.SliceData(r.Bytes)))
		if at >= base && at+uintptr(len(p)) <= base+uintptr(len(r.Bytes)) {
			return (at-base)%PageSize == 0 && len(p)%PageSize == 0
		}
	}
	return false
}
