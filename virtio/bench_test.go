package virtio_test

import (
	"testing"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// BenchmarkQueue is what the ring costs per request, both sides in one goroutine: offer, pop, push, signal, take.
func BenchmarkQueue(b *testing.B) {
	for _, bb := range []struct {
		name   string
		layout virtiotest.Layout
	}{
		{"2 descriptors", virtiotest.Layout{}},
		{"8 descriptors", virtiotest.Layout{Piece: 8}},
		{"table of 8", virtiotest.Layout{Piece: 8, Table: true}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p := newPair(b, 256, allRing, 0)
			s := p.Place(virtiotest.Request{Out: make([]byte, 16), In: 48}, bb.layout)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				p.Offer(s.Head())
				c, err := p.q.Pop()
				if c == nil || err != nil {
					b.Fatalf("Pop = %v, %v", c, err)
				}
				p.q.Push(c, 1)
				p.q.Signal()
				p.TakeUsed()
			}
		})
	}
}
