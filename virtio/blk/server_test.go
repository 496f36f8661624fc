package blk

import (
	"bytes"
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// gate is a disk whose storage is slow: it does nothing without waiting, and what waits goes on when the test
// says so.
type gate struct {
	*File
	open    chan struct{}
	waiting atomic.Int32
	through atomic.Int32 // writes that had to be on stable storage
	flushes atomic.Int32
}

func (g *gate) wait(how Mode) error {
	if how&NoWait != 0 {
		return ErrWouldBlock
	}
	g.waiting.Add(1)
	<-g.open
	g.waiting.Add(-1)
	return nil
}

func (g *gate) ReadAt(v *Vector, off uint64, how Mode) error {
	if err := g.wait(how); err != nil {
		return err
	}
	return g.File.ReadAt(v, off, how)
}

func (g *gate) WriteAt(v *Vector, off uint64, how Mode) error {
	if err := g.wait(how); err != nil {
		return err
	}
	if how&Through != 0 {
		g.through.Add(1)
	}
	return g.File.WriteAt(v, off, how)
}

func (g *gate) Flush() error {
	g.flushes.Add(1)
	_ = g.wait(0)
	return g.File.Flush()
}

func newGate(t testing.TB) *gate {
	return &gate{File: openFile(t, disk(t)), open: make(chan struct{})}
}

// driver connects a driver to a disk of the given kind.
func driver(t testing.TB, cfg Config) (*virtiotest.Driver, *Device) {
	t.Helper()
	dev, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := suite
	s.New = func(testing.TB) virtio.Device { return dev }
	return s.NewDriver(t), dev
}

// eventually waits for something that another goroutine does.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(virtiotest.Patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come to this: %s", what)
		}
	}
}

var readTwo = virtiotest.Request{Name: "read", Out: ask(tIn, 1), In: len(two) + 1, Check: answers(sOK, two)}

// TestManyQueuesOverAnOverlay is the whole suite on another kind of disk.
func TestManyQueuesOverAnOverlay(t *testing.T) {
	s := suite
	s.New = func(t testing.TB) virtio.Device {
		d, err := New(Config{Backend: overlay(t, openFile(t, disk(t))), ID: "hull-disk", Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	s.Requests = nil
	for q := range 2 {
		for _, r := range suite.Requests {
			r.Queue = q
			s.Requests = append(s.Requests, r)
		}
	}
	virtiotest.Run(t, s)
}

// TestSlowStorage is the suite on a disk where everything goes through the pool.
func TestSlowStorage(t *testing.T) {
	s := suite
	s.New = func(t testing.TB) virtio.Device {
		g := newGate(t)
		close(g.open)
		d, err := New(Config{Backend: g, ID: "hull-disk"})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	virtiotest.Run(t, s)
}

// TestWhatWaitsHoldsNobodyUp: a request that needs no storage overtakes those that wait, which all come back in
// the end.
func TestWhatWaitsHoldsNobodyUp(t *testing.T) {
	g := newGate(t)
	d, _ := driver(t, Config{Backend: g})
	d.Start(d.Offered())
	r := d.Rings[0]
	sent := map[uint32]*virtiotest.Sent{}
	place := func(req virtiotest.Request) {
		s := r.Place(req, virtiotest.Layout{Table: true})
		sent[uint32(s.Head())] = s
		r.Offer(s.Head())
	}
	for range poolSize + 20 {
		place(readTwo)
	}
	place(virtiotest.Request{Name: "flush", Out: ask(tFlush, 0), In: 1, Check: answers(sOK, nil)})
	r.Kick()
	eventually(t, "as many requests wait for the storage as there may", func() bool { return g.waiting.Load() == poolSize })
	id := r.Place(virtiotest.Request{Name: "id", Out: ask(tGetID, 0), In: IDSize + 1, Check: answers(sOK, nil)}, virtiotest.Layout{})
	r.Offer(id.Head())
	r.Kick()
	head, n := r.AwaitUsed()
	id.Finish(head, n)
	close(g.open)
	for range len(sent) {
		head, n := r.AwaitUsed()
		s, ok := sent[head]
		if !ok {
			t.Fatalf("chain %d came back, which is not in flight", head)
		}
		delete(sent, head)
		s.Finish(head, n)
	}
}

// TestResetWaitsForWhatIsInFlight (26): when a reset has happened, no buffer is touched any more.
func TestResetWaitsForWhatIsInFlight(t *testing.T) {
	g := newGate(t)
	d, _ := driver(t, Config{Backend: g})
	d.Start(d.Offered())
	r := d.Rings[0]
	for range 5 {
		r.Offer(r.Place(readTwo, virtiotest.Layout{}).Head())
	}
	r.Kick()
	eventually(t, "all wait for the storage", func() bool { return g.waiting.Load() == 5 })
	var reset atomic.Bool
	done := make(chan struct{})
	go func() {
		d.Write(virtiotest.RegStatus, 0)
		reset.Store(true)
		close(done)
	}()
	time.Sleep(20 * time.Millisecond) // for a reset that does not wait to be seen
	if reset.Load() {
		t.Error("the reset did not wait")
	}
	close(g.open)
	<-done
	if g.waiting.Load() != 0 {
		t.Error("requests are in flight after the reset")
	}
	d.Start(d.Offered())
	d.Rings[0].Exchange(readTwo, virtiotest.Layout{})
}

// TestLimits: the rate is kept, and a pause in the midst of a wait neither waits nor loses the request.
func TestLimits(t *testing.T) {
	cfg := Config{Backend: openFile(t, disk(t))}
	cfg.Limits.ReadOps = virtio.Rate{PerSecond: 100, Burst: 1}
	d, _ := driver(t, cfg)
	d.Start(d.Offered())
	begin := time.Now()
	for range 21 {
		d.Rings[0].Exchange(readTwo, virtiotest.Layout{Table: true})
	}
	if took := time.Since(begin); took < 190*time.Millisecond {
		t.Errorf("21 reads at 100 a second took %v", took)
	}

	cfg.Limits = Limits{WriteBytes: virtio.Rate{PerSecond: 10 * SectorSize, Burst: SectorSize}}
	d, _ = driver(t, cfg)
	d.Start(d.Offered())
	r := d.Rings[0]
	write := virtiotest.Request{Name: "write", Out: ask(tOut, 8, make([]byte, SectorSize)...), In: 1, Check: answers(sOK, nil)}
	begin = time.Now()
	r.Exchange(write, virtiotest.Layout{})
	r.Exchange(readTwo, virtiotest.Layout{}) // has no limit
	s := r.Place(write, virtiotest.Layout{})
	r.Offer(s.Head())
	r.Kick()
	for range 3 {
		if err := d.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := d.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	head, n := r.AwaitUsed()
	s.Finish(head, n)
	if took := time.Since(begin); took < 50*time.Millisecond {
		t.Errorf("a write of a tenth of a second took %v", took)
	}
	if _, err := New(Config{Backend: cfg.Backend, Limits: Limits{ReadOps: virtio.Rate{Burst: 1}}}); err == nil {
		t.Error("a burst without a rate")
	}
}

// TestLimitedRequestsDoNotHoldBackWhatIsDone: what comes out of the pool is returned while the next request
// waits for its turn.
func TestLimitedRequestsDoNotHoldBackWhatIsDone(t *testing.T) {
	g := newGate(t)
	cfg := Config{Backend: g}
	cfg.Limits.ReadOps = virtio.Rate{PerSecond: 1, Interval: 1 << 40, Burst: 1} // there is no second
	d, _ := driver(t, cfg)
	d.Start(d.Offered())
	r := d.Rings[0]
	for range 2 {
		r.Offer(r.Place(readTwo, virtiotest.Layout{}).Head())
	}
	r.Kick()
	eventually(t, "the first waits for the storage", func() bool { return g.waiting.Load() == 1 })
	close(g.open)
	r.AwaitUsed()
	d.Write(virtiotest.RegStatus, 0) // and the second is not waited for
}

const cfgWriteback = 32

// TestWriteCache is 5.2.5.2 and 5.2.6.2: with the cache off, or without FLUSH, a completed write is stable.
func TestWriteCache(t *testing.T) {
	g := newGate(t)
	close(g.open)
	d, _ := driver(t, Config{Backend: g})
	write := virtiotest.Request{Name: "write", Out: ask(tOut, 8, two...), In: 1, Check: answers(sOK, nil)}
	stable := func(features uint64, set int) bool {
		t.Helper()
		d.Start(features)
		if set >= 0 {
			d.Dev.Write(virtiotest.RegConfig+cfgWriteback, []byte{byte(set)})
		}
		before := g.through.Load()
		d.Rings[0].Exchange(write, virtiotest.Layout{})
		through := g.through.Load() != before
		if on := d.Config(cfgWriteback, 1)[0]; (on == 0) != through {
			t.Errorf("features %#x: writeback reads %d, writes go through: %v", features, on, through)
		}
		return through
	}
	all := d.Offered()
	if all&(1<<fConfigWCE) == 0 || all&(1<<fFlush) == 0 {
		t.Fatalf("features %#x", all)
	}
	for _, c := range []struct {
		features uint64
		set      int
		stable   bool
	}{
		{all, -1, false}, {all, 0, true}, {all, 1, false}, {all, 2, false},
		{all &^ (1 << fConfigWCE), -1, false}, {all &^ (1 << fFlush), -1, true},
		{all &^ (1<<fFlush | 1<<fConfigWCE), -1, true}, {all, -1, false},
	} {
		if got := stable(c.features, c.set); got != c.stable {
			t.Errorf("features %#x, writeback set to %d: writes stable %v, want %v", c.features, c.set, got, c.stable)
		}
	}
	// It is the only byte that can be written.
	before := d.Config(0, configSize)
	for off := range uint64(configSize) {
		for _, n := range []int{1, 2, 4, 8} {
			if off != cfgWriteback || n != 1 {
				d.Dev.Write(virtiotest.RegConfig+off, bytes.Repeat([]byte{0}, n))
			}
		}
	}
	if after := d.Config(0, configSize); !bytes.Equal(before, after) {
		t.Error("the configuration was changed")
	}
}

// TestUnsafe: a disk whose driver has no way of making writes stable makes none so, whatever the driver says.
func TestUnsafe(t *testing.T) {
	g := newGate(t)
	close(g.open)
	d, dev := driver(t, Config{Backend: g, Unsafe: true})
	if d.Offered()&(1<<fFlush|1<<fConfigWCE) != 0 {
		t.Errorf("features %#x", d.Offered())
	}
	d.Start(d.Offered())
	d.Dev.Write(virtiotest.RegConfig+cfgWriteback, []byte{0})
	for _, r := range []virtiotest.Request{
		{Name: "write", Out: ask(tOut, 8, two...), In: 1, Check: answers(sOK, nil)},
		{Name: "flush", Out: ask(tFlush, 0), In: 1, Check: answers(sOK, nil)},
		{Name: "write zeroes", Out: ask(tWriteZeroes, 0, ranges([3]uint64{16, 8, 0})...), In: 1, Check: answers(sOK, nil)},
	} {
		d.Rings[0].Exchange(r, virtiotest.Layout{})
	}
	if through, flushes := g.through.Load(), g.flushes.Load(); through != 0 || flushes != 0 {
		t.Errorf("%d writes went through, %d flushes", through, flushes)
	}
	// Nor does one that goes on from a snapshot in which it was another disk.
	if err := dev.RestoreState([]byte{stateVersion, 0}); err != nil || !dev.writeBack.Load() {
		t.Errorf("restored: %v", err)
	}
}

func capacity(d *virtiotest.Driver) uint64 { return binary.LittleEndian.Uint64(d.Config(0, 8)) }

// TestResize: the driver hears of the new capacity, and what is past it is refused.
func TestResize(t *testing.T) {
	f := disk(t)
	b := openFile(t, f)
	d, dev := driver(t, Config{Backend: b})
	d.Start(d.Offered())
	past := virtiotest.Request{Name: "read", Out: ask(tIn, diskSectors), In: SectorSize + 1}
	for _, c := range []struct {
		sectors int64
		status  byte
	}{{diskSectors, sIOErr}, {2 * diskSectors, sOK}, {diskSectors / 2, sIOErr}} {
		generation, edges := d.Read(virtiotest.RegConfigGeneration), d.Line.Edges()
		changed := capacity(d) != uint64(c.sectors)
		if err := f.Truncate(c.sectors * SectorSize); err != nil {
			t.Fatal(err)
		}
		if err := b.Refresh(); err != nil {
			t.Fatal(err)
		}
		if err := dev.Resize(); err != nil {
			t.Fatal(err)
		}
		if got := capacity(d); got != uint64(c.sectors) {
			t.Errorf("%d sectors, want %d", got, c.sectors)
		}
		told := d.Read(virtiotest.RegConfigGeneration) != generation && d.Line.Edges() != edges &&
			d.Read(virtiotest.RegInterruptStatus)&2 != 0
		if told != changed {
			t.Errorf("%d sectors: the driver was told: %v, want %v", c.sectors, told, changed)
		}
		d.Write(virtiotest.RegInterruptACK, 3)
		past.Check = answers(c.status, nil)
		d.Rings[0].Exchange(past, virtiotest.Layout{Table: true})
	}
	if err := os.Truncate(f.Name(), 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Refresh(); err == nil {
		t.Error("a disk of nothing")
	}
}

// TestReplace puts another disk under a driver that does not stop asking.
func TestReplace(t *testing.T) {
	first, second := openFile(t, disk(t)), openFile(t, disk(t))
	if _, err := second.f.WriteAt(make([]byte, len(two)), SectorSize); err != nil {
		t.Fatal(err)
	}
	d, dev := driver(t, Config{Backend: first})
	d.Start(d.Offered())
	var replaced atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20 {
			b := first
			if i%2 == 1 {
				b = second
			}
			if err := dev.Replace(b); err != nil {
				t.Error(err)
			}
		}
		replaced.Store(true)
	})
	r := d.Rings[0]
	s := r.Place(virtiotest.Request{Name: "read", Out: ask(tIn, 1), In: len(two) + 1}, virtiotest.Layout{})
	for last := false; ; last = replaced.Load() {
		s.Again()
		r.Offer(s.Head())
		r.Kick()
		s.Finish(r.AwaitUsed())
		got := s.Answer()[:len(two)]
		if zero := bytes.Equal(got, make([]byte, len(two))); last && !zero || !zero && !bytes.Equal(got, two) {
			t.Fatalf("% x…, last: %v", got[:8], last)
		}
		if last {
			break
		}
	}
	wg.Wait()
	if err := dev.Replace(empty{first}); err == nil {
		t.Error("a disk of nothing")
	}
	if err := dev.Replace(coarse{first}); err == nil {
		t.Error("a disk of larger blocks than the driver knows of")
	}
}

type empty struct{ *File }

func (empty) Size() uint64 { return 0 }

type coarse struct{ *File }

func (coarse) BlockSize() int { return maxBlockSize }

// TestPoolDoesNotAllocate is TestNoAllocations for requests that wait.
func TestPoolDoesNotAllocate(t *testing.T) {
	g := newGate(t)
	close(g.open)
	old := suite.New
	defer func() { suite.New = old }()
	suite.New = func(t testing.TB) virtio.Device {
		d, err := New(Config{Backend: g})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	lp := newLoop(t, 8, benchLayouts[0].req, benchLayouts[0].layout)
	for range 300 {
		lp.round()
	}
	limit := 1.0
	if raceEnabled {
		limit = 8
	}
	if n := virtiotest.AllocsPerRun(100, lp.round); n >= limit {
		t.Errorf("%v allocations for 8 requests, want 0", n)
	}
}

// TestLimitsTogether: reads and writes share a limit, which can be changed while requests wait for it, and what was done is counted.
func TestLimitsTogether(t *testing.T) {
	never := virtio.Rate{PerSecond: 1, Interval: 1 << 40, Burst: 1}
	cfg := Config{Backend: openFile(t, disk(t)), Limits: Limits{Ops: never}}
	d, dev := driver(t, cfg)
	d.Start(d.Offered())
	r := d.Rings[0]
	r.Exchange(readTwo, virtiotest.Layout{})
	write := virtiotest.Request{Name: "write", Out: ask(tOut, 8, make([]byte, SectorSize)...), In: 1, Check: answers(sOK, nil)}
	s := r.Place(write, virtiotest.Layout{})
	r.Offer(s.Head())
	r.Kick()
	if err := dev.SetLimits(Limits{ReadOps: never, WriteOps: virtio.Rate{PerSecond: 1000}}); err != nil {
		t.Fatal(err)
	}
	head, n := r.AwaitUsed()
	s.Finish(head, n)
	r.Exchange(virtiotest.Request{Name: "flush", Out: ask(tFlush, 0), In: 1, Check: answers(sOK, nil)}, virtiotest.Layout{})
	r.Exchange(virtiotest.Request{Name: "beyond", Out: ask(tOut, 1<<40, make([]byte, SectorSize)...), In: 1, Check: answers(sIOErr, nil)}, virtiotest.Layout{})
	want := Counters{Reads: 1, ReadBytes: uint64(len(two)), Writes: 1, WriteBytes: SectorSize, Flushes: 1, Failed: 1}
	if got := dev.Counters(); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	for name, l := range map[string]Limits{
		"together and alone":   {Ops: never, ReadOps: never},
		"bytes, both ways":     {Bytes: never, WriteBytes: never},
		"a burst without rate": {Bytes: virtio.Rate{Burst: 1}},
	} {
		if dev.SetLimits(l) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
