package boot

import (
	"fmt"
	"math"
)

// maxFlat bounds a flat binary, which is always small.
const maxFlat = 16 << 20

// loadFlat copies a flat binary to its address, to be started at its first
// byte.
func (l *loader) loadFlat() error {
	im, addr := l.p.Kernel, l.p.FlatAddress
	switch {
	case im.size == 0:
		return fmt.Errorf("%s: %w: the file is empty", im.name, ErrNotKernel)
	case im.size > maxFlat:
		return fmt.Errorf("%s: %w: flat binary of %d bytes, at most %d", im.name, ErrNotKernel, im.size, maxFlat)
	case addr > math.MaxUint32:
		return fmt.Errorf("%s: %w: flat binary at %#x, must be below 4 GiB", im.name, ErrParams, addr)
	}
	if _, ok := l.ram(addr, im.size); !ok {
		return fmt.Errorf("%s at %#x: %w; %s", im.name, addr, ErrNoRoom, l.ramText())
	}
	if err := l.used.add(addr, im.size, "the flat binary"); err != nil {
		return fmt.Errorf("%s: %w", im.name, err)
	}
	l.state.RIP = addr
	if err := l.mem.CopyFrom(addr, im.r, im.name, 0, im.size); err != nil {
		return err
	}
	if l.state.Protocol == ProtocolFlat16 {
		return l.startReal16()
	}
	return nil
}

// startReal16 sets the registers for real mode: the code segment starts at
// address 0 if the binary does below 64 KiB, else at the binary.
func (l *loader) startReal16() error {
	addr := l.p.FlatAddress
	s := &l.state
	s.Mode = Real16
	s.RFLAGS = rflagsFixed
	s.CR0 = CR0ET
	s.IDT = Table{Limit: 0x3ff} // 256 vectors of 4 bytes at 0
	s.RSP = 0
	s.Data = Segment{Limit: 0xffff, Type: segData, Present: true, S: true}
	s.CS = Segment{Limit: 0xffff, Type: segCode, Present: true, S: true}
	s.TR = Segment{Limit: 0xffff, Type: segTSS32Busy, Present: true}
	if addr > math.MaxUint16 {
		if addr >= 1<<20 || addr%16 != 0 {
			return fmt.Errorf("%s at %#x: %w: real mode needs a multiple of 16 below 1 MiB", l.p.Kernel.name, addr, ErrParams)
		}
		s.CS.Base, s.CS.Selector, s.RIP = addr, uint16(addr>>4), 0
	}
	return nil
}
