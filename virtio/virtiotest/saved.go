package virtiotest

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/hullvm/hull/virtio"
)

// save pauses the device and returns its state by way of JSON, as a file would hold it; false when it cannot be saved, and then
// it goes on.
func (d *Driver) save() ([]byte, bool) {
	d.T.Helper()
	if err := d.Dev.Pause(); err != nil {
		d.T.Fatal(err)
	}
	state, err := d.Dev.State()
	if errors.Is(err, virtio.ErrUnsaved) {
		if err := d.Dev.Resume(); err != nil {
			d.T.Fatal(err)
		}
		return nil, false
	}
	if err != nil {
		d.T.Fatal(err)
	}
	file, err := json.Marshal(state)
	if err != nil {
		d.T.Fatal(err)
	}
	return file, true
}

// move has a new device of the suite go on where the driver's paused one has stopped.
func (s Suite) move(d *Driver, file []byte) {
	d.T.Helper()
	var state virtio.State
	if err := json.Unmarshal(file, &state); err != nil {
		d.T.Fatal(err)
	}
	if err := d.Dev.Close(); err != nil {
		d.T.Fatal(err)
	}
	d.Dev = s.connect(d.T, d)
	if err := d.Dev.Restore(state); err != nil {
		d.T.Fatal(err)
	}
	if err := d.Dev.Resume(); err != nil {
		d.T.Fatal(err)
	}
}

// Move has a new device of the suite take the place of the driver's: saved, closed, restored, and it goes on.
func (s Suite) Move(d *Driver) {
	d.T.Helper()
	file, saved := d.save()
	if !saved {
		d.T.Fatal("the device cannot be saved")
	}
	s.move(d, file)
}

// FuzzState restores any bytes as the device's own part of a state: it is refused, or is what would be saved again.
func (s Suite) FuzzState(f *testing.F) {
	saver, ok := s.New(f).(virtio.Snapshotter)
	if !ok {
		f.Fatal("the device keeps no state")
	}
	good, err := saver.SaveState()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(append(bytes.Clone(good), 0))
	f.Add(bytes.Repeat([]byte{0xff}, len(good)))
	f.Fuzz(func(t *testing.T, p []byte) {
		d := s.New(t).(virtio.Snapshotter)
		if err := d.RestoreState(p); err != nil {
			if !errors.Is(err, virtio.ErrState) {
				t.Errorf("RestoreState(%x) = %v, want %v", p, err, virtio.ErrState)
			}
			return
		}
		if again, err := d.SaveState(); err != nil || !bytes.Equal(again, p) {
			t.Errorf("%x was restored, and %x, %v saved", p, again, err)
		}
	})
}

// testSaveAndRestore saves the device while requests are in flight and lets a new one go on: every request is answered exactly
// once, and the driver finds its device as it was.
func (s Suite) testSaveAndRestore(d *Driver, t *testing.T) {
	d.Start(all(d))
	req := s.first(d.Features)
	r := d.Rings[req.Queue]
	flying := map[uint32]*Sent{}
	for range min(8, int(r.Size)/8) {
		one := r.Place(req, Layout{})
		flying[uint32(one.head)] = one
	}
	for round := range 20 {
		for _, one := range flying {
			one.Again()
			r.Offer(one.head)
		}
		r.Kick()
		d.Write(RegQueueSel, uint32(req.Queue)) // a driver may be between two accesses
		config, status := d.Config(0, s.ConfigLen), d.Status()
		if file, saved := d.save(); saved {
			s.move(d, file)
		}
		if d.Read(RegQueueReady) != 1 {
			t.Fatalf("round %d: the queue that was selected is not ready", round)
		}
		if got := d.Config(0, s.ConfigLen); !bytes.Equal(got, config) || d.Status() != status {
			t.Fatalf("round %d: configuration %x, status %#x; before %x, %#x", round, got, d.Status(), config, status)
		}
		answered := map[uint32]bool{}
		for range flying {
			id, n := r.AwaitUsed()
			if flying[id] == nil || answered[id] {
				t.Fatalf("round %d: a second or a wrong answer for %d", round, id)
			}
			answered[id] = true
			flying[id].Finish(id, n)
		}
	}
	for _, one := range flying {
		one.Free()
	}
	s.each(d, Layout{})
	// The driver may begin anew, as with any device.
	d.Start(all(d))
	s.each(d, Layout{})
}

// testRestoreDoesNotTrust changes the device's own part of a state: it is refused, and then nothing has changed, or it is a
// state that the device can have.
func (s Suite) testRestoreDoesNotTrust(d *Driver, t *testing.T) {
	d.Start(all(d))
	file, saved := d.save()
	if !saved {
		return // shown by testSaveAndRestore
	}
	var good virtio.State
	if err := json.Unmarshal(file, &good); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	tr := s.connect(t, d)
	for i := range 200 {
		own := bytes.Clone(good.Device)
		switch {
		case i == 0:
			own = nil
		case i == 1:
			own = make([]byte, virtio.MaxDeviceState+1)
		case i%4 == 0:
			own = own[:random.IntN(len(own)+1)]
		case i%4 == 1:
			own = append(own, make([]byte, 1+random.IntN(8000))...)
		case len(own) > 0:
			own[random.IntN(len(own))] ^= byte(1 << random.IntN(8))
		}
		bad := good
		bad.Device = own
		if err := tr.Restore(bad); err == nil {
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
			tr = s.connect(t, d)
		} else if !errors.Is(err, virtio.ErrState) {
			t.Fatalf("Restore of %d bytes = %v, want %v", len(own), err, virtio.ErrState)
		}
	}
	if err := tr.Restore(good); err != nil {
		t.Errorf("Restore of what was saved, after others were refused: %v", err)
	}
}
