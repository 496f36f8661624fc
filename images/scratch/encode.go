package scratch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxExtent is the longest extent that Encode makes, in bytes.
const maxExtent = 1 << 20

// Encode writes to w the template of the disk that image holds.
func Encode(w io.Writer, image *os.File) error {
	st, err := image.Stat()
	if err != nil {
		return fmt.Errorf("encoding a disk template: %w", err)
	}
	size := st.Size()
	if size <= 0 || size > maxDisk || size%BlockSize != 0 {
		return fmt.Errorf("encoding a disk template: disk of %d bytes: want a multiple of %d up to %d", size, BlockSize, int64(maxDisk))
	}
	extents, err := scan(image, size)
	if err != nil {
		return fmt.Errorf("encoding a disk template: %w", err)
	}
	var body []byte
	for _, e := range extents {
		body = binary.LittleEndian.AppendUint64(body, uint64(e.offset))
		body = binary.LittleEndian.AppendUint32(body, uint32(len(e.data)))
		body = binary.LittleEndian.AppendUint32(body, 0)
		body = append(body, e.data...)
		if len(body) > maxFile-headerSize {
			return fmt.Errorf("encoding a disk template: more than %d bytes are not zero", maxFile)
		}
	}
	head := append(make([]byte, 0, headerSize), magic...)
	head = binary.LittleEndian.AppendUint64(head, uint64(size))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(extents)))
	head = binary.LittleEndian.AppendUint32(head, 0)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	head = binary.LittleEndian.AppendUint32(head, 0)
	for _, part := range [][]byte{head, body} {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("encoding a disk template: %w", err)
		}
	}
	return nil
}

// scan finds the runs of blocks that are not all zero. It skips the file's holes unread.
func scan(f *os.File, size int64) ([]extent, error) {
	var found []extent
	total := 0
	zero := make([]byte, BlockSize)
	for pos := int64(0); pos < size; {
		start, end, err := data(f, pos, size)
		if err != nil {
			return nil, err
		}
		for pos = start; pos < end; pos += BlockSize {
			block := make([]byte, BlockSize)
			if _, err := f.ReadAt(block, pos); err != nil {
				return nil, err
			}
			if bytes.Equal(block, zero) {
				continue
			}
			if total += BlockSize; total > maxFile {
				return nil, fmt.Errorf("more than %d bytes are not zero", maxFile)
			}
			if n := len(found); n > 0 && found[n-1].offset+int64(len(found[n-1].data)) == pos && len(found[n-1].data) < maxExtent {
				found[n-1].data = append(found[n-1].data, block...)
			} else {
				found = append(found, extent{pos, block})
			}
		}
	}
	return found, nil
}

// data finds the first stretch at or after pos that is not a hole, in whole
// blocks; both ends are size when there is none.
func data(f *os.File, pos, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case err != nil:
		return 0, 0, fmt.Errorf("looking for data from %d: %w", pos, err)
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("looking for a hole from %d: %w", start, err)
	}
	start = max(start&^(BlockSize-1), pos)
	end = min((end+BlockSize-1)&^(BlockSize-1), size)
	return start, end, nil
}
