package layerdisk

import (
	"bytes"
	"errors"
	"io"
	"os"
)

const blockSize = 4096 // of the ext4 images

var zeroBlock [blockSize]byte

func isZero(p []byte) bool {
	for len(p) > blockSize {
		if !bytes.Equal(p[:blockSize], zeroBlock[:]) {
			return false
		}
		p = p[blockSize:]
	}
	return bytes.Equal(p, zeroBlock[:len(p)])
}

// sparseFile writes to a new, empty file and leaves blocks of zeros out, so
// that holes of sparse files, unused group descriptors and bitmaps take no
// space on the host. It stands for the io.ReadWriteSeeker of the ext4 writer.
type sparseFile struct {
	f      *os.File
	offset int64
	end    int64 // beyond this nothing but zeros was ever written
	size   int64 // of the file as the writer sees it
}

func (s *sparseFile) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		var zeros, data int
		if s.offset >= s.end {
			zeros = zeroPrefix(p)
			data = dataPrefix(p[zeros:])
		} else {
			// Zeros that replace something else must be written.
			data = int(min(int64(len(p)), s.end-s.offset))
		}
		s.offset += int64(zeros)
		n, err := s.f.WriteAt(p[zeros:zeros+data], s.offset)
		s.offset += int64(n)
		if n > 0 {
			s.end = max(s.end, s.offset)
		}
		s.size = max(s.size, s.offset)
		p = p[zeros+n:]
		if err != nil {
			return total - len(p), err
		}
	}
	return total, nil
}

// zeroPrefix is the length of the zero blocks p starts with. A part of a block
// at the end counts only when it is zero, too.
func zeroPrefix(p []byte) int {
	n := 0
	for n < len(p) && isZero(p[n:min(n+blockSize, len(p))]) {
		n = min(n+blockSize, len(p))
	}
	return n
}

// dataPrefix is the length of p up to the next whole block of zeros.
func dataPrefix(p []byte) int {
	n := 0
	for n < len(p) {
		if len(p)-n >= blockSize && isZero(p[n:n+blockSize]) {
			break
		}
		n = min(n+blockSize, len(p))
	}
	return n
}

func (s *sparseFile) Read(p []byte) (int, error) {
	n, err := s.f.ReadAt(p, s.offset)
	s.offset += int64(n)
	if n < len(p) && err == io.EOF && s.offset < s.size {
		// The end of the file may still be a hole that is not there yet.
		rest := p[n:min(int64(len(p)), int64(n)+s.size-s.offset)]
		clear(rest)
		s.offset += int64(len(rest))
		return n + len(rest), nil
	}
	return n, err
}

func (s *sparseFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += s.offset
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of a disk image")
	}
	s.offset = offset
	return offset, nil
}

// finish gives the file its size, which holes at the end have not.
func (s *sparseFile) finish() error { return s.f.Truncate(s.size) }
