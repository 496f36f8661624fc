package blk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// File is a Backend over a raw file or block device.
type File struct {
	f    *os.File
	fd   int
	size atomic.Uint64
	// align is what offsets, lengths and buffers of a file that is open for direct I/O are multiples of; 0 for
	// one that goes through the page cache.
	align uint64
	// waits is set once the file has turned out to have no way of reading without waiting.
	waits atomic.Bool

	mu     sync.Mutex
	bounce []byte // for direct I/O with buffers that are not aligned, made when first needed
}

// OpenFile makes a Backend of f, which must be a regular file or a block device
// of at least one sector; a tail shorter than a sector is left out. A file that
// was opened with O_DIRECT is read and written past the page cache. The caller
// closes f when the device is no longer active.
func OpenFile(f *os.File) (*File, error) {
	b := &File{f: f, fd: int(f.Fd())}
	flags, err := unix.FcntlInt(uintptr(b.fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", f.Name(), os.NewSyscallError("fcntl", err))
	}
	if flags&unix.O_DIRECT != 0 {
		b.align = directAlign(b.fd)
	}
	size, err := fileSize(f)
	if err != nil {
		return nil, err
	}
	if b.align > SectorSize {
		size &^= b.align - 1
	}
	b.size.Store(size)
	return b, nil
}

// directAlign asks the kernel (since Linux 6.1) for the unit of direct I/O, which is a page at most on every
// file system that does not say.
func directAlign(fd int) uint64 {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align >= SectorSize && st.Dio_offset_align <= maxBlockSize {
		return uint64(st.Dio_offset_align)
	}
	return maxBlockSize
}

// fileSize is the size of a disk in whole sectors.
func fileSize(f *os.File) (uint64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("disk: %w", err)
	}
	var size int64
	switch mode := st.Mode(); {
	case mode.IsRegular():
		size = st.Size()
	case mode.IsDir():
		return 0, fmt.Errorf("disk %s: is a directory; give a file or a block device", f.Name())
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		if size, err = f.Seek(0, io.SeekEnd); err != nil {
			return 0, fmt.Errorf("disk: %w", err)
		}
	default:
		return 0, fmt.Errorf("disk %s: is neither a regular file nor a block device", f.Name())
	}
	if size < SectorSize {
		return 0, fmt.Errorf("disk %s: has %d bytes, less than one sector of %d", f.Name(), size, SectorSize)
	}
	return uint64(size) &^ (SectorSize - 1), nil
}

// Size implements Backend.
func (b *File) Size() uint64 { return b.size.Load() }

// BlockSize is the unit in which the disk should be used, in bytes: 0 for any.
func (b *File) BlockSize() int { return int(b.align) }

// Refresh looks at the file's size again, which may have been changed since. The disk follows with
// Device.Resize.
func (b *File) Refresh() error {
	size, err := fileSize(b.f)
	if err == nil {
		if b.align > SectorSize {
			size &^= b.align - 1
		}
		b.size.Store(size)
	}
	return err
}

// ReadAt implements Backend. A file that has become shorter reads as an error.
func (b *File) ReadAt(v *Vector, off uint64, how Mode) error { return b.read(v, off, v.Len(), how) }

// read reads the first n bytes of v.
func (b *File) read(v *Vector, off, n uint64, how Mode) error {
	if b.align != 0 {
		if how&NoWait != 0 {
			return ErrWouldBlock
		}
		return b.direct(v, off, n, func(v *Vector, off, n uint64) error { return v.read(b.fd, off, n, 0) }, false)
	}
	if how&NoWait == 0 {
		return v.read(b.fd, off, n, 0)
	}
	if b.waits.Load() {
		return ErrWouldBlock
	}
	switch err := v.read(b.fd, off, n, unix.RWF_NOWAIT); err {
	case unix.EOPNOTSUPP:
		b.waits.Store(true)
		return ErrWouldBlock
	case unix.EAGAIN:
		return ErrWouldBlock
	default:
		return err
	}
}

// WriteAt implements Backend.
func (b *File) WriteAt(v *Vector, off uint64, how Mode) error { return b.write(v, off, v.Len(), how) }

// write writes the first n bytes of v.
func (b *File) write(v *Vector, off, n uint64, how Mode) error {
	flags := uintptr(0)
	if how&Through != 0 {
		flags = unix.RWF_DSYNC
	}
	if b.align == 0 && how != NoWait|Through {
		return v.write(b.fd, off, n, flags)
	}
	if how&NoWait != 0 {
		return ErrWouldBlock
	}
	return b.direct(v, off, n, func(v *Vector, off, n uint64) error { return v.write(b.fd, off, n, flags) }, true)
}

// bounceSize is how much is copied at a time where direct I/O cannot use the guest's buffers.
const bounceSize = 1 << 20

// direct makes a transfer that the kernel refuses when buffers are not aligned, and then makes it by a copy.
func (b *File) direct(v *Vector, off, n uint64, transfer func(v *Vector, off, n uint64) error, write bool) error {
	if v.aligned(n, b.align) {
		return transfer(v, off, n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bounce == nil {
		m, err := unix.Mmap(-1, 0, bounceSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("disk %s: a buffer for direct I/O: %w", b.f.Name(), os.NewSyscallError("mmap", err))
		}
		b.bounce = m
	}
	var one Vector
	for n > 0 {
		p := b.bounce[:min(n, bounceSize)]
		if write {
			v.take(p)
		}
		one.Set(p)
		if err := transfer(&one, off, uint64(len(p))); err != nil {
			return err
		}
		if !write {
			v.fill(p)
		}
		off, n = off+uint64(len(p)), n-uint64(len(p))
	}
	return nil
}

// Close gives back what b has made for itself. The file is the caller's.
func (b *File) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bounce == nil {
		return nil
	}
	m := b.bounce
	b.bounce = nil
	return os.NewSyscallError("munmap", unix.Munmap(m))
}

// Flush implements Backend by fdatasync.
func (b *File) Flush() error {
	for {
		if err := unix.Fdatasync(b.fd); err != unix.EINTR {
			return err
		}
	}
}

// Discard implements Backend by punching a hole.
func (b *File) Discard(off, n uint64) error {
	return b.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// WriteZeroes implements Backend. Without unmap the space stays allocated.
func (b *File) WriteZeroes(off, n uint64, unmap bool) error {
	if unmap {
		if err := b.Discard(off, n); !errors.Is(err, ErrUnsupported) {
			return err
		}
	}
	err := b.fallocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if !errors.Is(err, ErrUnsupported) {
		return err
	}
	return b.writeZeroes(off, n)
}

// writeZeroes is for file systems that have no way but to write them.
func (b *File) writeZeroes(off, n uint64) error {
	var v Vector
	for n > 0 {
		k := min(n, uint64(len(zeroes)))
		v.Set(zeroes[:k])
		if err := b.WriteAt(&v, off, 0); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

var zeroes [64 << 10]byte // read only

func (b *File) fallocate(mode uint32, off, n uint64) error {
	for {
		err := unix.Fallocate(b.fd, mode, int64(off), int64(n))
		switch err {
		case unix.EINTR:
			continue
		case unix.EOPNOTSUPP, unix.ENOSYS:
			return ErrUnsupported
		}
		return err
	}
}
