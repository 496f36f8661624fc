package rng

import (
	"bytes"
	"errors"
	"testing"
	"testing/iotest"
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

var suite = virtiotest.Suite{
	New:     func(testing.TB) virtio.Device { return New(Config{}) },
	Connect: connect,
	Requests: []virtiotest.Request{
		{Name: "64 bytes", In: 64, Check: random},
		{Name: "1 byte", In: 1, Check: random},
		{Name: "8 KiB and something to read", Out: []byte("not asked for"), In: 8 << 10, Check: random},
	},
}

// random checks that bytes have been written, and that long ones are not all the same.
func random(t testing.TB, in []byte, written int) {
	t.Helper()
	if written < 1 {
		t.Errorf("%d bytes written, want at least 1 (5.4.6.2)", written)
		return
	}
	if len(in) >= 64 && bytes.Count(in[:written], in[:1]) > written/2 {
		t.Errorf("bytes are not random: %x", in[:64])
	}
	for i, v := range in[written:] {
		if v != virtiotest.Untouched {
			t.Errorf("byte %d was written, beyond the %d that were announced", written+i, written)
		}
	}
}

func TestSuite(t *testing.T)     { virtiotest.Run(t, suite) }
func FuzzRing(f *testing.F)      { suite.FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite.FuzzRegisters(f) }

func TestBoundedWork(t *testing.T) {
	d := suite.NewDriver(t)
	d.Start(d.Offered())
	req := virtiotest.Request{In: 1 << 20, Check: func(t testing.TB, in []byte, written int) {
		if written != maxRequest {
			t.Errorf("%d bytes written for a buffer of 1 MiB, want %d", written, maxRequest)
		}
		random(t, in, written)
	}}
	d.Rings[0].Exchange(req, virtiotest.Layout{Piece: 5000})
}

func TestSourceFails(t *testing.T) {
	broken := errors.New("the well is dry")
	s := suite
	s.New = func(testing.TB) virtio.Device { return New(Config{Source: iotest.ErrReader(broken)}) }
	d := s.NewDriver(t)
	d.Start(d.Offered())
	r := d.Rings[0]
	r.Offer(r.Place(suite.Requests[0], virtiotest.Layout{}).Head())
	r.Kick()
	d.AwaitNeedsReset()
	if err := d.Dev.Failure(); !errors.Is(err, broken) {
		t.Errorf("failure = %v, want %v", err, broken)
	}
}

// TestRate: what is over the rate comes late, small requests count as more than they are, and a device that waits can be
// stopped.
func TestRate(t *testing.T) {
	s := suite
	s.New = func(testing.TB) virtio.Device {
		return New(Config{Rate: virtio.Rate{PerSecond: 10_000, Burst: 4096}})
	}
	d := s.NewDriver(t)
	d.Start(d.Offered())
	r := d.Rings[0]
	began := time.Now()
	r.Exchange(virtiotest.Request{In: 4096, Check: random}, virtiotest.Layout{})
	for range 20 {
		r.Exchange(virtiotest.Request{In: 1, Check: random}, virtiotest.Layout{})
	}
	if took, want := time.Since(began), 20*minCost*time.Second/10_000; took < want {
		t.Errorf("the burst and 20 requests took %v, want at least %v", took, want)
	}

	// Some seconds' worth, and then one more, which waits.
	r.Exchange(virtiotest.Request{In: 20_000, Check: random}, virtiotest.Layout{})
	one := r.Place(virtiotest.Request{In: 64, Check: random}, virtiotest.Layout{})
	r.Offer(one.Head())
	r.Kick()
	for range 3 {
		began = time.Now()
		if err := d.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("a pause took %v", took)
		}
		if err := d.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	one.Finish(r.AwaitUsed())
}

// TestOps: requests are counted, and held back, whatever their length.
func TestOps(t *testing.T) {
	dev := New(Config{Ops: virtio.Rate{PerSecond: 100, Burst: 1}})
	s := suite
	s.New = func(testing.TB) virtio.Device { return dev }
	d := s.NewDriver(t)
	d.Start(d.Offered())
	began := time.Now()
	for range 11 {
		d.Rings[0].Exchange(virtiotest.Request{In: 100, Check: random}, virtiotest.Layout{})
	}
	if took := time.Since(began); took < 95*time.Millisecond {
		t.Errorf("11 requests at 100 a second took %v", took)
	}
	if n, bytes := dev.Counters(); n != 11 || bytes != 1100 {
		t.Errorf("%d requests, %d bytes", n, bytes)
	}
}
