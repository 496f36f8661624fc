// Package legacy gives quick answers to what stock kernels look for on a PC and hull does not have.
//
// A port that nothing answers reads all ones, which says "absent" to most drivers. Absent is the table of those worth
// naming, with the few that must read something else so that a kernel's wait loop ends at its first turn. Clock is the
// one device that is present: the CMOS clock, which a kernel without a paravirtual clock takes its time from.
package legacy

import (
	"fmt"

	"github.com/hullvm/hull/devices"
)

// Range is a range of I/O ports at which no device is.
type Range struct {
	Name       string
	Base, Size uint64
	// Value is what each byte reads.
	Value byte
}

// Absent lists the ranges that stock kernels probe. PIT is left out when the in-kernel PIT is there, which takes its
// ports before they get here, and the keyboard when there is one.
func Absent(pit, keyboard bool) []Range {
	r := []Range{
		// Delay and POST codes: Linux writes here thousands of times (io_delay=0x80).
		{"POST code", 0x80, 1, 0xff},
		// System control port A; bit 0 of a write would be a reset, which guests do in other ways.
		{"port A", 0x92, 1, 0xff},
		// A UART that reads all ones fails Linux's first test (IER & 0x0f is 0 after 0 was written).
		{"COM4", 0x2e8, 8, 0xff},
		{"COM2", 0x2f8, 8, 0xff},
		{"COM3", 0x3e8, 8, 0xff},
		// PCI configuration mechanism 1: Linux writes 0x80000000 to 0xcf8 and must not read it back.
		{"PCI configuration", 0xcf8, 8, 0xff},
	}
	if !keyboard {
		// Linux's i8042 driver reads the data port while it flushes. The status port is devices/i8042's.
		r = append(r, Range{"keyboard data", 0x60, 1, 0xff})
	}
	if !pit {
		r = append(r,
			// quick_pit_calibrate waits 50,000 reads for counter 2 to leave 0xff; 0 ends it at the first one.
			Range{"PIT counters", 0x40, 4, 0},
			// pit_calibrate_tsc spins until bit 5, counter 2's output, is set.
			Range{"port B", 0x61, 1, 1 << 5},
		)
	}
	return r
}

// Insert puts all of Absent and a Clock on a port bus. The Clock is the only one of them with a state.
func Insert(ports *devices.Bus, pit, keyboard bool) (*Clock, error) {
	for _, r := range Absent(pit, keyboard) {
		if err := ports.Insert(r.Base, r.Size, constant(r.Value)); err != nil {
			return nil, fmt.Errorf("legacy ports, %s: %w", r.Name, err)
		}
	}
	c := NewClock(nil)
	if err := ports.Insert(ClockPort, ClockSize, c); err != nil {
		return nil, fmt.Errorf("legacy ports, CMOS clock: %w", err)
	}
	return c, nil
}

// constant is a device of which each byte reads the same and writes are ignored.
type constant byte

func (c constant) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = byte(c)
	}
}

func (constant) Write(uint64, []byte) {}
