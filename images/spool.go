package images

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// spool keeps an uncompressed layer between its two readings, since gzip takes
// longer to read again than to write and read a file. It is an optimisation
// and nothing else: without room for it, or when writing fails, the layer is
// decompressed twice. The file has no name, so it goes with the process.
type spool struct {
	f      *os.File
	size   int64
	failed bool
}

// spareRoom is what a spool leaves free in the file system at the least.
const spareRoom = 4 << 30

// newSpool makes a spool for a layer of so many compressed bytes, or returns
// nil when there is not plenty of room.
func (s *Store) newSpool(compressed int64) *spool {
	var st unix.Statfs_t
	if err := unix.Statfs(s.tempDir(), &st); err != nil || st.Bavail*uint64(st.Bsize)/16 < uint64(compressed+spareRoom)/16+uint64(compressed) {
		return nil
	}
	f, err := os.CreateTemp(s.tempDir(), "spool-*")
	if err != nil {
		return nil
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil
	}
	return &spool{f: f}
}

// Write never fails; the spool does.
func (s *spool) Write(p []byte) (int, error) {
	if s == nil || s.failed {
		return len(p), nil
	}
	n, err := s.f.Write(p)
	s.size += int64(n)
	s.failed = err != nil
	return len(p), nil
}

// open returns what was written, or nil when not all of it was.
func (s *spool) open() io.ReadCloser {
	if s == nil || s.failed {
		return nil
	}
	return io.NopCloser(io.NewSectionReader(s.f, 0, s.size))
}

// close gives the room back. It may be called more than once.
func (s *spool) close() {
	if s != nil {
		s.failed = true
		s.f.Close()
	}
}
