package virtiotest

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

// testInterruptSuppression: avail.flags without EVENT_IDX, used_event with it (2.7.7.2).
func (s Suite) testInterruptSuppression(d *Driver, t *testing.T) {
	features := all(d) &^ EventIdx
	d.Start(features)
	req := s.first(features)
	r := d.Rings[req.Queue]
	sent := r.Place(req, Layout{})

	// once has the request served, whether an interrupt comes or not, and returns the number of interrupts.
	once := func() int64 {
		r.Quiesce()
		d.Write(RegInterruptACK, 3)
		edges := d.Line.Edges()
		sent.Again()
		r.Offer(sent.head)
		r.Kick()
		r.pollUsed()
		r.Quiesce() // the interrupt, if any, comes after the entry
		id, n, _ := r.TakeUsed()
		sent.Finish(id, n)
		return d.Line.Edges() - edges
	}
	if n := once(); n != 1 {
		t.Errorf("%d interrupts with avail.flags 0, want 1", n)
	}
	r.SetNoInterrupt(true)
	r.SetUsedEvent(r.seenUsed) // means nothing without EVENT_IDX
	if n := once(); n != 0 {
		t.Errorf("%d interrupts with VIRTQ_AVAIL_F_NO_INTERRUPT, want 0", n)
	}
	r.SetNoInterrupt(false)
	if n := once(); n != 1 {
		t.Errorf("%d interrupts after the flag was cleared, want 1", n)
	}

	if all(d)&EventIdx == 0 {
		return
	}
	d.Start(all(d))
	r = d.Rings[req.Queue]
	sent = r.Place(req, Layout{})
	once()                 // the first is always announced
	r.SetNoInterrupt(true) // means nothing with EVENT_IDX
	r.SetUsedEvent(r.seenUsed)
	if n := once(); n != 1 {
		t.Errorf("%d interrupts with used_event at the next entry, want 1", n)
	}
	r.SetUsedEvent(r.seenUsed + 2)
	for i, want := range []int64{0, 0, 1, 0, 0} {
		if n := once(); n != want {
			t.Errorf("%d interrupts at entry %d with used_event at entry 2, want %d", n, i, want)
		}
	}
	r.SetUsedEvent(r.seenUsed - 1) // in the past: 65,535 entries away
	if n := once(); n != 0 {
		t.Errorf("%d interrupts with used_event in the past, want 0", n)
	}
}

// testNotificationSuppression sends requests and kicks only when the device asks for it: none may be left lying.
func (s Suite) testNotificationSuppression(d *Driver, t *testing.T) {
	for _, features := range []uint64{all(d) &^ EventIdx, all(d)} {
		d.Start(features)
		req := s.first(features)
		r := d.Rings[req.Queue]
		sent := []*Sent{r.Place(req, Layout{}), r.Place(req, Layout{})}
		for range 300 {
			for _, one := range sent {
				one.Again()
				r.Offer(one.head)
				r.KickIfWanted()
			}
			for range sent {
				r.AwaitUsed()
			}
		}
		r.Quiesce()
		// The doorbell's last ring may still have it look once more.
		for end := time.Now().Add(Patience); features&EventIdx == 0 && r.NoNotify(); runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatal("an idle device does not want to be notified")
			}
		}
		if features&EventIdx != 0 {
			if got, want := r.AvailEvent(), r.availIdx; got != want {
				t.Errorf("avail_event of an idle device = %d, want %d", got, want)
			}
			if r.NoNotify() {
				t.Error("used.flags is not 0 with EVENT_IDX (2.7.10.1)")
			}
		}
	}
}

func (s Suite) testSpuriousKicks(d *Driver, t *testing.T) {
	d.Start(all(d))
	for i := range d.Rings {
		edges := d.Line.Edges()
		r := d.Rings[i]
		for range 50 {
			r.Kick()
		}
		if slices.Contains(s.queues(), i) { // others may not be served at all
			r.Quiesce()
		}
		if n := d.Line.Edges() - edges; n != 0 || r.UsedIdx() != 0 {
			t.Errorf("queue %d: %d interrupts and %d used buffers for kicks without buffers", i, n, r.UsedIdx())
		}
	}
	s.each(d, Layout{})
	if got := d.Status(); got&NeedsReset != 0 {
		t.Errorf("status = %#x: %v", got, d.Dev.Failure())
	}
}

func (s Suite) testQueueReset(d *Driver, t *testing.T) {
	if all(d)&RingReset == 0 {
		t.Skip("VIRTIO_F_RING_RESET is not offered")
	}
	// Not negotiated: the register does nothing.
	d.Start(all(d) &^ RingReset)
	d.Write(RegQueueSel, 0)
	d.Write(RegQueueReset, 1)
	if d.Read(RegQueueReady) != 1 {
		t.Error("QueueReset works without VIRTIO_F_RING_RESET")
	}

	d.Start(all(d))
	for range 3 {
		for i := range d.Rings {
			old := d.Rings[i]
			s.each(d, Layout{})
			d.Write(RegQueueSel, uint32(i))
			d.Write(RegQueueReset, 1)
			if got := d.Read(RegQueueReset); got != 0 {
				t.Errorf("QueueReset reads %d after the reset, want 0", got)
			}
			if got := d.Read(RegQueueReady); got != 0 {
				t.Errorf("QueueReady = %d after queue reset, want 0", got)
			}
			before := d.Mem.Bytes(old.Used, 6+8*int(old.Size))
			was := string(before)
			old.SetAvailIdx(old.availIdx + 1)
			d.Write(RegQueueNotify, uint32(i))
			if string(before) != was {
				t.Errorf("the used ring of queue %d was written after its reset", i)
			}
			// The others go on.
			for _, req := range s.Requests {
				if req.Queue != i && req.Needs&^d.Features == 0 {
					d.Rings[req.Queue].Exchange(req, Layout{})
				}
			}
			// Enabled again, with another size and other addresses.
			d.SetUp(i, 64)
			s.each(d, Layout{})
		}
	}
}
