package console

import (
	"io"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/virtiotest"
)

var ring = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// take waits for a used entry without allocating.
func take(r *virtiotest.Ring) {
	for {
		if _, _, ok := r.TakeUsed(); ok {
			return
		}
		runtime.Gosched()
	}
}

// TestNoAllocation: once it has seen as much as is in flight, the device allocates for neither direction.
func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	d := device(t, io.Discard)
	drv := start(t, d)
	tx, rx := drv.Rings[txQueue], drv.Rings[rxQueue]
	out := tx.Place(virtiotest.Request{Queue: txQueue, Out: make([]byte, 80)}, virtiotest.Layout{})
	in := rx.Place(virtiotest.Request{Queue: rxQueue, In: 80}, virtiotest.Layout{})
	key, fds := []byte("k"), drv.Dev.NotifyFDs()
	round := func() {
		tx.Offer(out.Head())
		unix.Write(fds[txQueue], ring) // as KVM would
		rx.Offer(in.Head())
		unix.Write(fds[rxQueue], ring)
		d.Feed(key)
		take(tx)
		take(rx)
	}
	for range 100 {
		round()
	}
	if n := virtiotest.AllocsPerRun(500, round); n >= 1 {
		t.Errorf("%v allocations for a line and a key, want none", n)
	}
}
