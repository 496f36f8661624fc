package virtio_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const allRing = 1<<virtio.F_INDIRECT_DESC | 1<<virtio.F_EVENT_IDX | 1<<virtio.F_VERSION_1

// interrupts counts what a queue sends.
type interrupts struct{ queue, config, reset int }

func (i *interrupts) Queue(int)        { i.queue++ }
func (i *interrupts) Config()          { i.config++ }
func (i *interrupts) NeedsReset(error) { i.reset++ }

// pair is both ends of a queue.
type pair struct {
	*virtiotest.Ring
	q   *virtio.Queue
	irq *interrupts
	mem *virtiotest.Memory
}

func newPair(t testing.TB, size uint16, features uint64, position uint16) *pair {
	t.Helper()
	p := &pair{irq: &interrupts{}, mem: virtiotest.NewMemory()}
	p.Ring = virtiotest.NewRing(t, p.mem, size)
	p.SetPositions(position)
	q, err := virtio.NewQueue(0, p.state(position), features, p.mem, p.irq, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.q = q
	return p
}

func (p *pair) state(position uint16) virtio.QueueState {
	return virtio.QueueState{
		Size: p.Size, Ready: true, Desc: p.Desc, Avail: p.Avail, Used: p.Used, NextAvail: position, NextUsed: position,
	}
}

func (p *pair) pop(t testing.TB) *virtio.Chain {
	t.Helper()
	c, err := p.q.Pop()
	if err != nil || c == nil {
		t.Fatalf("Pop = %v, %v", c, err)
	}
	return c
}

var echo = virtiotest.Request{Name: "echo", Out: []byte("some bytes to read"), In: 40}

// The free-running positions wrap at 2^16, and so do the comparisons of EVENT_IDX.
func TestPositionsWrap(t *testing.T) {
	for _, features := range []uint64{0, allRing} {
		p := newPair(t, 8, features, 0xfff5)
		for i := range 40 {
			s := p.Place(echo, virtiotest.Layout{Piece: 20})
			p.Offer(s.Head())
			c := p.pop(t)
			p.q.Push(c, 7)
			p.SetUsedEvent(p.q.State().NextUsed - 1)
			before := p.irq.queue
			p.q.Signal()
			if p.irq.queue != before+1 {
				t.Fatalf("no interrupt at entry %d", i)
			}
			if id, n, ok := p.TakeUsed(); !ok || id != uint32(s.Head()) || n != 7 {
				t.Fatalf("used entry %d = %d, %d, %v", i, id, n, ok)
			}
			s.Free()
		}
		want := uint16(0xfff5)
		want += 40
		if s := p.q.State(); s.NextAvail != want || s.NextUsed != want {
			t.Errorf("positions = %d, %d, want %d", s.NextAvail, s.NextUsed, want)
		}
	}
}

func TestEmptyQueue(t *testing.T) {
	p := newPair(t, 8, allRing, 0)
	if c, err := p.q.Pop(); c != nil || err != nil {
		t.Errorf("Pop of an empty queue = %v, %v", c, err)
	}
	if p.q.EnableNotify() {
		t.Error("EnableNotify found something in an empty queue")
	}
	p.q.Signal()
	if p.irq.queue != 0 {
		t.Error("Signal without entries sent an interrupt")
	}
	p.Offer(p.Place(echo, virtiotest.Layout{}).Head())
	if !p.q.EnableNotify() {
		t.Error("EnableNotify did not see what had come")
	}
}

func TestUnpop(t *testing.T) {
	p := newPair(t, 8, allRing, 0)
	s := p.Place(echo, virtiotest.Layout{})
	p.Offer(s.Head())
	p.q.Unpop(p.pop(t))
	if p.q.InFlight() != 0 {
		t.Errorf("%d in flight", p.q.InFlight())
	}
	c := p.pop(t)
	got := make([]byte, 100)
	if n := c.Readable.Read(got); !bytes.Equal(got[:n], echo.Out) {
		t.Errorf("read %q, want %q", got[:n], echo.Out)
	}
	p.q.Push(c, 0)
}

func TestAddIsNotVisibleBeforePublish(t *testing.T) {
	p := newPair(t, 8, allRing, 0)
	for range 3 {
		p.Offer(p.Place(echo, virtiotest.Layout{Table: true}).Head())
	}
	for range 3 {
		p.q.Add(p.pop(t), 1)
	}
	p.q.Signal()
	if p.UsedIdx() != 0 || p.irq.queue != 0 {
		t.Fatalf("used.idx = %d, %d interrupts before Publish", p.UsedIdx(), p.irq.queue)
	}
	p.q.Publish()
	p.q.Signal()
	p.q.Signal()
	if p.UsedIdx() != 3 || p.irq.queue != 1 {
		t.Errorf("used.idx = %d, %d interrupts after Publish, want 3 and 1", p.UsedIdx(), p.irq.queue)
	}
}

func TestUsedLengthIsBounded(t *testing.T) {
	p := newPair(t, 8, allRing, 0)
	for _, tt := range []struct{ push, want int }{{-1, 0}, {41, 40}, {1 << 40, 40}, {40, 40}} {
		s := p.Place(echo, virtiotest.Layout{Piece: 20})
		p.Offer(s.Head())
		c := p.pop(t)
		c.Writable.Skip(13)
		p.q.Push(c, tt.push)
		if _, n, _ := p.TakeUsed(); int(n) != tt.want {
			t.Errorf("Push(%d) wrote %d, want %d", tt.push, n, tt.want)
		}
		s.Free()
	}
}

// All errors are for good, name the queue and wrap what went wrong.
func TestErrors(t *testing.T) {
	d := func(addr uint64, n uint32, flags, next uint16) virtiotest.Desc {
		return virtiotest.Desc{Addr: addr, Len: n, Flags: flags, Next: next}
	}
	const ram = 0x180000
	tests := []struct {
		name  string
		descs []virtiotest.Desc
		do    func(p *pair)
		want  error
	}{
		{"outside", []virtiotest.Desc{d(1<<40, 1, 0, 0)}, nil, virtio.ErrMemory},
		{"outside wraps the cause", []virtiotest.Desc{d(1<<40, 1, 0, 0)}, nil, virtiotest.ErrNotRAM},
		{"loop", []virtiotest.Desc{d(ram, 1, virtiotest.Next, 0)}, nil, virtio.ErrChainLoop},
		{"next", []virtiotest.Desc{d(ram, 1, virtiotest.Next, 8)}, nil, virtio.ErrDescIndex},
		{"table", []virtiotest.Desc{d(ram, 17, virtiotest.Indirect, 0)}, nil, virtio.ErrIndirect},
		{"direction", []virtiotest.Desc{d(ram, 1, virtiotest.Next|virtiotest.WriteTo, 1), d(ram, 1, 0, 0)}, nil, virtio.ErrDirection},
		{"too long", []virtiotest.Desc{d(1<<32, 1<<20, virtiotest.Next, 1), d(ram, 1<<32-1, 0, 0)}, nil, virtio.ErrChainLong},
		{"index", nil, func(p *pair) { p.SetAvailIdx(9) }, virtio.ErrAvailIndex},
		{"head", nil, func(p *pair) { p.Offer(8) }, virtio.ErrDescIndex},
		{"in flight", nil, func(p *pair) {
			p.SetDesc(1, d(ram, 1, 0, 0))
			p.Offer(1)
			p.Offer(1)
			if _, err := p.q.Pop(); err != nil {
				panic(err)
			}
		}, virtio.ErrInFlight},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, 8, allRing, 0)
			for i, desc := range tt.descs {
				p.SetDesc(uint16(i), desc)
			}
			if tt.do != nil {
				tt.do(p)
			} else {
				p.Offer(0)
			}
			c, err := p.q.Pop()
			if c != nil || !errors.Is(err, tt.want) {
				t.Fatalf("Pop = %v, %v, want %v", c, err, tt.want)
			}
			var qe *virtio.QueueError
			if !errors.As(err, &qe) || qe.Queue != 0 {
				t.Errorf("error %v does not name the queue", err)
			}
			if _, again := p.q.Pop(); again != err {
				t.Errorf("second Pop = %v, want the same error", again)
			}
			if p.q.EnableNotify() || p.q.Err() != err {
				t.Error("a broken queue goes on")
			}
		})
	}
}

func TestLongestChain(t *testing.T) {
	const table = 0x100000
	p := newPair(t, 8, allRing, 0)
	tr := &virtiotest.Ring{}
	*tr = *p.Ring
	tr.Desc = table
	for i := range uint16(virtio.MaxPieces) {
		tr.SetDesc(i, virtiotest.Desc{Addr: 0x180000, Len: 3, Flags: virtiotest.Next, Next: i + 1})
	}
	tr.SetDesc(virtio.MaxPieces-1, virtiotest.Desc{Addr: 0x180000, Len: 3})
	p.SetDesc(0, virtiotest.Desc{Addr: table, Len: 16 * virtio.MaxPieces, Flags: virtiotest.Indirect})
	p.Offer(0)
	if c := p.pop(t); c.Readable.Len() != 3*virtio.MaxPieces || len(c.Readable.Pieces()) != virtio.MaxPieces {
		t.Errorf("%d bytes in %d pieces", c.Readable.Len(), len(c.Readable.Pieces()))
	}
}

func TestStateIsNotTrusted(t *testing.T) {
	p := newPair(t, 8, allRing, 0)
	good := p.state(12)
	if _, err := virtio.NewQueue(0, good, allRing, p.mem, p.irq, nil); err != nil {
		t.Fatalf("good state refused: %v", err)
	}
	for _, tt := range []struct {
		name   string
		change func(*virtio.QueueState)
		want   error
	}{
		{"size 0", func(s *virtio.QueueState) { s.Size = 0 }, virtio.ErrQueueSize},
		{"size 6", func(s *virtio.QueueState) { s.Size = 6 }, virtio.ErrQueueSize},
		{"size 65535", func(s *virtio.QueueState) { s.Size = 65535 }, virtio.ErrQueueSize},
		{"descriptors misaligned", func(s *virtio.QueueState) { s.Desc += 8 }, virtio.ErrAlignment},
		{"available ring misaligned", func(s *virtio.QueueState) { s.Avail++ }, virtio.ErrAlignment},
		{"used ring misaligned", func(s *virtio.QueueState) { s.Used += 2 }, virtio.ErrAlignment},
		{"descriptors outside", func(s *virtio.QueueState) { s.Desc = 1 << 40 }, virtio.ErrMemory},
		{"available ring outside", func(s *virtio.QueueState) { s.Avail = ^uint64(1) }, virtio.ErrMemory},
		{"used ring outside", func(s *virtio.QueueState) { s.Used = 0xd0000000 }, virtio.ErrMemory},
		{"chains in flight", func(s *virtio.QueueState) { s.NextUsed-- }, virtio.ErrState},
	} {
		s := good
		tt.change(&s)
		if _, err := virtio.NewQueue(0, s, allRing, p.mem, p.irq, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// crookedMemory gives slices that are not aligned in the host as in the guest, or too short.
type crookedMemory struct {
	*virtiotest.Memory
	shift, cut int
}

func (m crookedMemory) Slice(gpa uint64, n int) ([]byte, error) {
	p, err := m.Memory.Slice(gpa, n+m.shift)
	if err != nil {
		return nil, err
	}
	return p[m.shift : len(p)-m.cut], nil
}

func TestHostMemoryIsChecked(t *testing.T) {
	p := newPair(t, 8, allRing, 0)
	for _, m := range []crookedMemory{{p.mem, 1, 0}, {p.mem, 2, 0}, {p.mem, 0, 1}} {
		if _, err := virtio.NewQueue(0, p.state(0), allRing, m, p.irq, nil); err == nil {
			t.Errorf("a queue over memory shifted by %d and cut by %d was made", m.shift, m.cut)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	for _, l := range []virtiotest.Layout{{Piece: 5}, {Piece: 5, Table: true}} {
		p := newPair(t, 64, allRing, 0)
		s := p.Place(echo, l)
		buf := make([]byte, 64)
		once := func() {
			p.Offer(s.Head())
			c, err := p.q.Pop()
			if err != nil || c == nil {
				panic(fmt.Sprint("Pop: ", err))
			}
			n := c.Readable.Read(buf)
			c.Writable.Write(buf[:n])
			p.q.Push(c, n)
			p.q.Signal()
			p.q.EnableNotify()
			p.q.DisableNotify()
			p.TakeUsed()
		}
		if n := testing.AllocsPerRun(200, once); n != 0 {
			t.Errorf("%v allocations per request, want 0", n)
		}
	}
}

// FuzzQueue serves a queue over memory of random content. Whatever is in it, the queue comes to an end, and hands out
// nothing but RAM.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{4, 1, 1}, uint64(1))
	f.Add([]byte{0, 0, 0xff, 3}, uint64(2))
	f.Add([]byte{1, 3, 0, 0x10, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 4, 0, 0, 0}, uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		if len(b) < 2 {
			return
		}
		const ram = 0x4000
		mem := &virtiotest.Memory{Regions: []virtiotest.Region{{Base: 0, Bytes: make([]byte, ram)}}}
		// The script, and then numbers that are small more often than not.
		rng := rand.New(rand.NewPCG(seed, 1))
		all := mem.Regions[0].Bytes
		for i := range all {
			switch rng.IntN(4) {
			case 0:
				all[i] = byte(rng.Uint32() & 7)
			case 1:
				all[i] = byte(rng.Uint32())
			}
		}
		copy(all, b[2:])
		state := virtio.QueueState{Size: 1 << (b[0] % 8), Desc: 0, Avail: 0x1000, Used: 0x2000}
		if b[0]&0x80 != 0 {
			state.Avail, state.Used = 0x10, 0x20 // rings over each other
		}
		features := uint64(b[1]) << 28 & allRing
		q, err := virtio.NewQueue(0, state, features, mem, &interrupts{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 1 << 17 {
			c, err := q.Pop()
			if c == nil || err != nil {
				q.EnableNotify()
				return
			}
			if int(c.Head()) >= q.Size() {
				t.Fatalf("head %d in a queue of %d", c.Head(), q.Size())
			}
			for _, b := range []*virtio.Buffers{&c.Readable, &c.Writable} {
				n := 0
				for _, p := range b.Pieces() {
					n += len(p)
				}
				if n != b.Len() || n > ram*virtio.MaxPieces {
					t.Fatalf("%d bytes in pieces, Len is %d", n, b.Len())
				}
			}
			n := c.Writable.Write([]byte("answer"))
			q.Push(c, n)
			q.Signal()
			if q.InFlight() != 0 {
				t.Fatalf("%d in flight after Push", q.InFlight())
			}
		}
	})
}
