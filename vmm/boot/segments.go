package boot

import (
	"fmt"

	"github.com/hullvm/hull/vmm/memory"
)

// Types of segment descriptors (Intel SDM vol. 3, tables 3-1 and 3-2).
const (
	segData      = 0x3 // data, read/write, accessed
	segCode      = 0xb // code, execute/read, accessed
	segTSS32Busy = 0xb // system: 32-bit TSS, or 64-bit TSS in long mode, busy
)

// Selectors. Linux' boot protocol wants code at 0x10 and data at 0x18
// (__BOOT_CS and __BOOT_DS, Documentation/arch/x86/boot.rst). In 64-bit mode a
// TSS takes two entries.
const (
	selectorCode = 0x10
	selectorData = 0x18
	selectorTSS  = 0x20
	gdtSize      = 0x30
)

// descriptor encodes the segment as it is in a descriptor table (Intel SDM vol.
// 3, figure 3-8).
func (s Segment) descriptor() uint64 {
	bit := func(b bool, n uint) uint64 {
		if b {
			return 1 << n
		}
		return 0
	}
	limit := uint64(s.Limit)
	if s.G {
		limit >>= 12
	}
	return limit&0xffff | s.Base&0xff_ffff<<16 | uint64(s.Type)<<40 | bit(s.S, 44) | uint64(s.DPL)<<45 | bit(s.Present, 47) |
		limit>>16&0xf<<48 | bit(s.AVL, 52) | bit(s.L, 53) | bit(s.DB, 54) | bit(s.G, 55) | s.Base>>24&0xff<<56
}

// setSegments sets the segment registers and writes the descriptor table that
// they come from.
func (l *loader) setSegments(long bool) error {
	s := &l.state
	flat := Segment{Limit: 0xffff_ffff, Present: true, S: true, G: true}
	s.CS, s.Data = flat, flat
	s.CS.Selector, s.CS.Type, s.CS.L, s.CS.DB = selectorCode, segCode, long, !long
	s.Data.Selector, s.Data.Type, s.Data.DB = selectorData, segData, true
	// Virtual machine entry refuses an unusable TR (Intel SDM vol. 3,
	// 26.3.1.2). 0x67 is the smallest TSS.
	s.TR = Segment{Selector: selectorTSS, Limit: 0x67, Type: segTSS32Busy, Present: true}

	gdt, err := l.mem.Slice(GDT, memory.PageSize)
	if err != nil {
		return fmt.Errorf("boot: descriptor table: %w", err)
	}
	le.PutUint64(gdt[selectorCode:], s.CS.descriptor())
	le.PutUint64(gdt[selectorData:], s.Data.descriptor())
	le.PutUint64(gdt[selectorTSS:], s.TR.descriptor())
	s.GDT = Table{Base: GDT, Limit: gdtSize - 1}
	// No IDT: an exception before the kernel has its own ends in a shutdown,
	// which is what should be seen.
	s.IDT = Table{}
	s.RFLAGS = rflagsFixed // interrupts off
	return nil
}

// startProtected32 sets the registers for 32-bit mode without paging (Xen's
// PVH specification, "x86/PVH start of day").
func (l *loader) startProtected32(rsi uint64) error {
	if err := l.setSegments(false); err != nil {
		return err
	}
	s := &l.state
	s.Mode = Protected32
	s.CR0 = CR0PE | CR0ET // nothing else may be set; ET always is
	s.RSI = rsi
	s.RSP = StackTop
	return nil
}

// startLong64 sets the registers for 64-bit mode (Documentation/arch/x86/boot.rst,
// "64-bit boot protocol").
func (l *loader) startLong64(rsi uint64) error {
	if err := l.setSegments(true); err != nil {
		return err
	}
	if err := l.writePageTables(); err != nil {
		return err
	}
	s := &l.state
	s.Mode = Long64
	s.CR0 = CR0PE | CR0MP | CR0ET | CR0NE | CR0PG
	s.CR3 = PageTables
	s.CR4 = CR4PAE
	s.EFER = EFERLME | EFERLMA
	s.RSI = rsi
	s.RSP = StackTop
	return nil
}
