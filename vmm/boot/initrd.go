package boot

import (
	"fmt"

	"github.com/hullvm/hull/vmm/memory"
)

// initrdGap is the least number of zero bytes between two files of an initrd:
// LZ4 data ends for Linux at a chunk of size 0, four bytes
// (lib/decompress_unlz4.c), other kinds need none.
const initrdGap = 4

// loadInitrd puts the initrd's files behind each other, as close to the end of
// RAM as the kernel allows, where they are least in its way.
//
// Linux takes archives that follow each other for one, with any number of zero
// bytes between them (Documentation/driver-api/early-userspace/buffer-format.rst:
// "initramfs := ("\0" | cpio_archive | cpio_gzip_archive)*"). So each file
// starts on a page of its own, where it can be mapped.
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
	for i, im := range l.p.Initrd {
		if im.r == nil || im.size == 0 {
			return nil, 0, fmt.Errorf("boot: %w: initrd %d (%s) is empty", ErrInitrd, i, im.name)
		}
		// Bounding each file bounds the sum: it cannot wrap.
		if im.size > l.mem.Size() || size > l.mem.Size() {
			return nil, 0, fmt.Errorf("boot: initrd %s of %d MiB: %w: %s", im.name, im.size>>20, ErrNoRoom, l.ramText())
		}
		if i > 0 {
			size = alignUp(size+initrdGap, memory.PageSize)
		}
		offsets = append(offsets, size)
		size += im.size
	}
	return offsets, size, nil
}
