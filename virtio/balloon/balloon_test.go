package balloon

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
	return mmio.New(dev, mem, irq, mmio.Options{})
}

// host counts what it is given back.
type host struct {
	mu    sync.Mutex
	calls int
	bytes int
}

func (h *host) discard(p []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	h.bytes += len(p)
	return nil
}

func (h *host) given() (calls, bytes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls, h.bytes
}

func device(t testing.TB, h *host) *Device {
	t.Helper()
	d, err := New(Config{Discard: h.discard})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// pages is what the driver puts on the inflate or deflate queue.
func pages(numbers ...uint32) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func nothing(t testing.TB, in []byte, written int) {
	t.Helper()
	if written != 0 {
		t.Errorf("%d bytes written, want none", written)
	}
	for i, v := range in {
		if v != virtiotest.Untouched {
			t.Fatalf("byte %d was written", i)
		}
	}
}

var suite = virtiotest.Suite{
	New:       func(t testing.TB) virtio.Device { return device(t, &host{}) },
	Connect:   connect,
	ConfigLen: configLen,
	Requests: []virtiotest.Request{
		{Name: "inflate", Queue: inflateQueue, Out: pages(3, 4, 5, 9, 8, 7), Check: nothing},
		{Name: "inflate by nothing", Queue: inflateQueue, Out: []byte{1, 2, 3}, Check: nothing},
		{Name: "deflate", Queue: deflateQueue, Out: pages(3, 4, 5, 9), Check: nothing},
		{Name: "report as Linux does", Queue: hintQueue, In: 8192, Needs: 1 << F_REPORTING, Check: nothing},
		{Name: "report by the standard", Queue: reportingQueue, In: 4096, Needs: 1 << F_REPORTING, Check: nothing},
	},
}

func TestSuite(t *testing.T)     { virtiotest.Run(t, suite) }
func FuzzRing(f *testing.F)      { suite.FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite.FuzzRegisters(f) }

// start makes a device with a driver that uses it.
func start(t *testing.T, features uint64) (*Device, *host, *virtiotest.Driver) {
	t.Helper()
	h := &host{}
	dev := device(t, h)
	s := suite
	s.New = func(testing.TB) virtio.Device { return dev }
	d := s.NewDriver(t)
	d.Start(features)
	return dev, h, d
}

func TestInflate(t *testing.T) {
	for name, c := range map[string]struct {
		pages        []uint32
		calls, bytes int
	}{
		"upwards":           {[]uint32{3, 4, 5}, 1, 3 * PageSize},
		"downwards":         {[]uint32{9, 8, 7}, 1, 3 * PageSize},
		"apart":             {[]uint32{3, 5, 9}, 3, 3 * PageSize},
		"twice the same":    {[]uint32{3, 3}, 2, 2 * PageSize},
		"end of RAM":        {[]uint32{0x1ff, 0x100000}, 2, 2 * PageSize},
		"across 256 at one": {sequence(16, 400), 1, 400 * PageSize},
	} {
		t.Run(name, func(t *testing.T) {
			_, h, d := start(t, d0())
			d.Rings[inflateQueue].Exchange(virtiotest.Request{Out: pages(c.pages...), Check: nothing}, virtiotest.Layout{})
			if calls, bytes := h.given(); calls != c.calls || bytes != c.bytes {
				t.Errorf("%d bytes given back in %d calls, want %d in %d", bytes, calls, c.bytes, c.calls)
			}
		})
	}
}

// d0 are the features that every test wants.
func d0() uint64 { return (&Device{}).Features() | 1<<virtio.F_VERSION_1 }

func sequence(first uint32, n int) []uint32 {
	var list []uint32
	for i := range n {
		list = append(list, first+uint32(i))
	}
	return list
}

// TestForeignPages puts pages into the balloon that are not the guest's.
func TestForeignPages(t *testing.T) {
	for name, page := range map[string]uint32{"hole": 0x300, "device registers": 0xd0000, "past 4 GiB of pages": 0xffffffff} {
		t.Run(name, func(t *testing.T) {
			_, h, d := start(t, d0())
			r := d.Rings[inflateQueue]
			r.Offer(r.Place(virtiotest.Request{Out: pages(page), Check: nothing}, virtiotest.Layout{}).Head())
			r.Kick()
			d.AwaitNeedsReset()
			if calls, _ := h.given(); calls != 0 {
				t.Errorf("%d times memory given back that is not the guest's", calls)
			}
		})
	}
}

func TestFreePages(t *testing.T) {
	_, h, d := start(t, d0())
	d.Rings[hintQueue].Exchange(virtiotest.Request{In: 3 * PageSize, Check: nothing}, virtiotest.Layout{})
	if _, bytes := h.given(); bytes != 3*PageSize {
		t.Errorf("%d bytes given back, want %d", bytes, 3*PageSize)
	}
}

func TestTarget(t *testing.T) {
	dev, _, d := start(t, d0())
	before := d.Read(virtiotest.RegConfigGeneration)
	dev.SetTarget(5*PageSize + 1)
	if got := binary.LittleEndian.Uint32(d.Config(0, 4)); got != 5 {
		t.Errorf("num_pages %d, want 5", got)
	}
	if d.Read(virtiotest.RegConfigGeneration) == before {
		t.Error("the configuration has changed and its generation has not")
	}
	d.Write(virtiotest.RegConfig+configActual, 4)
	if got := dev.Actual(); got != 4*PageSize {
		t.Errorf("%d bytes in the balloon, want 4 pages", got)
	}
	d.Write(virtiotest.RegConfig, 77) // not the driver's to write
	if got := binary.LittleEndian.Uint32(d.Config(0, 4)); got != 5 {
		t.Errorf("num_pages %d after the driver wrote it, want 5", got)
	}
	d.Reset()
	if got := dev.Actual(); got != 0 {
		t.Errorf("%d bytes in the balloon after a reset", got)
	}
	dev.SetTarget(1 << 63) // no driver, and more than there can be
	if got := binary.LittleEndian.Uint32(d.Config(0, 4)); got != 0xffffffff {
		t.Errorf("num_pages %#x, want the most there can be", got)
	}
}

// TestTargetDuringAPause: the driver is told when it ends.
func TestTargetDuringAPause(t *testing.T) {
	dev, _, d := start(t, d0())
	if err := d.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	d.Write(virtiotest.RegInterruptACK, 3)
	dev.SetTarget(PageSize)
	if d.Read(virtiotest.RegInterruptStatus) != 0 {
		t.Error("an interrupt during the pause")
	}
	if err := d.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	if d.Read(virtiotest.RegInterruptStatus)&2 == 0 {
		t.Error("the driver is not told")
	}
}

// TestWithout: what is not to be offered is not.
func TestWithout(t *testing.T) {
	d, err := New(Config{Discard: (&host{}).discard, Without: 1<<F_STATS_VQ | 1<<F_DEFLATE_ON_OOM})
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Features(); got != 1<<F_REPORTING {
		t.Errorf("features %#x", got)
	}
}

// report is a statistics buffer.
func report(entries ...uint64) []byte {
	var b []byte
	for i := 0; i+2 <= len(entries); i += 2 {
		b = binary.LittleEndian.AppendUint16(b, uint16(entries[i]))
		b = binary.LittleEndian.AppendUint64(b, entries[i+1])
	}
	return b
}

// await returns the report of that number.
func await(t *testing.T, dev *Device, serial uint64) Stats {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if s := dev.Stats(); s.Serial == serial {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("no report %d", serial)
		}
	}
}

// TestStats plays the driver of the statistics queue: a buffer, which comes back when a new one is wanted.
func TestStats(t *testing.T) {
	dev, _, d := start(t, d0())
	r := d.Rings[statsQueue]
	offer := func(out []byte) *virtiotest.Sent {
		s := r.Place(virtiotest.Request{Out: out, Check: nothing}, virtiotest.Layout{})
		r.Offer(s.Head())
		r.Kick()
		return s
	}
	if s := dev.Stats(); s.Serial != 0 || len(s.Values) != 0 {
		t.Errorf("a report before there is one: %v", s)
	}
	first := offer(report(4, 1000, 5, 2000, 99, 1, 5, 3000))
	if s := await(t, dev, 1); !maps.Equal(s.Values, map[Tag]uint64{FreeMemory: 1000, TotalMemory: 3000}) {
		t.Errorf("statistics %v", s.Values)
	}
	if _, _, ok := r.TakeUsed(); ok {
		t.Error("the buffer came back unasked")
	}
	if !dev.AskStats() {
		t.Error("no driver to be asked")
	}
	id, n := r.AwaitUsed()
	first.Finish(id, n)
	second := offer(append(report(6, 500), 1, 2, 3)) // cut short
	if s := await(t, dev, 2); !maps.Equal(s.Values, map[Tag]uint64{AvailableMemory: 500}) {
		t.Errorf("statistics %v", s.Values)
	}
	// A driver that offers two gets one back; one much too long is read in part.
	offer(make([]byte, 100_000))
	id, n = r.AwaitUsed()
	second.Finish(id, n)
	await(t, dev, 3)

	// The buffer outlives a pause.
	if err := d.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if dev.AskStats() {
		t.Error("a device that is paused asks its driver")
	}
	if err := d.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	await(t, dev, 4) // the same buffer, read again
	dev.AskStats()
	r.AwaitUsed()
}

func TestNoStatistics(t *testing.T) {
	dev, h, d := start(t, 1<<F_REPORTING|1<<virtio.F_VERSION_1)
	if dev.AskStats() {
		t.Error("a driver that reports nothing is asked")
	}
	d.Rings[statsQueue].Exchange(virtiotest.Request{In: PageSize, Check: nothing}, virtiotest.Layout{})
	if _, bytes := h.given(); bytes != PageSize {
		t.Errorf("%d bytes given back, want %d", bytes, PageSize)
	}
}

// TestRate: a guest that gives the same pages back over and over is made to wait, by the pages and by the call, and a
// device that waits can be stopped at once.
func TestRate(t *testing.T) {
	h := &host{}
	dev, err := New(Config{Discard: h.discard, Rate: virtio.Rate{PerSecond: 10_000, Burst: chainCost + 1000*(callCost+1)}})
	if err != nil {
		t.Fatal(err)
	}
	s := suite
	s.New = func(testing.TB) virtio.Device { return dev }
	d := s.NewDriver(t)
	d.Start(d0())
	r := d.Rings[inflateQueue]
	var same []uint32
	for range 500 {
		same = append(same, 3, 5)
	}
	began := time.Now()
	flood := r.Place(virtiotest.Request{Out: pages(same...), Check: nothing}, virtiotest.Layout{})
	offer := func() {
		r.Offer(flood.Head())
		r.Kick()
	}
	offer()
	flood.Finish(r.AwaitUsed()) // the burst
	offer()
	d.Rings[hintQueue].Exchange(virtiotest.Request{In: 100 * PageSize, Check: nothing}, virtiotest.Layout{}) // pages, not calls
	calls, _ := h.given()
	most := 1001 + int(time.Since(began).Seconds()*10_000/(callCost+1)) + 1
	if calls > most {
		t.Errorf("memory was given back %d times, want at most %d", calls, most)
	}
	if dev.Throttled() <= 0 {
		t.Error("how long it was made to wait is not counted")
	}
	began = time.Now()
	d.Reset()
	if took := time.Since(began); took > time.Second {
		t.Errorf("a reset took %v", took)
	}
}

func TestReport(t *testing.T) {
	dev, _, d := start(t, d0())
	r := d.Rings[statsQueue]
	offer := func(out []byte) {
		r.Offer(r.Place(virtiotest.Request{Out: out, Check: nothing}, virtiotest.Layout{}).Head())
		r.Kick()
	}
	// A driver has a report ready before it is asked, and makes a new one when that comes back.
	offer(report(uint64(FreeMemory), 1))
	await(t, dev, 1)
	var driver sync.WaitGroup
	driver.Go(func() {
		r.AwaitUsed()
		offer(report(uint64(FreeMemory), 2))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if s, err := dev.Report(ctx); err != nil || s.Values[FreeMemory] != 2 {
		t.Errorf("statistics %v, %v", s, err)
	}
	driver.Wait()
	// One that does not answer.
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if s, err := dev.Report(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v", s, err)
	}
	d.Reset()
	if s, err := dev.Report(t.Context()); !errors.Is(err, ErrNoStats) {
		t.Errorf("without a driver: %v, %v", s, err)
	}
	if FreeMemory.String() != "free_memory" || Tag(16).String() != "tag_16" || DirectReclaimed.String() != "direct_reclaim" {
		t.Errorf("names %q, %q", FreeMemory, Tag(12))
	}
}

func TestNewWithoutDiscard(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a balloon that cannot give memory back")
	}
}
