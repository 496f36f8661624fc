package engine

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// cloneFile copies a sparse file. Where the file system can, the copies share what neither changes.
func cloneFile(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	return cloneInto(dst, src)
}

// cloneInto makes an empty file a copy of another.
func cloneInto(dst, src *os.File) error {
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	size, err := src.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	return copyData(dst, src, 0, size)
}

// copyData copies the part of a sparse file from off up to limit.
func copyData(dst, src *os.File, off, limit int64) error {
	for off < limit {
		start, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if start >= limit {
			return nil
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		end = min(end, limit)
		if err := copyRange(dst, src, start, end); err != nil {
			return err
		}
		off = end
	}
	return nil
}

func copyRange(dst, src *os.File, start, end int64) error {
	buf := make([]byte, min(end-start, 1<<20))
	for start < end {
		p := buf[:min(int64(len(buf)), end-start)]
		n, err := src.ReadAt(p, start)
		if n == 0 {
			return err
		}
		if _, err := dst.WriteAt(p[:n], start); err != nil {
			return err
		}
		start += int64(n)
	}
	return nil
}
