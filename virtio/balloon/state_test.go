package balloon

import (
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// TestState: what the balloon is to hold, and what it holds, go along, and a report that the driver has offered is not lost.
func TestState(t *testing.T) {
	var dev *Device
	s := suite
	s.New = func(t testing.TB) virtio.Device {
		dev = device(t, &host{})
		return dev
	}
	d := s.NewDriver(t)
	d.Start(d.Offered())
	dev.SetTarget(100 * PageSize)
	d.Dev.Write(virtiotest.RegConfig+configActual, []byte{42, 0, 0, 0})
	r := d.Rings[statsQueue]
	sent := r.Place(virtiotest.Request{Name: "report", Queue: statsQueue, Out: report(4, 1000), Check: nothing}, virtiotest.Layout{})
	r.Offer(sent.Head())
	r.Kick()
	old := dev
	s.Move(d)
	if dev == old || dev.Target() != 100*PageSize || dev.Actual() != 42*PageSize {
		t.Errorf("target %d, in the balloon %d", dev.Target(), dev.Actual())
	}
	if !dev.AskStats() {
		t.Fatal("the driver reports no statistics")
	}
	sent.Finish(r.AwaitUsed())
	if got := dev.Stats().Values[FreeMemory]; got != 1000 {
		t.Errorf("free memory %d", got)
	}
}

func FuzzState(f *testing.F) { suite.FuzzState(f) }
