package mmio

import (
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// Neither side wakes the other more often than it asked for, and still nobody sleeps for ever: the driver kicks only when
// the device wants it and waits for interrupts only, over all the ways in which the two can meet.
func TestNoLostWakeup(t *testing.T) {
	rounds := 20000
	if testing.Short() {
		rounds = 2000
	}
	for _, off := range []uint64{0, 1 << virtio.F_EVENT_IDX} {
		d, _ := driver(t)
		d.Start(d.Offered() &^ off)
		r := d.Rings[0]
		var sent []*virtiotest.Sent
		for range 8 {
			sent = append(sent, r.Place(suite.Requests[0], virtiotest.Layout{}))
		}
		kicks := 0
		for i := range rounds {
			n := 1 + i%len(sent)
			for k, s := range sent[:n] {
				r.Offer(s.Head())
				if i&(1<<k) == 0 && r.KickIfWanted() {
					kicks++
				}
			}
			if r.KickIfWanted() {
				kicks++
			}
			for range n {
				r.AwaitUsed()
			}
		}
		t.Logf("features without %#x: %d kicks and %d interrupts for %d requests", off, kicks, d.Line.Edges(), rounds*9/2)
	}
}

// BenchmarkRoundTrip is one request after the other, from the doorbell to the interrupt, through a worker.
func BenchmarkRoundTrip(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(map[int]string{1: "depth 1", 32: "depth 32"}[depth], func(b *testing.B) {
			d := suite.NewDriver(b)
			d.Start(d.Offered())
			r := d.Rings[0]
			var heads []uint16
			for range depth {
				heads = append(heads, r.Place(suite.Requests[0], virtiotest.Layout{}).Head())
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += depth {
				for _, h := range heads {
					r.Offer(h)
				}
				r.KickIfWanted()
				for range heads {
					r.AwaitUsed()
				}
			}
		})
	}
}
