package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Extent is a piece of RAM: Length bytes from Offset, both whole pages. Offsets
// count RAM without the hole below 4 GiB, as a file of Save's has it.
type Extent struct{ Offset, Length uint64 }

// Bits of an entry of /proc/pid/pagemap.
// Documentation/admin-guide/mm/pagemap.rst.
const (
	pagemapPresent = 1 << 63
	pagemapSwapped = 1 << 62
)

// Save writes all of RAM that is not zero to f, each byte at its offset, and
// leaves the rest of f as it is: f should be a new file, which then has holes
// there. It returns where the bytes are that a restore needs. Nobody may write
// to RAM meanwhile.
//
// Pages that nobody has touched are not read, so that saving a large and empty
// machine is quick and takes no memory.
func (m *Memory) Save(f *os.File) ([]Extent, error) {
	w := &saver{m: m, f: f}
	if err := m.touched(w.run); err != nil {
		return nil, fmt.Errorf("saving guest memory: %w", err)
	}
	return coalesce(w.extents), nil
}

// pagemapPath says of each page of this process where it is.
const pagemapPath = "/proc/self/pagemap"

// PrepareSave opens what Save reads besides RAM, so that a process which can open nothing any more can save its RAM.
func (m *Memory) PrepareSave() (err error) {
	m.pagemap, err = os.Open(pagemapPath)
	return err
}

// touched calls f, in rising order, for each run of pages that may hold
// anything but zero.
func (m *Memory) touched(f func(Extent) error) error {
	if m.faults != nil { // only who brings the pages knows
		for off := uint64(0); off < m.size; off += maxRun {
			if err := f(Extent{off, min(maxRun, m.size-off)}); err != nil {
				return err
			}
		}
		return nil
	}
	pagemap := m.pagemap
	if pagemap == nil {
		var err error
		if pagemap, err = os.Open(pagemapPath); err != nil {
			return err
		}
		defer pagemap.Close()
	}
	const batch = 1 << 15 // entries read at once: 128 MiB of RAM
	entries := make([]byte, 8*batch)
	backed := m.backedExtents()
	run := Extent{}
	first := int64(m.firstPage()) * 8
	for page := uint64(0); page < m.size/PageSize; page += batch {
		n := min(batch, m.size/PageSize-page)
		if _, err := pagemap.ReadAt(entries[:8*n], first+int64(8*page)); err != nil {
			return fmt.Errorf("reading %s: %w", pagemapPath, err)
		}
		for i := range n {
			off := (page + i) * PageSize
			for len(backed) > 0 && off >= backed[0].Offset+backed[0].Length {
				backed = backed[1:]
			}
			used := binary.LittleEndian.Uint64(entries[8*i:])&(pagemapPresent|pagemapSwapped) != 0 ||
				len(backed) > 0 && off >= backed[0].Offset
			switch {
			case !used:
				continue
			case run.Length > 0 && off == run.Offset+run.Length && run.Length < maxRun:
				run.Length += PageSize
				continue
			case run.Length > 0:
				if err := f(run); err != nil {
					return err
				}
			}
			run = Extent{off, PageSize}
		}
	}
	if run.Length == 0 {
		return nil
	}
	return f(run)
}

// maxRun bounds what is looked at and written at once, in bytes: what has been looked at is still in the processor's cache when
// it is written, and file systems whose cache has pieces as large as what is written need no large free ones, which a host that is
// a VM itself may have given away (docs/performance.md).
const maxRun = 256 << 10

// backedExtents are the pieces of RAM that files are mapped to, which hold
// something although nobody has touched them.
func (m *Memory) backedExtents() []Extent {
	m.closeMu.Lock()
	defer m.closeMu.Unlock()
	all := slices.Clone(m.backed)
	slices.SortFunc(all, func(a, b Extent) int {
		if a.Offset < b.Offset {
			return -1
		}
		return 1
	})
	return all
}

// saver writes the pages of runs that are not zero.
type saver struct {
	m       *Memory
	f       *os.File
	extents []Extent
}

var zeroPage [PageSize]byte

func (s *saver) run(e Extent) error {
	if err := s.m.require(e.Offset, e.Length); err != nil {
		return err
	}
	ram := s.m.mapping[e.Offset : e.Offset+e.Length]
	for off := 0; off < len(ram); {
		n := leading(ram[off:], true)
		if off += n; off == len(ram) {
			break
		}
		n = leading(ram[off:min(len(ram), off+maxRun)], false)
		if _, err := s.f.WriteAt(ram[off:off+n], int64(e.Offset)+int64(off)); err != nil {
			return err
		}
		s.extents = append(s.extents, Extent{e.Offset + uint64(off), uint64(n)})
		off += n
	}
	return nil
}

// leading is how many bytes b begins with that are whole pages of zeros, or
// whole pages that are not.
func leading(b []byte, zero bool) int {
	n := 0
	for n < len(b) && bytes.Equal(b[n:n+PageSize], zeroPage[:]) == zero {
		n += PageSize
	}
	return n
}

// maxExtents bounds how many pieces a snapshot's memory is mapped in: each is a
// system call, and a mapping of the process.
const maxExtents = 512

// coalesce joins pieces that lie close to one another, the closest first, until
// they are few.
func coalesce(extents []Extent) []Extent {
	for gap := uint64(16 * PageSize); ; gap *= 2 {
		var out []Extent
		for _, e := range extents {
			if last := len(out) - 1; last >= 0 && e.Offset-(out[last].Offset+out[last].Length) <= gap {
				out[last].Length = e.Offset + e.Length - out[last].Offset
				continue
			}
			out = append(out, e)
		}
		if len(out) <= maxExtents {
			return out
		}
		extents = out
	}
}

// Restore makes RAM of size bytes with the contents of a file of Save's: each
// extent is a private mapping of the file, so that a restore costs the pages it
// touches and all VMs of one file share its page cache; the rest is zero. The
// file must stay as it is while the VM lives, as MapFile says. On huge pages,
// the extents are copied.
func Restore(f *os.File, size uint64, extents []Extent, opts Options) (_ *Memory, err error) {
	m, err := New(size, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	for _, e := range coalesce(extents) {
		if e.Offset%PageSize != 0 || e.Length%PageSize != 0 || e.Offset >= size || e.Length > size-e.Offset {
			return nil, fmt.Errorf("restoring guest memory: %w: %d bytes at %d", ErrRange, e.Length, e.Offset)
		}
		if err := m.checkFile(f, int64(e.Offset), e.Length); err != nil {
			return nil, fmt.Errorf("restoring: %w", err)
		}
		dst := m.mapping[e.Offset : e.Offset+e.Length]
		if opts.HugePages {
			if _, err := f.ReadAt(dst, int64(e.Offset)); err != nil {
				return nil, fmt.Errorf("restoring guest memory from %s: %w", f.Name(), err)
			}
			continue
		}
		if err := mapFixed(dst, f, int64(e.Offset), opts); err != nil {
			return nil, fmt.Errorf("restoring guest memory from %s: %w", f.Name(), err)
		}
		m.backed = append(m.backed, e)
	}
	return m, nil
}

// Populate has the host map the pages of these extents now, all at once, instead
// of one after the other when the guest touches them. It is advice: extents that
// are not RAM, or a host too old for it (Linux 5.14), are no error.
func (m *Memory) Populate(extents []Extent) {
	for _, e := range extents {
		switch {
		case e.Offset >= m.size || e.Length > m.size-e.Offset:
		case m.faults != nil:
			_ = m.require(e.Offset, e.Length)
		default:
			_ = unix.Madvise(m.mapping[e.Offset:e.Offset+e.Length], unix.MADV_POPULATE_READ)
		}
	}
}
