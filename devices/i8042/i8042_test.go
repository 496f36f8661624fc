package i8042

import (
	"testing"

	"github.com/hullvm/hull/devices"
)

func TestReset(t *testing.T) {
	var got []devices.PowerEvent
	c := New(func(e devices.PowerEvent) { got = append(got, e) })
	for v := range 256 {
		c.Write(0, []byte{byte(v)})
	}
	c.Write(1, []byte{cmdReset})
	c.Write(0, nil)
	if len(got) != 1 || got[0] != devices.Reset {
		t.Errorf("events after all commands = %v, want one reset", got)
	}
	New(nil).Write(0, []byte{cmdReset})
}

func TestStatus(t *testing.T) {
	p := []byte{0, 0}
	New(nil).Read(0, p)
	for _, b := range p {
		if b&0x01 == 0 {
			t.Errorf("status = %#x: the driver would look for a keyboard", b)
		}
		if b&0x02 != 0 {
			t.Errorf("status = %#x: a reboot would wait for the input buffer", b)
		}
	}
}
