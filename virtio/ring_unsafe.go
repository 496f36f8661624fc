package virtio

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// unsafe is needed here because the ring's fields are shared with guest CPUs: they must be read and written
// by single instructions of their own width, which sync/atomic offers for 32 and 64 bits on pointers only.
//
// All 16-bit fields are 2-byte aligned, so each lies in one aligned 32-bit word, and that word in one page:
//   - Loads read the word atomically and take the half that is meant. The other half is ignored.
//   - used.flags and used.idx make up one word and are both the device's: they are stored together.
//   - avail_event's neighbour may be anything of the guest's, so it is stored by a 16-bit exchange in assembly.
//
// sync/atomic's operations are sequentially consistent, which is the full barrier that EVENT_IDX needs between
// publishing an index and reading the other side's event word; the exchange is one too.

// ring is the three areas of a split queue in guest memory (2.7).
type ring struct {
	mask  uint32 // size - 1
	desc  unsafe.Pointer
	avail unsafe.Pointer // flags, idx, ring[size], used_event: 16 bits each
	used  unsafe.Pointer // flags, idx (16 bits), ring[size] of {id, len uint32}, avail_event
}

// Lengths in bytes of the three areas (2.7, table).
func descBytes(size uint16) int  { return 16 * int(size) }
func availBytes(size uint16) int { return 6 + 2*int(size) }
func usedBytes(size uint16) int  { return 6 + 8*int(size) }

// newRing checks that the areas are large enough and aligned in host memory as the standard wants them in guest
// memory, on which the atomicity of all accesses rests.
func newRing(size uint16, desc, avail, used []byte) (ring, error) {
	if len(desc) < descBytes(size) || len(avail) < availBytes(size) || len(used) < usedBytes(size) {
		return ring{}, fmt.Errorf("ring of %d entries: memory gave %d, %d and %d bytes", size, len(desc), len(avail), len(used))
	}
	r := ring{
		mask:  uint32(size) - 1,
		desc:  unsafe.Pointer(unsafe.SliceData(desc)),
		avail: unsafe.Pointer(unsafe.SliceData(avail)),
		used:  unsafe.Pointer(unsafe.SliceData(used)),
	}
	if uintptr(r.desc)%alignDesc|uintptr(r.avail)%alignAvail|uintptr(r.used)%alignUsed != 0 {
		return ring{}, fmt.Errorf("ring of %d entries: guest memory is not aligned in the host as in the guest", size)
	}
	return r, nil
}

// load16 reads the 2-byte aligned 16-bit field at p.
func load16(p unsafe.Pointer) uint16 {
	half := uintptr(p) & 2
	word := (*uint32)(unsafe.Add(p, -int(half)))
	return uint16(atomic.LoadUint32(word) >> (half * 8))
}

func (r *ring) availFlags() uint16 { return load16(r.avail) }
func (r *ring) availIdx() uint16   { return load16(unsafe.Add(r.avail, 2)) }

// availHead is the entry at position idx of the available ring.
func (r *ring) availHead(idx uint16) uint16 {
	return load16(unsafe.Add(r.avail, 4+2*(uint32(idx)&r.mask)))
}

func (r *ring) usedEvent() uint16 { return load16(unsafe.Add(r.avail, 4+2*(r.mask+1))) }

// setUsed writes the entry at position idx of the used ring. publish makes it visible.
func (r *ring) setUsed(idx uint16, id, n uint32) {
	p := unsafe.Add(r.used, 4+8*(uint32(idx)&r.mask))
	*(*uint32)(p) = id
	*(*uint32)(unsafe.Add(p, 4)) = n
}

// publish stores used.flags and used.idx; everything written before is visible with them. It is a full barrier.
func (r *ring) publish(flags, idx uint16) {
	atomic.StoreUint32((*uint32)(r.used), uint32(flags)|uint32(idx)<<16)
}

// setAvailEvent stores avail_event. It is a full barrier.
func (r *ring) setAvailEvent(idx uint16) {
	exchange16((*uint16)(unsafe.Add(r.used, 4+8*(r.mask+1))), idx)
}

// descriptor copies entry i of the descriptor table. i must be below the size.
func (r *ring) descriptor(i uint16) descriptor {
	p := unsafe.Add(r.desc, 16*uint32(i))
	return makeDescriptor(atomic.LoadUint64((*uint64)(p)), atomic.LoadUint64((*uint64)(unsafe.Add(p, 8))))
}

// exchange16 stores v at p, which is 2-byte aligned, as one 16-bit access and a full barrier.
//
//go:noescape
func exchange16(p *uint16, v uint16)

// pause tells the processor that it waits in a loop.
func pause()
