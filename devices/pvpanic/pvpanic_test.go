package pvpanic

import (
	"testing"

	"github.com/hullvm/hull/devices"
)

func TestPanic(t *testing.T) {
	var got []devices.PowerEvent
	d := New(func(e devices.PowerEvent) { got = append(got, e) })
	p := []byte{0xff, 0xff}
	d.Read(0, p)
	if p[0] != eventPanicked || p[1] != 0 {
		t.Errorf("events offered = %#x, want only PANICKED", p)
	}
	d.Write(0, []byte{2}) // crash loaded: not an end
	d.Write(1, []byte{1})
	d.Write(0, nil)
	if len(got) != 0 {
		t.Errorf("events = %v, want none yet", got)
	}
	d.Write(0, []byte{eventPanicked})
	if len(got) != 1 || got[0] != devices.Panicked {
		t.Errorf("events = %v, want one panic", got)
	}
}
