package legacy

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// The CMOS clock's ports: index, then data.
const (
	ClockPort = 0x70
	ClockSize = 2
)

// Registers of the MC146818 (Motorola data sheet).
const (
	rtcSeconds = 0x00
	rtcMinutes = 0x02
	rtcHours   = 0x04
	rtcWeekday = 0x06 // 1 is Sunday
	rtcDay     = 0x07
	rtcMonth   = 0x08
	rtcYear    = 0x09
	rtcRegA    = 0x0a
	rtcRegB    = 0x0b
	rtcRegD    = 0x0d
	rtcCentury = 0x32 // where PCs keep it
)

const (
	regADivider = 0x26 // 32 kHz crystal, 1,024 Hz rate; UIP clear: no update is ever in progress
	regB24Hours = 0x02 // 24 hours, BCD, no interrupts
	regDValid   = 0x80 // VRT: the battery is good
)

// Clock is an MC146818 clock that shows the host's time in UTC. It cannot be set, has no alarm and no memory.
type Clock struct {
	index atomic.Uint32
	now   func() time.Time
}

// NewClock makes a clock. now is the time source; nil means time.Now.
func NewClock(now func() time.Time) *Clock {
	if now == nil {
		now = time.Now
	}
	return &Clock{now: now}
}

// Read returns the register that was selected last.
func (c *Clock) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = 0xff
	}
	if off == 1 && len(p) > 0 {
		p[0] = c.register(c.index.Load())
	}
}

// Write selects a register; bit 7 is the PC's NMI mask and means nothing here.
func (c *Clock) Write(off uint64, p []byte) {
	if off == 0 && len(p) > 0 {
		c.index.Store(uint32(p[0] & 0x7f))
	}
}

// stateVersion is the first byte of what SaveState returns; the second is the index.
const stateVersion = 1

// ErrState is wrapped by the error of RestoreState.
var ErrState = errors.New("not a state of the CMOS clock")

// SaveState returns which register is selected: a guest may be between the two accesses that reading one takes.
func (c *Clock) SaveState() ([]byte, error) {
	return []byte{stateVersion, byte(c.index.Load())}, nil
}

// RestoreState loads what SaveState has returned, which is not trusted. On error nothing has changed.
func (c *Clock) RestoreState(p []byte) error {
	if len(p) != 2 || p[0] != stateVersion || p[1] > 0x7f {
		return fmt.Errorf("%w: %d bytes, % x", ErrState, len(p), p[:min(len(p), 8)])
	}
	c.index.Store(uint32(p[1]))
	return nil
}

func (c *Clock) register(index uint32) byte {
	switch index {
	case rtcRegA:
		return regADivider
	case rtcRegB:
		return regB24Hours
	case rtcRegD:
		return regDValid
	}
	now := c.now().UTC()
	switch index {
	case rtcSeconds:
		return bcd(now.Second())
	case rtcMinutes:
		return bcd(now.Minute())
	case rtcHours:
		return bcd(now.Hour())
	case rtcWeekday:
		return bcd(int(now.Weekday()) + 1)
	case rtcDay:
		return bcd(now.Day())
	case rtcMonth:
		return bcd(int(now.Month()))
	case rtcYear:
		return bcd(now.Year() % 100)
	case rtcCentury:
		return bcd(now.Year() / 100)
	}
	return 0
}

// bcd encodes n, 0 to 99.
func bcd(n int) byte { return byte(n/10%10<<4 | n%10) }
