package boot

import (
	"fmt"

	"github.com/hullvm/hull/vmm/memory"
)

// cpioMagic starts an archive of the "newc" kinds, uncompressed
// (Documentation/driver-api/early-userspace/buffer-format.rst).
const cpioMagic = "07070"

// loadInitrd puts the initrd's files behind each other, as close to the end of
// RAM as the kernel allows, where they are least in its way.
//
// Linux takes archives that follow each other for one, with any number of zero
// bytes between them (buffer-format.rst: "initramfs := ("\000" | cpio_archive |
// cpio_gzip_archive)*"; each archive must start at a multiple of 4). So each
// file starts on a page of its own, where it can be mapped. Only behind a
// compressed archive the next follows at once: some of Linux' decompressors
// take more than 3 zero bytes for broken data.
func (l *loader) loadInitrd() error {
	offsets, size, err := l.initrdOffsets()
	if err != nil || size == 0 {
		return err
	}
	regions := l.mem.Regions()
	room := span{HighMemory, min(regions[0].End(), l.initrdAddrMax+1)}
	start, ok := l.used.top(room, size, memory.PageSize)
	if !ok {
		return fmt.Errorf("boot: initrd of %d KiB: %w: %s, and the kernel takes it only below %#x, beside itself",
			(size+1023)>>10, ErrNoRoom, l.ramText(), l.initrdAddrMax+1)
	}
	if err := l.used.add(start, size, "the initrd"); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	for i, im := range l.p.Initrd {
		if err := l.put(im, start+offsets[i], 0, im.size); err != nil {
			return fmt.Errorf("boot: initrd: %w", err)
		}
	}
	l.initrd = span{start, start + size}
	l.state.InitrdAddr, l.state.InitrdSize = start, size
	return nil
}

// initrdOffsets returns where each file starts in the initrd, and the size of
// it all.
func (l *loader) initrdOffsets() (offsets []uint64, size uint64, err error) {
	align := uint64(memory.PageSize)
	for _, im := range l.p.Initrd {
		if im.r == nil || im.size == 0 {
			return nil, 0, fmt.Errorf("boot: %w: %s is empty", ErrInitrd, im.name)
		}
		// Bounding each file bounds the sum: none can wrap.
		if im.size > l.mem.Size() || size > l.mem.Size() {
			return nil, 0, fmt.Errorf("boot: initrd %s of %d MiB: %w: %s", im.name, im.size>>20, ErrNoRoom, l.ramText())
		}
		head, err := im.read(0, min(im.size, uint64(len(cpioMagic))))
		if err != nil {
			return nil, 0, fmt.Errorf("boot: initrd: %w", err)
		}
		size = alignUp(size, align)
		offsets = append(offsets, size)
		size += im.size
		align = 4
		if string(head) == cpioMagic {
			align = memory.PageSize
		}
	}
	return offsets, size, nil
}
