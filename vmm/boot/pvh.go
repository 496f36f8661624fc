package boot

import (
	"fmt"
	"math"

	"github.com/hullvm/hull/vmm/memory"
)

// PVH is Xen's way of starting a guest without firmware
// (xen/include/public/arch-x86/hvm/start_info.h and docs/misc/pvh.pandoc).
const (
	// xenELFNotePhys32Entry is XEN_ELFNOTE_PHYS32_ENTRY: the physical address
	// of a 32-bit entry point, in a note of the owner "Xen".
	xenELFNotePhys32Entry = 18

	hvmStartMagic       = 0x336ec578
	hvmStartVersion     = 1  // with a memory map
	hvmStartInfoSize    = 56 // struct hvm_start_info
	hvmModuleSize       = 32 // struct hvm_modlist_entry
	hvmMemmapSize       = 24 // struct hvm_memmap_table_entry
	hvmModule           = PVHStartInfo + 0x40
	hvmMemmap           = PVHStartInfo + 0x80
	elfNoteHeaderSize   = 12
	maxELFNotes         = 64 << 10 // bytes of a PT_NOTE segment that are looked at
	maxHVMMemmapEntries = (memory.PageSize - 0x80) / hvmMemmapSize
)

// findPVHEntry looks for the entry point in the ELF notes. Notes that make no
// sense end the search of their segment: they are not ours to judge.
func findPVHEntry(im Image, f *elfFile) (uint64, bool) {
	for _, s := range f.notes {
		b, err := im.read(s.off, min(s.filesz, maxELFNotes))
		if err != nil {
			continue
		}
		align := uint64(4)
		if s.al == 8 {
			align = 8
		}
		if entry, ok := pvhEntry(b, align); ok {
			return entry, true
		}
	}
	return 0, false
}

// pvhEntry looks through the notes in b (System V ABI, "Note Section"): a
// header of three words, name and descriptor, each padded to align.
func pvhEntry(b []byte, align uint64) (uint64, bool) {
	for len(b) >= elfNoteHeaderSize {
		namesz, descsz, kind := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		// The sizes are below 2^32, so no sum here wraps.
		descOff := alignUp(elfNoteHeaderSize+namesz, align)
		end := descOff + descsz
		if end > uint64(len(b)) {
			return 0, false
		}
		name, desc := b[elfNoteHeaderSize:elfNoteHeaderSize+namesz], b[descOff:end]
		if string(name) == "Xen\x00" && kind == xenELFNotePhys32Entry {
			switch len(desc) {
			case 4:
				return uint64(le.Uint32(desc)), true
			case 8:
				return le.Uint64(desc), true
			}
			return 0, false
		}
		b = b[min(alignUp(end, align), uint64(len(b))):]
	}
	return 0, false
}

func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// startPVH writes the start info and sets the registers.
func (l *loader) startPVH(rsdp uint64) error {
	if l.state.RIP > math.MaxUint32 {
		return fmt.Errorf("%s: %w: its PVH entry point %#x is above 4 GiB", l.p.Kernel.name, ErrMalformed, l.state.RIP)
	}
	memmap := l.memoryMap()
	if len(memmap) > maxHVMMemmapEntries {
		return fmt.Errorf("boot: memory map of %d entries: %w", len(memmap), ErrNoRoom)
	}
	page, err := l.mem.Slice(PVHStartInfo, memory.PageSize)
	if err != nil {
		return fmt.Errorf("boot: start info: %w", err)
	}
	le.PutUint32(page[0:], hvmStartMagic)
	le.PutUint32(page[4:], hvmStartVersion)
	if l.initrd.size() > 0 {
		le.PutUint32(page[12:], 1) // nr_modules: the first is the initrd
		le.PutUint64(page[16:], hvmModule)
		le.PutUint64(page[hvmModule-PVHStartInfo:], l.initrd.start)
		le.PutUint64(page[hvmModule-PVHStartInfo+8:], l.initrd.size())
	}
	le.PutUint64(page[24:], CommandLine)
	le.PutUint64(page[32:], rsdp)
	le.PutUint64(page[40:], hvmMemmap)
	le.PutUint32(page[48:], uint32(len(memmap)))
	for i, e := range memmap {
		b := page[hvmMemmap-PVHStartInfo+i*hvmMemmapSize:]
		le.PutUint64(b[0:], e.start)
		le.PutUint64(b[8:], e.size())
		le.PutUint32(b[16:], uint32(e.kind)) // XEN_HVM_MEMMAP_TYPE_*, the same as E820
	}
	l.state.RBX = PVHStartInfo
	return l.startProtected32(0)
}
