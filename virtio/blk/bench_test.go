package blk

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// loop sends requests over and over without allocating: kicks go to the eventfd as KVM's would, and the used ring is
// polled.
type loop struct {
	r     *virtiotest.Ring
	fd    int
	heads []uint16
	sent  []*virtiotest.Sent
}

func newLoop(tb testing.TB, depth int, req virtiotest.Request, l virtiotest.Layout) *loop {
	d := suite.NewDriver(tb)
	d.Start(d.Offered())
	lp := &loop{r: d.Rings[0], fd: d.Dev.NotifyFDs()[0]}
	for range depth {
		s := lp.r.Place(req, l)
		lp.sent = append(lp.sent, s)
		lp.heads = append(lp.heads, s.Head())
	}
	return lp
}

var ring = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// round has every request served once.
func (lp *loop) round() {
	for _, h := range lp.heads {
		lp.r.Offer(h)
	}
	unix.Write(lp.fd, ring)
	for range lp.heads {
		for {
			if _, _, ok := lp.r.TakeUsed(); ok {
				break
			}
			runtime.Gosched()
		}
	}
}

var benchLayouts = []struct {
	name   string
	req    virtiotest.Request
	layout virtiotest.Layout
}{
	{"read 4 KiB", virtiotest.Request{Out: ask(tIn, 8), In: 4097}, virtiotest.Layout{Table: true}},
	{"write 4 KiB", virtiotest.Request{Out: ask(tOut, 8, bytes.Repeat([]byte{9}, 4096)...), In: 1}, virtiotest.Layout{Table: true}},
	{"read 16 KiB in 32 pieces", virtiotest.Request{Out: ask(tIn, 8), In: 16385}, virtiotest.Layout{Table: true, Piece: 512}},
	{"write 16 KiB in 33 pieces", virtiotest.Request{Out: ask(tOut, 8, make([]byte, 16384)...), In: 1}, virtiotest.Layout{Table: true, Piece: 512}},
	{"id", virtiotest.Request{Out: ask(tGetID, 0), In: IDSize + 1}, virtiotest.Layout{}},
	{"discard", virtiotest.Request{Out: ask(tDiscard, 0, ranges([3]uint64{8, 8, 0})...), In: 1}, virtiotest.Layout{}},
	{"write zeroes", virtiotest.Request{Out: ask(tWriteZeroes, 0, ranges([3]uint64{8, 8, 1})...), In: 1}, virtiotest.Layout{}},
}

// No request allocates (but for what the race detector adds) once the device has seen as many as are in flight.
func TestNoAllocations(t *testing.T) {
	limit := 1.0
	if raceEnabled {
		limit = 4
	}
	for _, c := range benchLayouts {
		lp := newLoop(t, 4, c.req, c.layout)
		for range 50 {
			lp.round()
		}
		if n := virtiotest.AllocsPerRun(100, lp.round); n >= limit {
			t.Errorf("%s: %v allocations for 4 requests, want 0", c.name, n)
		}
		for _, s := range lp.sent {
			if a := s.Answer(); a[len(a)-1] != sOK {
				t.Errorf("%s: status %d", c.name, a[len(a)-1])
			}
		}
	}
}

func BenchmarkRequests(b *testing.B) {
	for _, c := range benchLayouts[:3] {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s, depth %d", c.name, depth), func(b *testing.B) {
				lp := newLoop(b, depth, c.req, c.layout)
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += depth {
					lp.round()
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
			})
		}
	}
}
