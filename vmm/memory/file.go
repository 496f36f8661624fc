package memory

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// minMapped is the number of bytes from which LoadFile maps. Each page of a
// mapping costs the guest a fault or two, while a copy is on huge pages: a
// kernel, which patches nearly all of itself as it starts, boots a quarter
// sooner when copied (docs/decisions/0003). From this size the memory that a
// mapping saves counts for more.
const minMapped = 32 << 20

// MapFile replaces n bytes of RAM from guest physical address gpa by a private
// mapping of the file's bytes from offset off. Nothing is read before somebody
// touches it, all VMs that map the same file share its page cache, and what the
// guest writes stays its own.
//
// gpa, off and n must be multiples of PageSize, n not zero, and the file a
// regular one that has all n bytes. What was in RAM there before is lost, also
// when MapFile fails with an error that is not ErrFile or ErrRange.
//
// The file must stay as it is for as long as the VM lives. Bytes written to it
// show in pages that the guest has not written. When it is cut, touching a page
// past its new end is a SIGBUS in this process (which Go cannot survive) or an
// EFAULT from KVM_RUN. Files that are replaced by rename, as hull's own cache
// and distributions do, are safe; for others use CopyFile.
//
// RAM on huge pages cannot be mapped over: MapFile then returns an ErrFile.
func (m *Memory) MapFile(gpa uint64, f *os.File, off int64, n uint64) error {
	if err := m.checkFile(f, off, n); err != nil {
		return err
	}
	if gpa%PageSize != 0 || off%PageSize != 0 || n%PageSize != 0 || n == 0 {
		return fmt.Errorf("mapping %s at %#x: %w: address, offset %#x and length %#x must be whole pages", f.Name(), gpa, ErrFile, off, n)
	}
	if m.opts.HugePages {
		return fmt.Errorf("mapping %s at %#x: %w: not on huge pages", f.Name(), gpa, ErrFile)
	}
	m.closeMu.Lock()
	defer m.closeMu.Unlock()
	dst, err := m.slice(gpa, n)
	if err != nil {
		return fmt.Errorf("mapping %s: %w", f.Name(), err)
	}
	if err := mapFixed(dst, f, off, m.opts); err != nil {
		return fmt.Errorf("mapping %s at %#x: %w", f.Name(), gpa, err)
	}
	m.backed = append(m.backed, Extent{m.offset(gpa), n})
	return nil
}

// CopyFile reads n bytes of the file from offset off to guest physical address
// gpa. None of the three needs to be aligned, and the file may change
// afterwards.
func (m *Memory) CopyFile(gpa uint64, f *os.File, off int64, n uint64) error {
	if err := m.checkFile(f, off, n); err != nil {
		return err
	}
	return m.copyFrom(gpa, f, f.Name(), off, n)
}

// LoadFile puts n bytes of the file from offset off at guest physical address
// gpa in the cheapest way that works: whole pages of a large file are mapped as
// with MapFile when gpa and off allow it, and the rest is copied. Bytes around
// the n are left alone.
func (m *Memory) LoadFile(gpa uint64, f *os.File, off int64, n uint64) error {
	return m.loadFile(gpa, f, off, n, minMapped)
}

// loadFile is LoadFile that maps from another size than minMapped.
func (m *Memory) loadFile(gpa uint64, f *os.File, off int64, n, least uint64) error {
	if err := m.checkFile(f, off, n); err != nil {
		return err
	}
	head, body := mappable(gpa, uint64(off), n)
	if m.opts.HugePages || body < max(least, 1) {
		return m.copyFrom(gpa, f, f.Name(), off, n)
	}
	if _, err := m.slice(gpa, n); err != nil { // all or nothing
		return fmt.Errorf("loading %s: %w", f.Name(), err)
	}
	err := m.MapFile(gpa+head, f, off+int64(head), body)
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		// A file system without mmap, or a descriptor that may not be mapped.
		return m.copyFrom(gpa, f, f.Name(), off, n)
	case err != nil:
		return err
	}
	if err := m.copyFrom(gpa, f, f.Name(), off, head); err != nil {
		return err
	}
	tail := head + body
	return m.copyFrom(gpa+tail, f, f.Name(), off+int64(tail), n-tail)
}

// mappable splits n bytes at file offset off and address gpa: after head bytes,
// body bytes are whole pages of both. body is 0 if there are none. The caller
// has checked that off+n does not wrap.
func mappable(gpa, off, n uint64) (head, body uint64) {
	if gpa%PageSize != off%PageSize {
		return 0, 0
	}
	head = -gpa % PageSize
	if head >= n {
		return 0, 0
	}
	return head, (n - head) &^ (PageSize - 1)
}

// checkFile makes sure that the n bytes from off are in the file now.
func (m *Memory) checkFile(f *os.File, off int64, n uint64) error {
	if m.closed.Load() {
		return ErrClosed
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("guest memory: %w", err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("guest memory: %s: %w: not a regular file", f.Name(), ErrFile)
	}
	if size := st.Size(); off < 0 || off > size || n > uint64(size-off) {
		return fmt.Errorf("guest memory: %s: %w: it has %d bytes, %d from offset %d were asked for", f.Name(), ErrFile, size, n, off)
	}
	return nil
}

// CopyFrom reads n bytes of r from offset off to guest physical address gpa.
// name is for errors.
func (m *Memory) CopyFrom(gpa uint64, r io.ReaderAt, name string, off int64, n uint64) error {
	return m.copyFrom(gpa, r, name, off, n)
}

func (m *Memory) copyFrom(gpa uint64, r io.ReaderAt, name string, off int64, n uint64) error {
	if n == 0 {
		return nil
	}
	dst, err := m.slice(gpa, n)
	if err != nil {
		return fmt.Errorf("reading %s to guest memory: %w", name, err)
	}
	if n >= HugePageSize {
		m.preferHuge(dst)
	}
	// ReadAt returns io.EOF or nil when it read to the very end.
	if got, err := r.ReadAt(dst, off); got < len(dst) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading %s from offset %d to guest memory at %#x: %w", name, off, gpa, err)
	}
	return nil
}
