package blk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// The file of an Overlay that is kept has three parts: the blocks at their places, as in any Overlay's file; a page with a header;
// and the map, leaf after leaf, of each first the bits of own and then those of zero.
//
// A block is in the map of the file only when the block itself is on stable storage, or there would be a hole after a crash of
// the host where the base's data should be. So the map is written by Flush, after the blocks; what was written since the last Flush
// is forgotten by a crash, as by a disk that has a cache.

// mapPage is the unit in which the map is written, so that direct I/O can: mapLeaves leaves.
const (
	mapPage   = maxBlockSize
	leafSize  = 2 * leafBlocks / 8
	mapLeaves = mapPage / leafSize
)

// maxKeptSize bounds the disk of an overlay that is kept, whose map is read at once: 256 MiB for 4 TiB.
const maxKeptSize = 4 << 40

// The header: keptMagic, a version, and the size of the disk in bytes, the numbers little-endian.
const (
	keptMagic   = "hull-cow"
	keptVersion = 1
)

// kept is what an Overlay has whose file is used again.
type kept struct {
	header  uint64   // offset of the header in the file; the map begins a page behind it
	dirty   []bool   // for each page of the map whether it differs from the file's; Overlay.mu guards it
	changed []uint64 // pages that are dirty

	flushing sync.Mutex // serialises what is written
}

// OpenOverlay is NewOverlay for a file that is kept: what is written to the disk is there when the file is opened again, with
// the same base. A file begins empty. It must not be trusted more than its writer.
func OpenOverlay(base Backend, file *os.File) (*Overlay, error) {
	if size := base.Size(); size > maxKeptSize {
		return nil, fmt.Errorf("disk overlay %s: the base has %d bytes, at most %d are possible", file.Name(), size, uint64(maxKeptSize))
	}
	o, err := newOverlay(base, file)
	if err != nil {
		return nil, err
	}
	pages := (uint64(len(o.leaves)) + mapLeaves - 1) / mapLeaves
	k := &kept{header: o.blocks() * overlayBlock, dirty: make([]bool, pages)}
	header := make([]byte, mapPage)
	copy(header, keptMagic)
	binary.LittleEndian.PutUint64(header[8:], keptVersion)
	binary.LittleEndian.PutUint64(header[16:], o.size)
	end := int64(k.header + (1+pages)*mapPage)
	st, err := file.Stat()
	if err == nil && st.Size() == 0 {
		err = file.Truncate(end)
	} else if err == nil && st.Size() < end {
		err = fmt.Errorf("%s: has %d bytes, and needs %d", file.Name(), st.Size(), end)
	}
	if err != nil {
		return nil, fmt.Errorf("disk overlay: %w", err)
	}
	if o.own, err = OpenFile(file); err != nil {
		return nil, err
	}
	o.kept = k
	found := make([]byte, mapPage)
	if err := o.own.readPage(found, k.header); err != nil {
		return nil, fmt.Errorf("disk overlay %s: %w", file.Name(), err)
	}
	switch {
	case bytes.Equal(found, header):
		err = o.loadMap()
	case bytes.Equal(found, make([]byte, mapPage)): // nothing has ever been flushed
		err = o.begin(file, header, end)
	default:
		err = fmt.Errorf("disk overlay %s: is none of a disk of %d bytes", file.Name(), o.size)
	}
	if err != nil {
		return nil, errors.Join(err, o.own.Close())
	}
	return o, nil
}

// begin makes the file one of an overlay that nothing has been written to.
func (o *Overlay) begin(file *os.File, header []byte, end int64) error {
	for _, n := range []int64{0, end} {
		if err := file.Truncate(n); err != nil {
			return fmt.Errorf("disk overlay: %w", err)
		}
	}
	if err := o.own.writePage(header, o.kept.header); err != nil {
		return fmt.Errorf("disk overlay %s: %w", file.Name(), err)
	}
	return nil
}

// loadMap reads the map.
func (o *Overlay) loadMap() error {
	p := make([]byte, mapPage)
	for page := range o.kept.dirty {
		if err := o.own.readPage(p, o.kept.header+uint64(1+page)*mapPage); err != nil {
			return fmt.Errorf("the map of a disk overlay: %w", err)
		}
		for i := range mapLeaves {
			bits := p[i*leafSize:][:leafSize]
			at := page*mapLeaves + i
			if at >= len(o.leaves) || bytes.Equal(bits, noBits[:]) {
				continue
			}
			l := new(leaf)
			for w := range l.own {
				there := upTo(o.blocks(), uint64(at*leafBlocks+64*w))
				l.own[w].Store(binary.LittleEndian.Uint64(bits[8*w:]) & there)
				l.zero[w].Store(binary.LittleEndian.Uint64(bits[leafSize/2+8*w:]) & there)
			}
			o.leaves[at].Store(l)
		}
	}
	return nil
}

var noBits [leafSize]byte // read only

// upTo has the bits of the blocks from first on that come before end.
func upTo(end, first uint64) uint64 {
	switch {
	case first >= end:
		return 0
	case end-first >= 64:
		return ^uint64(0)
	}
	return 1<<(end-first) - 1
}

// note has the next Flush write the page of the map that leaf is in. Overlay.mu is held. It does nothing on nil.
func (k *kept) note(leaf uint64) {
	if k == nil {
		return
	}
	if page := leaf / mapLeaves; !k.dirty[page] {
		k.dirty[page] = true
		k.changed = append(k.changed, page)
	}
}

// Keep makes the file complete, if it is one that is kept: also with what nobody has flushed.
func (o *Overlay) Keep() error {
	if o.kept == nil {
		return nil
	}
	o.mu.Lock()
	complete := len(o.kept.changed) == 0
	o.mu.Unlock()
	if complete {
		return nil
	}
	return o.flush()
}

// flush writes blocks, and then the map of them.
func (o *Overlay) flush() error {
	k := o.kept
	k.flushing.Lock()
	defer k.flushing.Unlock()
	o.mu.Lock()
	pages := k.changed
	k.changed = nil
	slices.Sort(pages)
	written := make([]byte, mapPage*len(pages))
	for i, page := range pages {
		k.dirty[page] = false
		o.putPage(written[i*mapPage:][:mapPage], page)
	}
	o.mu.Unlock()
	// All blocks in these pages were written before they were marked.
	err := o.own.Flush()
	for i, page := range pages {
		if err == nil {
			err = o.own.writePage(written[i*mapPage:][:mapPage], k.header+(1+page)*mapPage)
		}
	}
	if err == nil && len(pages) > 0 {
		err = o.own.Flush()
	}
	if err != nil {
		o.mu.Lock()
		for _, page := range pages {
			k.note(page * mapLeaves)
		}
		o.mu.Unlock()
	}
	return err
}

// putPage puts a page of the map into p, which is zero.
func (o *Overlay) putPage(p []byte, page uint64) {
	first := page * mapLeaves
	for i := range o.leaves[first:min(first+mapLeaves, uint64(len(o.leaves)))] {
		l := o.leaves[first+uint64(i)].Load()
		if l == nil {
			continue
		}
		bits := p[i*leafSize:][:leafSize]
		for w := range l.own {
			binary.LittleEndian.PutUint64(bits[8*w:], l.own[w].Load())
			binary.LittleEndian.PutUint64(bits[leafSize/2+8*w:], l.zero[w].Load())
		}
	}
}

func (b *File) readPage(p []byte, off uint64) error {
	var v Vector
	v.Set(p)
	return b.ReadAt(&v, off, 0)
}

func (b *File) writePage(p []byte, off uint64) error {
	var v Vector
	v.Set(p)
	return b.WriteAt(&v, off, 0)
}

// Extent is a range of a disk with an Overlay.
type Extent struct {
	Off, Len uint64 // bytes
	Own      bool   // it is in the Overlay's file, else in the base
}

// Extents returns what makes up the disk but for zeros, in order. Nothing may write to it meanwhile.
func (o *Overlay) Extents() (list []Extent) {
	for off := uint64(0); off < o.size; {
		where, n := o.run(off, o.size-off)
		if where != isZero {
			list = append(list, Extent{off, n, where == inOwn})
		}
		off += n
	}
	return list
}
