package memory

import (
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
)

// dirty notes which pages Slice has handed out: whoever has a slice may have
// written to it. What a guest writes by itself KVM notes (KVM_GET_DIRTY_LOG).
type dirty struct {
	words []atomic.Uint64 // a bit for each page
}

// Track begins to note which pages are handed out by Slice.
func (m *Memory) Track() {
	m.dirty.Store(&dirty{words: make([]atomic.Uint64, (m.size/PageSize+63)/64)})
}

// mark notes the pages of n bytes at an offset of the mapping, which are RAM.
func (d *dirty) mark(off, n uint64) {
	if n == 0 {
		return
	}
	for page := off / PageSize; page <= (off+n-1)/PageSize; page++ {
		if w, bit := &d.words[page/64], uint64(1)<<(page%64); w.Load()&bit == 0 {
			w.Or(bit)
		}
	}
}

// TakeDirty returns the pages that Slice has handed out since Track or the last
// TakeDirty, together with those whose bits are set in guest: for each region,
// in the order of Regions, a bit for each page. It forgets the former.
func (m *Memory) TakeDirty(guest [][]uint64) []Extent {
	d := m.dirty.Load()
	if d == nil {
		return nil
	}
	for i, r := range m.regions {
		if i >= len(guest) {
			break
		}
		first := m.offset(r.GPA) / PageSize
		for w, word := range guest[i] {
			for ; word != 0; word &= word - 1 {
				page := uint64(w*64 + bits.TrailingZeros64(word))
				if page < r.Size/PageSize {
					page += first
					d.words[page/64].Or(1 << (page % 64))
				}
			}
		}
	}
	var out []Extent
	for w := range d.words {
		for word := d.words[w].Swap(0); word != 0; word &= word - 1 {
			off := uint64(w*64+bits.TrailingZeros64(word)) * PageSize
			if last := len(out) - 1; last >= 0 && out[last].Offset+out[last].Length == off {
				out[last].Length += PageSize
			} else {
				out = append(out, Extent{off, PageSize})
			}
		}
	}
	return out
}

// SaveExtents is Save for these pieces of RAM only.
func (m *Memory) SaveExtents(f *os.File, extents []Extent) error {
	w := &saver{m: m, f: f}
	for _, e := range extents {
		if e.Offset >= m.size || e.Length > m.size-e.Offset {
			return fmt.Errorf("saving guest memory: %w: %d bytes at %d", ErrRange, e.Length, e.Offset)
		}
		if err := w.run(e); err != nil {
			return fmt.Errorf("saving guest memory: %w", err)
		}
	}
	return nil
}
