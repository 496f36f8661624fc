package pmem

import (
	"errors"
	"testing"

	"github.com/hullvm/hull/virtio"
)

// TestState: a device is the one that was saved only where and as long as that was.
func TestState(t *testing.T) {
	saver := func(start, size uint64) *Device {
		d, err := New(Config{Start: start, Size: size})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := saver(start, size)
	saved, err := d.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	if err := saver(start, size).RestoreState(saved); err != nil {
		t.Error(err)
	}
	for what, other := range map[string]*Device{
		"larger": saver(start, size+Align), "smaller": saver(start, size-Align), "elsewhere": saver(start+Align, size),
	} {
		if err := other.RestoreState(saved); !errors.Is(err, virtio.ErrState) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, p := range [][]byte{nil, {}, saved[:len(saved)-1], append(append([]byte{}, saved...), 0), append([]byte{2}, saved[1:]...)} {
		if err := d.RestoreState(p); !errors.Is(err, virtio.ErrState) {
			t.Errorf("% x: %v", p, err)
		}
	}
}
