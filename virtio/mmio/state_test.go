package mmio

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// A device that is saved and restored into a new one on the same memory goes on where it was.
func TestSaveAndRestore(t *testing.T) {
	d, _ := driver(t)
	d.Start(d.Offered())
	r := d.Rings[0]
	for range 3 {
		r.Exchange(suite.Requests[0], virtiotest.Layout{Piece: 2})
	}
	m := d.Dev.(*Transport).Machine()
	if _, err := m.State(); err == nil {
		t.Error("State of a running device worked")
	}
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	state, err := m.State()
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	var loaded virtio.State
	if err := json.Unmarshal(file, &loaded); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}

	tr, err := New(&echoDevice{}, d.Mem, d.Line, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	d.Dev = tr
	if err := tr.Machine().Restore(loaded); err != nil {
		t.Fatal(err)
	}
	s := r.Place(suite.Requests[0], virtiotest.Layout{})
	r.Offer(s.Head())
	if err := tr.Resume(); err != nil {
		t.Fatal(err)
	}
	s.Finish(r.AwaitUsed())
	if err := tr.Machine().Restore(loaded); !errors.Is(err, virtio.ErrState) {
		t.Errorf("Restore into a device in use = %v, want %v", err, virtio.ErrState)
	}
}

func TestRestoreDoesNotTrust(t *testing.T) {
	d, _ := driver(t)
	d.Start(d.Offered())
	m := d.Dev.(*Transport).Machine()
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	good, err := m.State()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*virtio.State)
	}{
		{"another device", func(s *virtio.State) { s.DeviceID++ }},
		{"unknown status bit", func(s *virtio.State) { s.Status |= 16 }},
		{"status out of order", func(s *virtio.State) { s.Status = virtio.StatusDriverOK }},
		{"DRIVER_OK without FEATURES_OK", func(s *virtio.State) { s.Status &^= virtio.StatusFeaturesOK }},
		{"unknown interrupt", func(s *virtio.State) { s.ISR = 4 }},
		{"feature that was not offered", func(s *virtio.State) { s.Features |= 1 << 9 }},
		{"no VERSION_1", func(s *virtio.State) { s.Features = 0 }},
		{"broken dependency", func(s *virtio.State) { s.Features &^= 1 << featureBase }},
		{"queue missing", func(s *virtio.State) { s.Queues = s.Queues[1:] }},
		{"queue too many", func(s *virtio.State) { s.Queues = append(s.Queues, virtio.QueueState{}) }},
		{"no queues", func(s *virtio.State) { s.Queues = nil }},
		{"queue too large", func(s *virtio.State) { s.Queues[1].Size = 32 }},
		{"queue of size 3", func(s *virtio.State) { s.Queues[1].Size = 3 }},
		{"queue ready before FEATURES_OK", func(s *virtio.State) { s.Status = virtio.StatusAcknowledge }},
		{"ring outside of memory", func(s *virtio.State) { s.Queues[0].Used = 1 << 50 }},
		{"ring misaligned", func(s *virtio.State) { s.Queues[0].Desc |= 1 }},
		{"chains in flight", func(s *virtio.State) { s.Queues[0].NextAvail = 7 }},
	} {
		tr, err := New(&echoDevice{}, d.Mem, d.Line, Options{})
		if err != nil {
			t.Fatal(err)
		}
		bad := good
		bad.Queues = slices.Clone(good.Queues)
		tt.change(&bad)
		if err := tr.Machine().Restore(bad); !errors.Is(err, virtio.ErrState) {
			t.Errorf("%s: Restore = %v, want %v", tt.name, err, virtio.ErrState)
		}
		// Nothing has changed: the good state still loads.
		if err := tr.Machine().Restore(good); err != nil {
			t.Errorf("after %s: Restore = %v", tt.name, err)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		if err := tr.Machine().Restore(good); !errors.Is(err, virtio.ErrState) && !errors.Is(err, virtio.ErrClosed) {
			t.Errorf("Restore after Close = %v", err)
		}
	}
}
