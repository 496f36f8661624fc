package boot

import (
	"encoding/binary"
	"fmt"
)

// ELF64 constants (System V ABI, chapters 4 and 5; x86-64 psABI, 4.1).
const (
	elfMagic = "\x7fELF"

	eiClass    = 4
	eiData     = 5
	elfClass64 = 2
	elfData2LE = 1 // ELFDATA2LSB
	etExec     = 2
	etDyn      = 3
	emX8664    = 62

	ptLoad = 1
	ptNote = 4

	elfHeaderSize  = 64
	elfProgramSize = 56

	// maxELFPrograms bounds the program headers that are read. Kernels have
	// less than ten.
	maxELFPrograms = 128
)

var le = binary.LittleEndian

// elfFile is what of an ELF file matters for loading it.
type elfFile struct {
	entry uint64
	loads []elfSegment
	notes []elfSegment
}

// elfSegment is a program header (Elf64_Phdr).
type elfSegment struct {
	index                                int
	off, vaddr, paddr, filesz, memsz, al uint64
}

// physical returns the addresses that the segment is loaded to. parseELF has
// checked that they do not wrap.
func (s elfSegment) physical() span { return span{s.paddr, s.paddr + s.memsz} }

// parseELF reads the headers of an ELF64 executable for x86-64. What it returns
// lies within the file and does not wrap.
func parseELF(im Image) (*elfFile, error) {
	h, err := im.read(0, elfHeaderSize)
	if err != nil {
		return nil, fmt.Errorf("ELF header: %w", err)
	}
	machine, kind := le.Uint16(h[18:]), le.Uint16(h[16:])
	switch {
	case string(h[:4]) != elfMagic:
		return nil, fmt.Errorf("%s: %w: not an ELF file", im.name, ErrNotKernel)
	case h[eiClass] != elfClass64:
		return nil, fmt.Errorf("%s: %w: it is not a 64-bit ELF file (class %d)", im.name, ErrUnsupported, h[eiClass])
	case h[eiData] != elfData2LE || machine != emX8664:
		return nil, fmt.Errorf("%s: %w: it is for another kind of processor (ELF machine %d), not x86-64", im.name, ErrUnsupported, machine)
	case kind != etExec && kind != etDyn:
		return nil, fmt.Errorf("%s: %w: it is an ELF file of type %d, not an executable; link it first", im.name, ErrNotKernel, kind)
	}
	f := &elfFile{entry: le.Uint64(h[24:])}
	phoff, phentsize, phnum := le.Uint64(h[32:]), le.Uint16(h[54:]), uint64(le.Uint16(h[56:]))
	switch {
	case phnum == 0:
		return nil, fmt.Errorf("%s: %w: an ELF file without program headers", im.name, ErrNotKernel)
	case phnum > maxELFPrograms:
		return nil, fmt.Errorf("%s: %w: %d program headers, at most %d make sense", im.name, ErrMalformed, phnum, maxELFPrograms)
	case phentsize != elfProgramSize:
		return nil, fmt.Errorf("%s: %w: program headers of %d bytes, must be %d", im.name, ErrMalformed, phentsize, elfProgramSize)
	}
	table, err := im.read(phoff, phnum*elfProgramSize)
	if err != nil {
		return nil, fmt.Errorf("ELF program headers: %w", err)
	}
	for i := range int(phnum) {
		if err := f.addProgram(im, i, table[i*elfProgramSize:]); err != nil {
			return nil, err
		}
	}
	if len(f.loads) == 0 {
		return nil, fmt.Errorf("%s: %w: nothing in it is to be loaded (no PT_LOAD segment)", im.name, ErrNotKernel)
	}
	return f, nil
}

func (f *elfFile) addProgram(im Image, i int, p []byte) error {
	s := elfSegment{
		index: i,
		off:   le.Uint64(p[8:]), vaddr: le.Uint64(p[16:]), paddr: le.Uint64(p[24:]),
		filesz: le.Uint64(p[32:]), memsz: le.Uint64(p[40:]), al: le.Uint64(p[48:]),
	}
	kind := le.Uint32(p)
	if kind != ptLoad && kind != ptNote {
		return nil
	}
	if !im.has(s.off, s.filesz) {
		return fmt.Errorf("%s: %w: segment %d ends at byte %#x+%#x, the file at %#x", im.name, ErrTruncated, i, s.off, s.filesz, im.size)
	}
	if kind == ptNote {
		f.notes = append(f.notes, s)
		return nil
	}
	switch {
	case s.filesz > s.memsz:
		return fmt.Errorf("%s: %w: segment %d has more bytes in the file (%#x) than in memory (%#x)", im.name, ErrMalformed, i, s.filesz, s.memsz)
	case s.paddr+s.memsz < s.paddr:
		return fmt.Errorf("%s: %w: segment %d at %#x: its %#x bytes wrap around", im.name, ErrMalformed, i, s.paddr, s.memsz)
	case s.memsz > 0:
		f.loads = append(f.loads, s)
	}
	return nil
}

// physicalEntry returns the physical address of the entry point. e_entry is a
// virtual address by the ABI, but vmlinux has a physical one; either is
// understood, the physical one first.
func (f *elfFile) physicalEntry() (uint64, bool) {
	for _, s := range f.loads {
		if s.physical().contains(f.entry) {
			return f.entry, true
		}
	}
	for _, s := range f.loads {
		if off := f.entry - s.vaddr; off < s.memsz {
			return s.paddr + off, true
		}
	}
	return 0, false
}

// elfProtocol chooses between the two entry points an ELF file may have. The
// 64-bit one comes first: the guest need not build page tables before it has
// one instruction of its own done. Where the PVH note names e_entry itself,
// there is only 32-bit code there.
func (l *loader) elfProtocol() (Protocol, error) {
	f, err := parseELF(l.p.Kernel)
	if err != nil {
		return "", err
	}
	if entry, ok := findPVHEntry(l.p.Kernel, f); ok && entry == f.entry {
		return ProtocolPVH, nil
	}
	return ProtocolELF, nil
}

// loadELF puts the segments of an ELF kernel in their places.
func (l *loader) loadELF() error {
	im := l.p.Kernel
	f, err := parseELF(im)
	if err != nil {
		return err
	}
	for _, s := range f.loads {
		if _, ok := l.ram(s.paddr, s.memsz); !ok {
			return fmt.Errorf("%s: segment %d at %#x to %#x: %w; %s", im.name, s.index, s.paddr, s.paddr+s.memsz-1, ErrNoRoom, l.ramText())
		}
		if err := l.used.add(s.paddr, s.memsz, fmt.Sprintf("segment %d", s.index)); err != nil {
			return fmt.Errorf("%s: %w", im.name, err)
		}
	}
	entry, ok := f.physicalEntry()
	if l.state.Protocol == ProtocolPVH {
		if entry, ok = findPVHEntry(im, f); !ok {
			return fmt.Errorf("%s: %w: it has no PVH entry point (no XEN_ELFNOTE_PHYS32_ENTRY note; a Linux kernel needs CONFIG_PVH)", im.name, ErrUnsupported)
		}
		ok = false
		for _, s := range f.loads {
			ok = ok || s.physical().contains(entry)
		}
	}
	if !ok {
		return fmt.Errorf("%s: %w: its entry point %#x is in none of its segments", im.name, ErrMalformed, entry)
	}
	l.state.RIP = entry
	for _, s := range f.loads {
		// What follows filesz is zero already: memory is new.
		if err := l.put(im, s.paddr, s.off, s.filesz); err != nil {
			return fmt.Errorf("%s: segment %d: %w", im.name, s.index, err)
		}
	}
	return nil
}
