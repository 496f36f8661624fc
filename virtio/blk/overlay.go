package blk

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
)

// overlayBlock is the unit in which an Overlay tells its own data from the base's: the page of the host's cache,
// and the block of nearly every file system.
const overlayBlock = 4096

// leafBlocks is how many blocks share one leaf of the map: 16 MiB of the disk.
const leafBlocks = 4096

// maxOverlaySize bounds the map's top level, which has 8 bytes for each leaf: 64 TiB.
const maxOverlaySize = 64 << 40

// Overlay is a Backend that reads as another, its base, until it is written to: what is written goes to a file of
// its own, and the base is never changed. Any number of overlays may share a base.
//
// What the file of NewOverlay holds is known only to the Overlay that wrote it: it begins as a hole and is of use no longer
// than the Overlay is. That of OpenOverlay is kept.
type Overlay struct {
	base Backend
	own  *File
	size uint64
	// leaves say where each block is, nil as long as all of a leaf's are the base's.
	leaves []atomic.Pointer[leaf]
	kept   *kept // nil if the file is of no use later

	// mu serialises what changes the map, and the copying of blocks that are written in part.
	mu   sync.Mutex
	copy [overlayBlock]byte
	one  Vector
}

// leaf has two bits for each of its blocks: whether it is in the Overlay's own file, and whether it is zero. A block
// with neither is the base's, one with both is zero.
type leaf struct {
	own, zero [leafBlocks / 64]atomic.Uint64
}

// place is where a block is.
type place int

const (
	inBase place = iota
	inOwn
	isZero
)

// NewOverlay makes an overlay over base. file must be a regular one that is open for reading and writing; it loses
// what is in it and gets the size of base as a hole. The caller closes it when the device is no longer active.
func NewOverlay(base Backend, file *os.File) (*Overlay, error) {
	o, err := newOverlay(base, file)
	if err != nil {
		return nil, err
	}
	for _, n := range []int64{0, int64(o.blocks() * overlayBlock)} {
		if err := file.Truncate(n); err != nil {
			return nil, fmt.Errorf("disk overlay: %w", err)
		}
	}
	if o.own, err = OpenFile(file); err != nil {
		return nil, err
	}
	return o, nil
}

// newOverlay makes an overlay without its file, whose kind it checks.
func newOverlay(base Backend, file *os.File) (*Overlay, error) {
	size := base.Size()
	if size > maxOverlaySize {
		return nil, fmt.Errorf("disk overlay %s: the base has %d bytes, at most %d are possible", file.Name(), size, uint64(maxOverlaySize))
	}
	if st, err := file.Stat(); err != nil {
		return nil, fmt.Errorf("disk overlay: %w", err)
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("disk overlay %s: is not a regular file", file.Name())
	}
	leaves := (size + overlayBlock*leafBlocks - 1) / (overlayBlock * leafBlocks)
	return &Overlay{base: base, size: size, leaves: make([]atomic.Pointer[leaf], leaves)}, nil
}

// blocks is how many blocks the disk has, of which the last one may not be whole.
func (o *Overlay) blocks() uint64 { return (o.size + overlayBlock - 1) / overlayBlock }

// Size implements Backend.
func (o *Overlay) Size() uint64 { return o.size }

// BlockSize is that of the file.
func (o *Overlay) BlockSize() int { return o.own.BlockSize() }

// Close gives back what o has made for itself. Base and file are the caller's. A file that is kept is complete then.
func (o *Overlay) Close() error { return errors.Join(o.Keep(), o.own.Close()) }

// where tells where block is.
func (o *Overlay) where(block uint64) place {
	l := o.leaves[block/leafBlocks].Load()
	if l == nil {
		return inBase
	}
	word, bit := block%leafBlocks/64, uint64(1)<<(block%64)
	switch {
	case l.zero[word].Load()&bit != 0:
		return isZero
	case l.own[word].Load()&bit != 0:
		return inOwn
	}
	return inBase
}

// mark notes where the blocks from first up to end are from now on. mu is held.
func (o *Overlay) mark(first, end uint64, where place) {
	for first < end {
		slot := &o.leaves[first/leafBlocks]
		l := slot.Load()
		if l == nil {
			l = new(leaf)
			slot.Store(l)
		}
		o.kept.note(first / leafBlocks)
		word, shift := first%leafBlocks/64, first%64
		n := min(64-shift, end-first)
		mask := (^uint64(0) >> (64 - n)) << shift
		// A reader in between finds the block in one of the places where it is.
		if where == inOwn {
			l.own[word].Or(mask)
			l.zero[word].And(^mask)
		} else {
			l.zero[word].Or(mask)
			l.own[word].And(^mask)
		}
		first += n
	}
}

// run returns where the bytes at off are and how many after it, up to n, are in the same place.
func (o *Overlay) run(off, n uint64) (place, uint64) {
	block := off / overlayBlock
	where := o.where(block)
	end := off + n
	for block++; block*overlayBlock < end; block++ {
		if o.where(block) != where {
			return where, block*overlayBlock - off
		}
	}
	return where, n
}

// ReadAt implements Backend.
func (o *Overlay) ReadAt(v *Vector, off uint64, how Mode) error {
	for v.Len() > 0 {
		where, n := o.run(off, v.Len())
		var err error
		switch where {
		case isZero:
			v.zero(n)
		case inOwn:
			err = o.own.read(v, off, n, how)
		case inBase:
			err = o.readBase(v, off, n, how)
		}
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// readBase reads the first n bytes of v from the base, which knows nothing of parts of a vector.
func (o *Overlay) readBase(v *Vector, off, n uint64, how Mode) error {
	if n == v.Len() {
		return o.base.ReadAt(v, off, how)
	}
	if f, ok := o.base.(*File); ok {
		return f.read(v, off, n, how)
	}
	var one Vector
	for n > 0 {
		b := v.front(n)
		one.Set(b)
		if err := o.base.ReadAt(&one, off, how); err != nil {
			return err
		}
		v.skip(uint64(len(b)))
		off, n = off+uint64(len(b)), n-uint64(len(b))
	}
	return nil
}

// WriteAt implements Backend. Blocks that are written in part are copied from the base first.
func (o *Overlay) WriteAt(v *Vector, off uint64, how Mode) error {
	if how&Through == 0 || o.kept == nil {
		return o.write(v, off, how)
	}
	if how&NoWait != 0 {
		return ErrWouldBlock
	}
	if err := o.write(v, off, 0); err != nil { // the map must be stable as well
		return err
	}
	return o.flush()
}

func (o *Overlay) write(v *Vector, off uint64, how Mode) error {
	end := off + v.Len()
	first, last := off/overlayBlock, (end+overlayBlock-1)/overlayBlock
	whole := off%overlayBlock == 0 && (end%overlayBlock == 0 || end == o.size)
	if whole && o.allOwn(first, last) {
		return o.own.WriteAt(v, off, how)
	}
	if whole {
		if err := o.own.WriteAt(v, off, how); err != nil {
			return err
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.mark(first, last, inOwn)
		return nil
	}
	// The block at either end must not be copied by one writer over what another has just written.
	o.mu.Lock()
	defer o.mu.Unlock()
	if how&NoWait != 0 && (o.where(first) == inBase || o.where(last-1) == inBase) {
		return ErrWouldBlock
	}
	if off%overlayBlock != 0 {
		if err := o.copyUp(first); err != nil {
			return err
		}
	}
	if end%overlayBlock != 0 {
		if err := o.copyUp(last - 1); err != nil {
			return err
		}
	}
	if err := o.own.WriteAt(v, off, how); err != nil {
		return err
	}
	o.mark(first, last, inOwn)
	return nil
}

// allOwn reports whether the blocks from first up to end are all in the Overlay's own file.
func (o *Overlay) allOwn(first, end uint64) bool {
	for b := first; b < end; b++ {
		if o.where(b) != inOwn {
			return false
		}
	}
	return true
}

// copyUp makes block one of the Overlay's own. mu is held.
func (o *Overlay) copyUp(block uint64) error {
	where, off := o.where(block), block*overlayBlock
	if where == inOwn {
		return nil
	}
	p := o.copy[:min(overlayBlock, o.size-off)]
	clear(p)
	if where == inBase {
		o.one.Set(p)
		if err := o.base.ReadAt(&o.one, off, 0); err != nil {
			return err
		}
	}
	o.one.Set(p)
	if err := o.own.WriteAt(&o.one, off, 0); err != nil {
		return err
	}
	o.mark(block, block+1, inOwn)
	return nil
}

// Flush implements Backend. What the base has is stable already.
func (o *Overlay) Flush() error {
	if o.kept != nil {
		return o.flush()
	}
	return o.own.Flush()
}

// Discard implements Backend: what is discarded reads as zero.
func (o *Overlay) Discard(off, n uint64) error { return o.WriteZeroes(off, n, true) }

// WriteZeroes implements Backend. Whole blocks cost nothing but their bits in the map; unmap gives back what
// they had in the file.
func (o *Overlay) WriteZeroes(off, n uint64, unmap bool) error {
	end := off + n
	first, last := (off+overlayBlock-1)/overlayBlock, end/overlayBlock
	if end == o.size {
		last = (end + overlayBlock - 1) / overlayBlock
	}
	if first >= last { // within a block, or two
		return o.zeroPart(off, n)
	}
	if off < first*overlayBlock {
		if err := o.zeroPart(off, first*overlayBlock-off); err != nil {
			return err
		}
	}
	if last*overlayBlock < end {
		if err := o.zeroPart(last*overlayBlock, end-last*overlayBlock); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mark(first, last, isZero)
	if !unmap {
		return nil
	}
	err := o.own.Discard(first*overlayBlock, (last-first)*overlayBlock)
	if errors.Is(err, ErrUnsupported) { // the space is kept, that is all
		return nil
	}
	return err
}

// zeroPart writes zeros where they do not fill blocks.
func (o *Overlay) zeroPart(off, n uint64) error {
	var v Vector
	v.Set(zeroes[:n])
	return o.WriteAt(&v, off, 0)
}

// Used is how many bytes of the disk are the Overlay's own.
func (o *Overlay) Used() uint64 {
	blocks := 0
	for i := range o.leaves {
		if l := o.leaves[i].Load(); l != nil {
			for w := range l.own {
				blocks += bits.OnesCount64(l.own[w].Load() &^ l.zero[w].Load())
			}
		}
	}
	return uint64(blocks) * overlayBlock
}
