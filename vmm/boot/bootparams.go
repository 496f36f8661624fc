package boot

import (
	"fmt"
	"math"

	"github.com/hullvm/hull/vmm/memory"
)

// Offsets in struct boot_params (Documentation/arch/x86/zero-page.rst and
// arch/x86/include/uapi/asm/bootparam.h).
const (
	bpAcpiRsdpAddr    = 0x070
	bpExtRamdiskImage = 0x0c0
	bpExtRamdiskSize  = 0x0c4
	bpE820Entries     = 0x1e8
	bpE820Table       = 0x2d0
	bpE820EntrySize   = 20
)

// Offsets in boot_params and in a bzImage of struct setup_header
// (Documentation/arch/x86/boot.rst, "The real-mode kernel header").
const (
	hdrSetupSects      = 0x1f1
	hdrSyssize         = 0x1f4
	hdrVidMode         = 0x1fa
	hdrBootFlag        = 0x1fe
	hdrJump            = 0x200
	hdrHeader          = 0x202
	hdrVersion         = 0x206
	hdrTypeOfLoader    = 0x210
	hdrLoadflags       = 0x211
	hdrCode32Start     = 0x214
	hdrRamdiskImage    = 0x218
	hdrRamdiskSize     = 0x21c
	hdrHeapEndPtr      = 0x224
	hdrExtLoaderVer    = 0x226
	hdrExtLoaderType   = 0x227
	hdrCmdLinePtr      = 0x228
	hdrInitrdAddrMax   = 0x22c
	hdrKernelAlignment = 0x230
	hdrXloadflags      = 0x236
	hdrCmdlineSize     = 0x238
	hdrSetupData       = 0x250
	hdrPrefAddress     = 0x258
	hdrInitSize        = 0x260
	hdrEnd             = 0x290 // of the space that boot_params has for it

	hdrMagic         = "HdrS"
	hdrBootFlagMagic = 0xaa55

	loaderUndefined = 0xff // type_of_loader: no assigned number

	loadflagLoadedHigh = 1 << 0
	loadflagQuiet      = 1 << 5
	loadflagUseHeap    = 1 << 7

	xlfKernel64          = 1 << 0
	xlfCanBeLoadedAbove4 = 1 << 1

	vidModeNormal = 0xffff
)

// struct setup_data: next, type and length, then the bytes.
const (
	setupDataHeader = 16
	setupRNGSeed    = 9
)

// Types of memory (ACPI 6.5, table 15.4).
type memoryType uint32

const (
	memoryRAM      memoryType = 1
	memoryReserved memoryType = 2
)

type mapEntry struct {
	span
	kind memoryType
}

// memoryMap is what firmware answers to INT 15h E820: RAM with the hole of a PC
// from 639 KiB to 1 MiB, and the one below 4 GiB.
func (l *loader) memoryMap() []mapEntry {
	regions := l.mem.Regions()
	m := []mapEntry{
		{span{0, BaseMemoryEnd}, memoryRAM},
		{span{BaseMemoryEnd, HighMemory}, memoryReserved},
	}
	if end := regions[0].End(); end > HighMemory {
		m = append(m, mapEntry{span{HighMemory, end}, memoryRAM})
	}
	for _, r := range regions[1:] {
		m = append(m, mapEntry{span{r.GPA, r.End()}, memoryRAM})
	}
	return m
}

// writeBootParams fills in the zero page and what it points to.
func (l *loader) writeBootParams(rsdp uint64) error {
	zp, err := l.mem.Slice(ZeroPage, memory.PageSize)
	if err != nil {
		return fmt.Errorf("boot: zero page: %w", err)
	}
	if l.header != nil {
		copy(zp[hdrSetupSects:hdrEnd], l.header)
	} else {
		// An ELF file has no setup header. Linux looks at these fields of it.
		le.PutUint16(zp[hdrBootFlag:], hdrBootFlagMagic)
		copy(zp[hdrHeader:], hdrMagic)
		le.PutUint16(zp[hdrVersion:], 0x020f)
		zp[hdrLoadflags] = loadflagLoadedHigh
		le.PutUint16(zp[hdrXloadflags:], xlfKernel64|xlfCanBeLoadedAbove4)
		le.PutUint32(zp[hdrCmdlineSize:], defaultCmdlineMax)
		le.PutUint32(zp[hdrInitrdAddrMax:], memory.LowEnd-1)
		le.PutUint32(zp[hdrKernelAlignment:], largePageSize)
	}
	le.PutUint16(zp[hdrVidMode:], vidModeNormal)
	zp[hdrTypeOfLoader] = loaderUndefined
	zp[hdrLoadflags] &^= loadflagQuiet | loadflagUseHeap
	le.PutUint16(zp[hdrHeapEndPtr:], 0)
	zp[hdrExtLoaderVer], zp[hdrExtLoaderType] = 0, 0
	le.PutUint32(zp[hdrCmdLinePtr:], CommandLine)

	// Each may be above 4 GiB in the file format; here none is.
	if l.initrd.end > math.MaxUint32 {
		return fmt.Errorf("boot: initrd at %#x: %w", l.initrd.start, ErrNoRoom)
	}
	le.PutUint32(zp[hdrRamdiskImage:], uint32(l.initrd.start))
	le.PutUint32(zp[hdrRamdiskSize:], uint32(l.initrd.size()))
	le.PutUint32(zp[bpExtRamdiskImage:], 0)
	le.PutUint32(zp[bpExtRamdiskSize:], 0)

	le.PutUint64(zp[bpAcpiRsdpAddr:], rsdp)
	for i, e := range l.memoryMap() {
		b := zp[bpE820Table+i*bpE820EntrySize:]
		le.PutUint64(b[0:], e.start)
		le.PutUint64(b[8:], e.size())
		le.PutUint32(b[16:], uint32(e.kind))
		zp[bpE820Entries] = byte(i + 1)
	}
	return l.writeSetupData(zp)
}

// writeSetupData gives the guest its random seed. Linux credits it and erases
// it where it lies.
func (l *loader) writeSetupData(zp []byte) error {
	seed := l.p.RandomSeed
	if len(seed) == 0 {
		le.PutUint64(zp[hdrSetupData:], 0)
		return nil
	}
	b, err := l.mem.Slice(SetupData, setupDataHeader+len(seed))
	if err != nil {
		return fmt.Errorf("boot: setup data: %w", err)
	}
	le.PutUint64(b[0:], 0) // the last of the chain
	le.PutUint32(b[8:], setupRNGSeed)
	le.PutUint32(b[12:], uint32(len(seed)))
	copy(b[setupDataHeader:], seed)
	le.PutUint64(zp[hdrSetupData:], SetupData)
	return nil
}
