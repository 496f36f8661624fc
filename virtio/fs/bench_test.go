package fs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/virtiotest"
	"github.com/hullvm/hull/vmm/share"
)

// again sends a request over and over without allocating: kicks go to the eventfd as KVM's would, and the used ring is
// polled.
type again struct {
	r    *virtiotest.Ring
	fd   int
	sent *virtiotest.Sent
}

func (a *again) send() {
	a.r.Offer(a.sent.Head())
	unix.Write(a.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	for {
		if _, _, ok := a.r.TakeUsed(); ok {
			return
		}
		runtime.Gosched()
	}
}

type benchmark struct {
	name    string
	request func(file uint64, handle uint32) []byte
	answer  int
	allocs  float64 // at most
}

func benchmarks() []benchmark {
	return []benchmark{
		{"read 4 KiB", func(f uint64, h uint32) []byte { return request(read, f, transfer(h, 0, 4096), "") }, 4096, 6},
		{"read 1 MiB", func(f uint64, h uint32) []byte { return request(read, f, transfer(h, 0, 1<<20), "") }, 1 << 20, 18},
		{"write 4 KiB", func(f uint64, h uint32) []byte {
			return request(write, f, transfer(h, 0, 4096), string(make([]byte, 4096)))
		}, 8, 4},
		{"getattr", func(f uint64, _ uint32) []byte { return request(getattr, f, make([]uint32, 4), "") }, 104, 3},
		{"lookup", func(uint64, uint32) []byte { return request(lookup, 1, nil, "file\x00") }, 128, 5},
	}
}

// start has a guest that is ready to send. The buffers lie in pages, as those of Linux do.
func (b benchmark) start(t testing.TB) *again {
	dir := shared(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), bytes.Repeat([]byte{7}, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	g := mount(t, device(t, dir, share.Config{}))
	file := g.lookup(1, "file")
	h := g.open(open, file, syscall.O_RDWR)
	g.drv.Mem.Rewind(g.mark)
	r := g.drv.Rings[requests]
	sent := r.Place(virtiotest.Request{Queue: requests, Out: b.request(file, h), In: 16 + b.answer}, virtiotest.Layout{Table: true, Piece: 4096})
	a := &again{r: r, fd: g.drv.Dev.NotifyFDs()[requests], sent: sent}
	a.send()
	answered(t, sent.Answer(), 16+b.answer, 0)
	return a
}

func BenchmarkRequests(b *testing.B) {
	for _, c := range benchmarks() {
		b.Run(c.name, func(b *testing.B) {
			a := c.start(b)
			b.ReportAllocs()
			b.SetBytes(int64(c.answer))
			for b.Loop() {
				a.send()
			}
		})
	}
}

// What a request allocates is go-fuse's: the request itself and its channel, and for long transfers lists of pieces. The
// bound is to notice when that becomes more.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, c := range benchmarks() {
		a := c.start(t)
		if n := virtiotest.AllocsPerRun(200, a.send); n > c.allocs {
			t.Errorf("%s: %v allocations, at most %v are expected", c.name, n, c.allocs)
		}
	}
}
