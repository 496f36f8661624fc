package legacy

import (
	"errors"
	"testing"
	"time"

	"github.com/hullvm/hull/devices"
)

func in(b *devices.Bus, port uint64) byte {
	p := []byte{0xaa}
	b.Read(port, p)
	return p[0]
}

func out(b *devices.Bus, port uint64, v byte) { b.Write(port, []byte{v}) }

// The probes of Linux that would otherwise wait, done the way Linux does them.
func TestLinuxProbesEndAtOnce(t *testing.T) {
	var b devices.Bus
	if _, err := Insert(&b, false, false); err != nil {
		t.Fatal(err)
	}
	// quick_pit_calibrate: pit_expect_msb(0xff) must fail at its first read.
	out(&b, 0x61, in(&b, 0x61)&^2|1)
	out(&b, 0x43, 0xb0)
	out(&b, 0x42, 0xff)
	out(&b, 0x42, 0xff)
	in(&b, 0x42)
	if got := in(&b, 0x42); got == 0xff {
		t.Errorf("PIT counter 2 reads %#x: Linux would read it 50,000 times", got)
	}
	if in(&b, 0x61)&0x20 == 0 {
		t.Error("port 0x61 bit 5 is clear: pit_calibrate_tsc would spin")
	}
	// pci_check_type1.
	var p [4]byte
	b.Write(0xcf8, []byte{0, 0, 0, 0x80})
	b.Read(0xcf8, p[:])
	if p == [4]byte{0, 0, 0, 0x80} {
		t.Error("PCI configuration mechanism 1 answers")
	}
	// pci_check_type2.
	out(&b, 0xcfb, 0)
	out(&b, 0xcf8, 0)
	out(&b, 0xcfa, 0)
	if in(&b, 0xcf8) == 0 && in(&b, 0xcfa) == 0 {
		t.Error("PCI configuration mechanism 2 answers")
	}
	// 8250 autoconfig: IER must not keep the 0 that was written.
	for _, base := range []uint64{0x2f8, 0x3e8, 0x2e8} {
		out(&b, base+1, 0)
		if in(&b, base+1)&0x0f == 0 {
			t.Errorf("a UART answers at %#x", base)
		}
	}
	out(&b, 0x80, 0)
}

func TestWithPIT(t *testing.T) {
	var b devices.Bus
	if _, err := Insert(&b, true, false); err != nil {
		t.Fatal(err)
	}
	if b.Read(0x42, []byte{0}) || b.Read(0x61, []byte{0}) {
		t.Error("the PIT's ports are taken although KVM has a PIT")
	}
	if _, err := Insert(&b, true, false); err == nil {
		t.Error("inserting twice worked")
	}
}

func TestClock(t *testing.T) {
	at := time.Date(2031, time.December, 28, 23, 59, 7, 0, time.FixedZone("east", 3600))
	c := NewClock(func() time.Time { return at })
	read := func(reg byte) byte {
		c.Write(0, []byte{reg | 0x80}) // with NMI masked
		p := []byte{0}
		c.Read(1, p)
		return p[0]
	}
	want := map[byte]byte{
		rtcSeconds: 0x07, rtcMinutes: 0x59, rtcHours: 0x22, rtcWeekday: 0x01, rtcDay: 0x28, rtcMonth: 0x12, rtcYear: 0x31,
		rtcCentury: 0x20, rtcRegA: 0x26, rtcRegB: 0x02, rtcRegD: 0x80, 0x0f: 0, 0x7f: 0,
	}
	for reg, w := range want {
		if got := read(reg); got != w {
			t.Errorf("register %#x = %#x, want %#x", reg, got, w)
		}
	}
	// Setting the clock does nothing, odd accesses do no harm.
	c.Write(1, []byte{0x33})
	c.Write(0, nil)
	c.Read(1, nil)
	p := []byte{0, 0, 0, 0}
	c.Read(0, p)
	if p[0] != 0xff {
		t.Errorf("index port reads %#x, want 0xff", p[0])
	}
	NewClock(nil).Read(1, p)
}

// A guest that has selected a register finds it selected after it has moved.
func TestClockState(t *testing.T) {
	c := NewClock(nil)
	c.Write(0, []byte{0x80 | rtcRegD})
	state, err := c.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	moved := NewClock(nil)
	if err := moved.RestoreState(state); err != nil {
		t.Fatal(err)
	}
	var p [1]byte
	if moved.Read(1, p[:]); p[0] != regDValid {
		t.Errorf("the register that was selected reads %#x", p[0])
	}
	for _, bad := range [][]byte{nil, {stateVersion}, {stateVersion + 1, 0}, {stateVersion, 0x80}, make([]byte, 100)} {
		if err := moved.RestoreState(bad); !errors.Is(err, ErrState) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	if moved.Read(1, p[:]); p[0] != regDValid {
		t.Error("a state that was refused has changed something")
	}
}
