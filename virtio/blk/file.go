package blk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is a Backend over a raw file or block device.
type File struct {
	f    *os.File
	fd   int
	size uint64
	iov  vector
}

// OpenFile makes a Backend of f, which must be a regular file or a block device
// of at least one sector; a tail shorter than a sector is left out. The caller
// closes f when the device is no longer active.
func OpenFile(f *os.File) (*File, error) {
	size, err := fileSize(f)
	if err != nil {
		return nil, err
	}
	return &File{f: f, fd: int(f.Fd()), size: size}, nil
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
func (b *File) Size() uint64 { return b.size }

// ReadAt implements Backend. A file that has become shorter reads as an error.
func (b *File) ReadAt(bufs [][]byte, off uint64) error {
	return b.iov.read(b.fd, bufs, off)
}

// WriteAt implements Backend.
func (b *File) WriteAt(bufs [][]byte, off uint64) error {
	return b.iov.write(b.fd, bufs, off)
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
	for n > 0 {
		k := min(n, uint64(len(zeroes)))
		if err := b.WriteAt([][]byte{zeroes[:k]}, off); err != nil {
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
