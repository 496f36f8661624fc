package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// RangeError is the error for guest physical addresses that are not RAM. It is
// an ErrRange.
type RangeError struct {
	GPA uint64 // first address asked for
	Len uint64 // bytes asked for
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("guest physical address %#x, length %#x: %v", e.GPA, e.Len, ErrRange)
}

// Unwrap makes errors.Is(err, ErrRange) hold.
func (e *RangeError) Unwrap() error { return ErrRange }

// Slice returns the n bytes of RAM from guest physical address gpa: the memory
// itself and not a copy, so the guest may change it at any time. Copy what you
// check before you check it.
//
// All n bytes must be within one region; n may be 0 if gpa is RAM. Everything
// else is a *RangeError, or ErrClosed after Close. Nothing that can be passed
// makes Slice panic. Of RAM that somebody else brings (NewFaulting) it waits
// for the pages, and returns an ErrLost when they come no more.
func (m *Memory) Slice(gpa uint64, n int) ([]byte, error) {
	if m.closed.Load() {
		return nil, ErrClosed
	}
	for i := range m.regions {
		r := &m.regions[i]
		off := gpa - r.GPA // wraps to a huge number below the region
		if off < r.Size {
			// off < Size here, so Size-off neither wraps nor is zero.
			if n < 0 || uint64(n) > r.Size-off {
				break
			}
			if d := m.dirty.Load(); d != nil {
				d.mark(m.offset(gpa), uint64(n))
			}
			if m.faults != nil {
				if err := m.require(m.offset(gpa), uint64(n)); err != nil {
					return nil, err
				}
			}
			return r.Bytes[off : off+uint64(n) : off+uint64(n)], nil
		}
	}
	return nil, &RangeError{GPA: gpa, Len: uint64(n)}
}

// offset is where a guest physical address that is RAM lies in the mapping.
func (m *Memory) offset(gpa uint64) uint64 {
	if gpa >= HighStart {
		return gpa - HighStart + LowEnd
	}
	return gpa
}

// slice is Slice for lengths that need not fit an int.
func (m *Memory) slice(gpa, n uint64) ([]byte, error) {
	if n > m.size {
		return nil, &RangeError{GPA: gpa, Len: n}
	}
	return m.Slice(gpa, int(n))
}

// ReadAt copies RAM from guest physical address gpa to p. It copies all of p or
// nothing. With it a Memory is an io.ReaderAt.
func (m *Memory) ReadAt(p []byte, gpa int64) (int, error) {
	b, err := m.at(p, gpa)
	if err != nil {
		return 0, fmt.Errorf("reading guest memory: %w", err)
	}
	return copy(p, b), nil
}

// WriteAt copies p to RAM at guest physical address gpa. It copies all of p or
// nothing. With it a Memory is an io.WriterAt.
func (m *Memory) WriteAt(p []byte, gpa int64) (int, error) {
	b, err := m.at(p, gpa)
	if err != nil {
		return 0, fmt.Errorf("writing guest memory: %w", err)
	}
	return copy(b, p), nil
}

func (m *Memory) at(p []byte, gpa int64) ([]byte, error) {
	if gpa < 0 {
		return nil, &RangeError{GPA: uint64(gpa), Len: uint64(len(p))}
	}
	return m.Slice(uint64(gpa), len(p))
}

// preferHuge asks for transparent huge pages in b, all of which is about to be
// touched, on hosts that use them where they are asked for. It is advice, so
// no error: the host may have none.
func (m *Memory) preferHuge(b []byte) {
	if m.opts.HugePages || m.opts.Transparent == THPNever {
		return
	}
	if b = wholePages(b); len(b) != 0 {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
}

// Discard gives the memory of the whole pages in b back to the host. b must be a
// piece of RAM that Slice has returned. Its pages read as zero afterwards, or where a
// file is mapped, as the file; the first touch of each takes a new page. Explicit huge
// pages are reserved for the guest and stay.
func (m *Memory) Discard(b []byte) error {
	if m.opts.HugePages {
		return nil
	}
	if b = wholePages(b); len(b) == 0 {
		return nil
	}
	advise := func() error { return unix.Madvise(b, unix.MADV_DONTNEED) }
	if m.faults != nil {
		advise = func() error { return m.discard(m.offsetOf(b), uint64(len(b))) }
	}
	if err := advise(); err != nil {
		return fmt.Errorf("guest memory: madvise(MADV_DONTNEED) of %d bytes: %w", len(b), err)
	}
	return nil
}
