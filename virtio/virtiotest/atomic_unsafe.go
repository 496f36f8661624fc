package virtiotest

import (
	"sync/atomic"
	"unsafe"
)

// unsafe because guest memory is bytes and the rings' fields are shared with the device's goroutines: they must be
// accessed with sync/atomic, which wants pointers to integers.

// word returns the aligned 32-bit word that the 2-byte aligned field at p[0:] lies in, and the field's shift in it.
func word(p []byte) (w *uint32, shift uint) {
	a := unsafe.Pointer(unsafe.SliceData(p))
	half := uintptr(a) & 2
	return (*uint32)(unsafe.Add(a, -int(half))), uint(half) * 8
}

// load16 reads a 16-bit field.
func load16(p []byte) uint16 {
	w, shift := word(p)
	return uint16(atomic.LoadUint32(w) >> shift)
}

// store16 writes a 16-bit field and nothing of its neighbour.
func store16(p []byte, v uint16) {
	w, shift := word(p)
	for {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

// load32 reads a 4-byte aligned 32-bit field.
func load32(p []byte) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(p))))
}

// store64 writes an 8-byte aligned 64-bit field.
func store64(p []byte, v uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(p))), v)
}
