package net

import (
	"testing"
	"time"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// limited is a driver of a device with two pairs and limits.
func limited(t *testing.T, rx, tx Limits) (*virtiotest.Driver, []*peer) {
	t.Helper()
	peers := []*peer{{}, {}}
	d, err := New(Config{MAC: mac, Backends: []Backend{peers[0], peers[1]}, RX: rx, TX: tx})
	if err != nil {
		t.Fatal(err)
	}
	s := suite
	s.New = func(testing.TB) virtio.Device { return d }
	drv := s.NewDriver(t)
	drv.Start(pairFeatures)
	command(drv.Rings[2*pairQueues], setPairs(2), ctrlOK)
	return drv, peers
}

// Limits hold for all pairs together: 40 frames over two pairs, of which 10 may come at once, take 30 hundredths of a
// second at 100 a second, whichever way and however they are counted.
func TestLimits(t *testing.T) {
	const size, least = 100, 290 * time.Millisecond
	for name, l := range map[string]Limits{
		"frames": {Frames: virtio.Rate{PerSecond: 100, Burst: 10}},
		"bytes":  {Bytes: virtio.Rate{PerSecond: 100 * size, Burst: 10 * size}},
		"both":   {Frames: virtio.Rate{PerSecond: 1e6}, Bytes: virtio.Rate{PerSecond: 100 * size, Burst: 10 * size}},
	} {
		t.Run("from the guest, "+name, func(t *testing.T) {
			drv, _ := limited(t, Limits{}, l)
			began := time.Now()
			for _, q := range []int{txQueue, pairQueues + txQueue} {
				r := drv.Rings[q]
				for i := range 20 {
					r.Offer(r.Place(virtiotest.Request{Name: "frame", Queue: q, Out: out(Header{}, frame(size, byte(i)))}, virtiotest.Layout{}).Head())
				}
				r.Kick()
			}
			for range 20 {
				drv.Rings[txQueue].AwaitUsed()
				drv.Rings[pairQueues+txQueue].AwaitUsed()
			}
			if took := time.Since(began); took < least {
				t.Errorf("40 frames took %v, want at least %v", took, least)
			}
		})
		t.Run("to the guest, "+name, func(t *testing.T) {
			drv, peers := limited(t, l, Limits{})
			offer(drv.Rings[rxQueue], 20, 200)
			offer(drv.Rings[pairQueues+rxQueue], 20, 200)
			began := time.Now()
			for i := range 20 {
				peers[0].bring(packet{frame: frame(size, byte(i))})
				peers[1].bring(packet{frame: frame(size, byte(i))})
			}
			for range 20 {
				drv.Rings[rxQueue].AwaitUsed()
				drv.Rings[pairQueues+rxQueue].AwaitUsed()
			}
			if took := time.Since(began); took < least {
				t.Errorf("40 frames took %v, want at least %v", took, least)
			}
		})
	}
}

// A pause does not wait for a limit, and no frame is lost by it.
func TestPauseWhileLimited(t *testing.T) {
	slow := Limits{Frames: virtio.Rate{PerSecond: 1, Burst: 1}}
	drv, peers := limited(t, slow, slow)
	tx, rx := drv.Rings[txQueue], drv.Rings[rxQueue]
	offer(rx, 2, 200)
	for i := range 2 {
		tx.Offer(tx.Place(virtiotest.Request{Name: "frame", Queue: txQueue, Out: out(Header{}, frame(60, byte(i)))}, virtiotest.Layout{}).Head())
		peers[0].bring(packet{frame: frame(60, byte(i))})
	}
	tx.Kick()
	tx.AwaitUsed()
	rx.AwaitUsed()
	began := time.Now()
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second/2 {
		t.Errorf("the pause took %v", took)
	}
	if err := drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	tx.AwaitUsed()
	rx.AwaitUsed()
	if n := len(peers[0].received()); n != 2 {
		t.Errorf("%d frames arrived, want 2", n)
	}
}

// A link that is down passes nothing, either way and by no pair, and the driver is told even if it changes during a pause.
func TestLinkOfAllPairs(t *testing.T) {
	drv, d, peers := pairDriver(t, pairFeatures|1<<F_STATUS)
	command(drv.Rings[ctrlQueue], setPairs(testPairs), ctrlOK)
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	generation := drv.Read(virtiotest.RegConfigGeneration)
	d.SetLink(false)
	if err := drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	if drv.Config(6, 2)[0] != 0 || drv.Read(virtiotest.RegConfigGeneration) == generation || drv.Read(virtiotest.RegInterruptStatus)&2 == 0 {
		t.Error("the driver is not told that the link is down")
	}
	for i, p := range peers {
		rx, tx := drv.Rings[pairQueues*i+rxQueue], drv.Rings[pairQueues*i+txQueue]
		offer(rx, 1, 200)
		p.bring(packet{frame: frame(60, 1)})
		rx.Quiesce()
		tx.Exchange(virtiotest.Request{Name: "frame", Queue: tx.Index, Out: out(Header{}, frame(60, 1)), Check: transmitted}, virtiotest.Layout{})
		if _, _, ok := rx.TakeUsed(); ok || len(p.received()) != 0 {
			t.Errorf("pair %d: something passed", i)
		}
	}
	drv.Write(virtiotest.RegInterruptACK, 3)
	d.SetLink(true)
	if drv.Config(6, 2)[0] != statusLinkUp || drv.Read(virtiotest.RegInterruptStatus)&2 == 0 {
		t.Error("the driver is not told that the link is up")
	}
	for i := range peers {
		drv.Rings[pairQueues*i+rxQueue].AwaitUsed()
	}
}

// TestSetLimits: limits change between a pause and its end, for what waits as well.
func TestSetLimits(t *testing.T) {
	never := Limits{Frames: virtio.Rate{PerSecond: 1, Interval: 1 << 40, Burst: 1}}
	drv, d, peers := pairDriver(t, pairFeatures)
	change := func(rx, tx Limits) {
		t.Helper()
		if err := drv.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := d.SetLimits(rx, tx); err != nil {
			t.Fatal(err)
		}
		if err := drv.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	change(never, never)
	tx, rx := drv.Rings[txQueue], drv.Rings[rxQueue]
	offer(rx, 2, 200)
	for i := range 2 {
		tx.Offer(tx.Place(virtiotest.Request{Name: "frame", Queue: txQueue, Out: out(Header{}, frame(60, byte(i)))}, virtiotest.Layout{}).Head())
		peers[0].bring(packet{frame: frame(60, byte(i))})
	}
	tx.Kick()
	tx.AwaitUsed()
	rx.AwaitUsed()
	change(Limits{}, Limits{})
	tx.AwaitUsed()
	rx.AwaitUsed()
	if d.SetLimits(Limits{Bytes: virtio.Rate{Burst: 1}}, Limits{}) == nil {
		t.Error("a burst without a rate")
	}
}
