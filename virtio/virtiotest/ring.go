package virtiotest

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptor flags (2.7.5).
const (
	Next     = 1
	WriteTo  = 2 // the device writes
	Indirect = 4
)

// Desc is struct virtq_desc.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Ring is the driver's side of a split queue. Its fields may be set to anything before the queue is enabled.
type Ring struct {
	d     *Driver
	Index int
	Size  uint16

	// Guest physical addresses of descriptor table, available ring and used ring.
	Desc, Avail, Used uint64

	availIdx uint16
	seenUsed uint16
	kicked   uint16 // available index at the last Kick
	inUse    []bool // descriptors of requests that are placed
}

// NewRing lays out a ring in memory, for tests of a queue without a device.
func NewRing(t testing.TB, mem *Memory, size uint16) *Ring {
	return newRing(&Driver{T: t, Mem: mem}, 0, size)
}

// newRing lays out a ring in memory. The areas are as badly aligned as the standard allows.
func newRing(d *Driver, index int, size uint16) *Ring {
	r := &Ring{d: d, Index: index, Size: size}
	n := int(size)
	r.Desc = d.Mem.Alloc(16*n, 4096) + 0
	r.Avail = d.Mem.Alloc(6+2*n+2, 4) + 2
	r.Used = d.Mem.Alloc(6+8*n+4, 8) + 4
	clear(d.Mem.Bytes(r.Desc, 16*n))
	clear(d.Mem.Bytes(r.Avail, 6+2*n))
	clear(d.Mem.Bytes(r.Used, 6+8*n))
	return r
}

// at returns memory from gpa on.
func (r *Ring) at(gpa uint64) []byte { return r.d.Mem.Bytes(gpa, 16) }

// SetDesc writes descriptor i of the table.
func (r *Ring) SetDesc(i uint16, d Desc) { r.setDesc(r.Desc, i, d) }

func (r *Ring) setDesc(table uint64, i uint16, d Desc) {
	p := r.d.Mem.Bytes(table+16*uint64(i), 16)
	if table%8 != 0 { // an indirect table at an odd address
		binary.LittleEndian.PutUint64(p, d.Addr)
		binary.LittleEndian.PutUint32(p[8:], d.Len)
		binary.LittleEndian.PutUint16(p[12:], d.Flags)
		binary.LittleEndian.PutUint16(p[14:], d.Next)
		return
	}
	store64(p, d.Addr)
	store64(p[8:], uint64(d.Len)|uint64(d.Flags)<<32|uint64(d.Next)<<48)
}

// SetAvailEntry writes entry i of the available ring.
func (r *Ring) SetAvailEntry(i, head uint16) {
	store16(r.at(r.Avail+4+2*uint64(i%r.Size)), head)
}

// SetAvailIdx makes everything up to idx available.
func (r *Ring) SetAvailIdx(idx uint16) {
	r.availIdx = idx
	store16(r.at(r.Avail+2), idx)
}

// Offer makes the chain at head available, and does not kick.
func (r *Ring) Offer(head uint16) {
	r.SetAvailEntry(r.availIdx, head)
	r.SetAvailIdx(r.availIdx + 1)
}

// SetNoInterrupt sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT.
func (r *Ring) SetNoInterrupt(off bool) {
	var v uint16
	if off {
		v = 1
	}
	store16(r.at(r.Avail), v)
}

// SetPositions makes the ring one that has been used already.
func (r *Ring) SetPositions(idx uint16) {
	r.availIdx, r.seenUsed, r.kicked = idx, idx, idx
	store16(r.at(r.Avail+2), idx)
	store16(r.at(r.Used+2), idx)
}

// SetUsedEvent writes used_event.
func (r *Ring) SetUsedEvent(idx uint16) { store16(r.at(r.Avail+4+2*uint64(r.Size)), idx) }

// UsedIdx reads used.idx, AvailEvent avail_event, and NoNotify the flag VIRTQ_USED_F_NO_NOTIFY.
func (r *Ring) UsedIdx() uint16    { return load16(r.at(r.Used + 2)) }
func (r *Ring) AvailEvent() uint16 { return load16(r.at(r.Used + 4 + 8*uint64(r.Size))) }
func (r *Ring) NoNotify() bool     { return load16(r.at(r.Used))&1 != 0 }

// Kick notifies the device, wanted or not.
func (r *Ring) Kick() {
	r.kicked = r.availIdx
	r.d.Write(RegQueueNotify, uint32(r.Index))
}

// KickIfWanted notifies the device if it wants to hear (2.7.10.1) and reports whether it did.
func (r *Ring) KickIfWanted() bool {
	old := r.kicked
	r.kicked = r.availIdx
	if r.d.Features&EventIdx != 0 {
		if r.availIdx-r.AvailEvent()-1 >= r.availIdx-old {
			return false
		}
	} else if r.NoNotify() {
		return false
	}
	r.d.Write(RegQueueNotify, uint32(r.Index))
	return true
}

// TakeUsed takes the next entry off the used ring.
func (r *Ring) TakeUsed() (id, n uint32, ok bool) {
	if r.UsedIdx() == r.seenUsed {
		return 0, 0, false
	}
	p := r.Used + 4 + 8*uint64(r.seenUsed%r.Size)
	r.seenUsed++
	return load32(r.at(p)), load32(r.at(p + 4)), true
}

// AwaitUsed waits for the next entry of the used ring, by interrupt, which it asks for if EVENT_IDX is on.
func (r *Ring) AwaitUsed() (id, n uint32) {
	r.d.T.Helper()
	r.SetUsedEvent(r.seenUsed)
	r.d.await("a used buffer", func() bool { return r.UsedIdx() != r.seenUsed })
	id, n, _ = r.TakeUsed()
	return id, n
}

// pollUsed waits for the next entry of the used ring without an interrupt.
func (r *Ring) pollUsed() {
	r.d.T.Helper()
	for end := time.Now().Add(Patience); r.UsedIdx() == r.seenUsed; runtime.Gosched() {
		if time.Now().After(end) {
			r.d.T.Fatalf("queue %d: no used buffer", r.Index)
		}
	}
}

// Settle is Quiesce, and waits until nothing is in flight: a pause leaves nothing.
func (r *Ring) Settle() {
	r.d.T.Helper()
	r.Quiesce()
	for _, step := range []func() error{r.d.Dev.Pause, r.d.Dev.Resume} {
		if err := step(); err != nil {
			r.d.T.Fatal(err)
		}
	}
}

// Quiesce waits until the device has looked at everything that was available when it was called, or has given up. It does
// not need interrupts: a doorbell that has been answered twice means that the work between was done.
func (r *Ring) Quiesce() {
	r.d.T.Helper()
	fds := []unix.PollFd{{Fd: int32(r.d.Dev.NotifyFDs()[r.Index]), Events: unix.POLLIN}}
	deadline := time.Now().Add(Patience)
	for range 2 {
		r.Kick()
		for {
			if n, err := unix.Poll(fds, 0); n == 0 && err == nil {
				break
			}
			if r.d.Status()&(NeedsReset|DriverOK) != DriverOK {
				return
			}
			if time.Now().After(deadline) {
				r.d.T.Fatalf("queue %d: the device does not answer its doorbell", r.Index)
			}
			runtime.Gosched()
		}
	}
}
