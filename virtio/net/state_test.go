package net

import (
	"testing"

	"github.com/hullvm/hull/virtio"
)

// TestState: a driver that uses several pairs finds as many in use after it has moved.
func TestState(t *testing.T) {
	var peers []*switched
	s := pairSuite
	s.New = func(t testing.TB) (dev virtio.Device) {
		dev, peers = several(t, nil)
		return dev
	}
	d := s.NewDriver(t)
	d.Start(pairFeatures)
	command(d.Rings[ctrlQueue], setPairs(2), ctrlOK)
	checkAttached(t, peers, 2)
	s.Move(d)
	checkAttached(t, peers, 2)
	command(d.Rings[ctrlQueue], setPairs(3), ctrlOK)
	checkAttached(t, peers, 3)
}

func FuzzState(f *testing.F) { pairSuite.FuzzState(f) }
