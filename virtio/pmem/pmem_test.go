package pmem

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
	return mmio.New(dev, mem, irq, mmio.Options{})
}

const (
	start = 4 << 30
	size  = 6 << 20
)

func device(t testing.TB, flush func() error) virtio.Device {
	t.Helper()
	d, err := New(Config{Start: start, Size: size, Flush: flush})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func request(typ uint32) []byte { return binary.LittleEndian.AppendUint32(nil, typ) }

// returns checks the answer.
func returns(ret uint32) func(testing.TB, []byte, int) {
	return func(t testing.TB, in []byte, written int) {
		t.Helper()
		if written != answerSize || binary.LittleEndian.Uint32(in) != ret {
			t.Errorf("%d bytes written, % x, want %#x", written, in, ret)
		}
	}
}

var suite = virtiotest.Suite{
	New:       func(t testing.TB) virtio.Device { return device(t, nil) },
	Connect:   connect,
	ConfigLen: configSize,
	Requests: []virtiotest.Request{
		{Name: "flush", Out: request(typeFlush), In: answerSize, Check: returns(retOK)},
		{Name: "flush with more room", Out: append(request(typeFlush), 1, 2, 3), In: 100, Check: returns(retOK)},
		{Name: "unknown type", Out: request(1), In: answerSize, Check: returns(retError)},
		{Name: "short request", Out: []byte{0, 0, 0}, In: answerSize, Check: returns(retError)},
	},
}

func TestSuite(t *testing.T)     { virtiotest.Run(t, suite) }
func FuzzRing(f *testing.F)      { suite.FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite.FuzzRegisters(f) }
func FuzzState(f *testing.F)     { suite.FuzzState(f) }

func TestConfig(t *testing.T) {
	d := suite.NewDriver(t)
	c := d.Config(0, configSize)
	if at, n := binary.LittleEndian.Uint64(c), binary.LittleEndian.Uint64(c[8:]); at != start || n != size {
		t.Errorf("%d bytes at %#x", n, at)
	}
	for _, c := range []Config{{Start: start}, {Start: start + 4096, Size: size}, {Start: start, Size: 4096}, {Start: 1<<64 - Align, Size: 2 * Align}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

// TestFlushFails is 5.19.6.1.
func TestFlushFails(t *testing.T) {
	s := suite
	s.New = func(t testing.TB) virtio.Device { return device(t, func() error { return errors.New("disk on fire") }) }
	d := s.NewDriver(t)
	d.Start(d.Offered())
	d.Rings[0].Exchange(virtiotest.Request{Name: "flush", Out: request(typeFlush), In: answerSize, Check: returns(retError)}, virtiotest.Layout{})
}

// TestOneFlushForMany: a guest with many flushes in flight costs the host no more than two.
func TestOneFlushForMany(t *testing.T) {
	var flushes atomic.Int32
	offered := make(chan struct{})
	s := suite
	s.New = func(t testing.TB) virtio.Device {
		return device(t, func() error {
			<-offered
			flushes.Add(1)
			return nil
		})
	}
	d := s.NewDriver(t)
	d.Start(d.Offered())
	r := d.Rings[0]
	const many = 20
	for range many {
		r.Offer(r.Place(suite.Requests[0], virtiotest.Layout{}).Head())
	}
	r.Kick()
	close(offered)
	for range many {
		r.AwaitUsed()
	}
	if n := flushes.Load(); n < 1 || n > 2 {
		t.Errorf("%d flushes for %d requests that were there at once", n, many)
	}
}

// one is what rings a doorbell as KVM does.
var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	d := suite.NewDriver(t)
	d.Start(d.Offered())
	r := d.Rings[0]
	s := r.Place(suite.Requests[0], virtiotest.Layout{})
	doorbell := d.Dev.NotifyFDs()[0]
	round := func() {
		r.Offer(s.Head())
		unix.Write(doorbell, one)
		for {
			if _, _, ok := r.TakeUsed(); ok {
				return
			}
			runtime.Gosched()
		}
	}
	for range 20 {
		round()
	}
	if n := virtiotest.AllocsPerRun(100, round); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}

// TestLimits: a flush is one operation, and all bytes; one that waits does not hold up a pause, and is not lost by it.
func TestLimits(t *testing.T) {
	for name, l := range map[string]Limits{
		"operations": {Ops: virtio.Rate{PerSecond: 1, Interval: 1 << 40, Burst: 1}},
		"bytes":      {Bytes: virtio.Rate{PerSecond: size, Interval: 1 << 40, Burst: size}},
	} {
		t.Run(name, func(t *testing.T) {
			dev := device(t, nil).(*Device)
			if err := dev.SetLimits(l); err != nil {
				t.Fatal(err)
			}
			s := suite
			s.New = func(testing.TB) virtio.Device { return dev }
			d := s.NewDriver(t)
			d.Start(d.Offered())
			r := d.Rings[0]
			r.Exchange(suite.Requests[0], virtiotest.Layout{})
			waits := r.Place(suite.Requests[0], virtiotest.Layout{})
			r.Offer(waits.Head())
			r.Kick()
			if err := d.Dev.Pause(); err != nil {
				t.Fatal(err)
			}
			if _, _, ok := r.TakeUsed(); ok {
				t.Error("it did not wait")
			}
			if err := dev.SetLimits(Limits{}); err != nil {
				t.Fatal(err)
			}
			if err := d.Dev.Resume(); err != nil {
				t.Fatal(err)
			}
			head, n := r.AwaitUsed()
			waits.Finish(head, n)
		})
	}
	dev := device(t, nil).(*Device)
	if err := dev.SetLimits(Limits{Ops: virtio.Rate{PerSecond: 200, Burst: 1}}); err != nil {
		t.Fatal(err)
	}
	s := suite
	s.New = func(testing.TB) virtio.Device { return dev }
	d := s.NewDriver(t)
	d.Start(d.Offered())
	for end := time.Now().Add(virtiotest.Patience); dev.Throttled() <= 0; { // a driver that is slow enough does not wait
		d.Rings[0].Exchange(suite.Requests[0], virtiotest.Layout{})
		if time.Now().After(end) {
			t.Fatal("how long a flush has waited is not counted")
		}
	}
	if _, err := New(Config{Start: start, Size: size, Limits: Limits{Ops: virtio.Rate{Burst: 1}}}); err == nil {
		t.Error("a burst without a rate")
	}
}
