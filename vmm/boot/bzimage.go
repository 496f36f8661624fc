package boot

import "fmt"

// Limits on a bzImage's setup header (Documentation/arch/x86/boot.rst).
const (
	bzSector      = 512
	bzParagraph   = 16 // the unit of syssize
	bzVersion     = 0x020c
	bzHeaderRead  = 0x300 // bytes that hold all of the header
	bzEntry64     = 0x200 // of the 64-bit entry point, from the load address
	bzMinHeader   = hdrInitSize + 4
	bzSetupSects0 = 4 // what a setup_sects of 0 stands for
)

// loadBzImage loads a bzImage's protected-mode part to the address that it
// prefers. It decompresses itself there, within init_size bytes.
func (l *loader) loadBzImage() error {
	im := l.p.Kernel
	if im.size < bzHeaderRead {
		return fmt.Errorf("%s: %w: %d bytes are less than a bzImage's headers", im.name, ErrTruncated, im.size)
	}
	h, err := im.read(0, bzHeaderRead)
	if err != nil {
		return err
	}
	bad := func(what error, format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", im.name, what, fmt.Sprintf(format, args...))
	}
	if le.Uint16(h[hdrBootFlag:]) != hdrBootFlagMagic || string(h[hdrHeader:hdrHeader+4]) != hdrMagic {
		return bad(ErrNotKernel, "no bzImage's setup header")
	}
	version := le.Uint16(h[hdrVersion:])
	if version < bzVersion {
		return bad(ErrUnsupported, "boot protocol %d.%02d; a 64-bit entry point needs 2.12 (Linux 3.8)", version>>8, version&0xff)
	}
	if h[hdrLoadflags]&loadflagLoadedHigh == 0 {
		return bad(ErrUnsupported, "a zImage, to be loaded below 1 MiB")
	}
	if le.Uint16(h[hdrXloadflags:])&xlfKernel64 == 0 {
		return bad(ErrUnsupported, "no 64-bit entry point (XLF_KERNEL_64 not set); it is a 32-bit kernel")
	}
	// The jump over the header at 0x200 says where the header ends.
	end := hdrHeader + uint64(h[hdrJump+1])
	if end < bzMinHeader || end > hdrEnd {
		return bad(ErrMalformed, "the setup header ends at %#x, must be %#x to %#x", end, bzMinHeader, hdrEnd)
	}

	sects := uint64(h[hdrSetupSects])
	if sects == 0 {
		sects = bzSetupSects0
	}
	setup := (sects + 1) * bzSector
	size := uint64(le.Uint32(h[hdrSyssize:])) * bzParagraph
	if setup < end || size <= bzEntry64 {
		return bad(ErrMalformed, "setup_sects %d and syssize %d leave no kernel", sects, size/bzParagraph)
	}
	if !im.has(setup, size) {
		return bad(ErrTruncated, "its header promises %d bytes, the file has %d", setup+size, im.size)
	}
	load, initSize := le.Uint64(h[hdrPrefAddress:]), uint64(le.Uint32(h[hdrInitSize:]))
	if load < HighMemory {
		return bad(ErrMalformed, "it wants to be loaded to %#x (pref_address), must be 1 MiB or above", load)
	}
	need := max(size, initSize)
	if _, ok := l.ram(load, need); !ok {
		return bad(ErrNoRoom, "it needs memory from %#x to %#x to unpack itself; %s", load, load+need-1, l.ramText())
	}
	if err := l.used.add(load, need, "the kernel"); err != nil {
		return fmt.Errorf("%s: %w", im.name, err)
	}
	if err := l.put(im, load, setup, size); err != nil {
		return fmt.Errorf("%s: %w", im.name, err)
	}
	l.header = h[hdrSetupSects:end]
	le.PutUint32(h[hdrCode32Start:], uint32(load))
	l.cmdlineMax = uint64(le.Uint32(h[hdrCmdlineSize:]))
	l.initrdAddrMax = uint64(le.Uint32(h[hdrInitrdAddrMax:]))
	l.state.RIP = load + bzEntry64
	return nil
}
