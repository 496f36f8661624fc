package guestkernel

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/pierrec/lz4/v4"
)

const (
	maxPayload = 256 << 20 // bytes, compressed
	maxVmlinux = 512 << 20 // bytes, uncompressed
)

// Vmlinux unpacks the ELF file inside a bzImage of size bytes.
func Vmlinux(r io.ReaderAt, size int64) ([]byte, error) {
	image, err := vmlinux(r, size)
	if err != nil {
		return nil, fmt.Errorf("unpacking the vmlinux of a bzImage: %w", err)
	}
	return image, nil
}

func vmlinux(r io.ReaderAt, size int64) ([]byte, error) {
	h, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	if v := binary.LittleEndian.Uint16(h[offVersion:]); v < payloadVersion {
		return nil, fmt.Errorf("%w: boot protocol %d.%d does not tell where it is", ErrNotKernel, v>>8, v&0xff)
	}
	sects := int64(h[offSetupSects])
	if sects == 0 {
		sects = 4 // boot.rst: for reasons of history
	}
	offset := (sects+1)*sectorSize + int64(binary.LittleEndian.Uint32(h[offPayload:]))
	length := int64(binary.LittleEndian.Uint32(h[offPayloadLength:]))
	if length < 8 || length > maxPayload || offset > size || length > size-offset {
		return nil, fmt.Errorf("%w: %d bytes at %d of a file of %d", ErrCorrupt, length, offset, size)
	}
	payload := make([]byte, length)
	if _, err := r.ReadAt(payload, offset); err != nil {
		return nil, err
	}
	// After the compressed data stands the size of the uncompressed.
	want := binary.LittleEndian.Uint32(payload[length-4:])
	if want == 0 || want > maxVmlinux {
		return nil, fmt.Errorf("%w: %d bytes uncompressed", ErrCorrupt, want)
	}
	image, err := decompress(payload[:length-4], int(want))
	if err != nil {
		return nil, err
	}
	if len(image) != int(want) {
		return nil, fmt.Errorf("%w: %d bytes uncompressed, it says %d", ErrCorrupt, len(image), want)
	}
	if len(image) < 4 || string(image[:4]) != "\x7fELF" {
		return nil, fmt.Errorf("%w: what is inside is not an ELF file", ErrCorrupt)
	}
	return image, nil
}

// unlz4 unpacks LZ4 in the "legacy" format, the only one that the kernel's build makes: a
// magic, then blocks, each with its compressed size, each of 8 MiB uncompressed but the last.
func unlz4(src []byte, limit int) ([]byte, error) {
	const blockSize = 8 << 20
	var out []byte
	for rest := src[4:]; len(rest) >= 4; {
		n := binary.LittleEndian.Uint32(rest)
		rest = rest[4:]
		if n > math.MaxInt32 || int(n) > len(rest) {
			return nil, fmt.Errorf("%w: LZ4 block of %d bytes, %d are left", ErrCorrupt, n, len(rest))
		}
		room := min(blockSize, limit-len(out))
		if room <= 0 {
			return nil, fmt.Errorf("%w: more than %d bytes uncompressed", ErrCorrupt, limit)
		}
		start := len(out)
		out = append(out, make([]byte, room)...)
		got, err := lz4.UncompressBlock(rest[:n], out[start:])
		if err != nil {
			return nil, fmt.Errorf("%w: LZ4: %w", ErrCorrupt, err)
		}
		out = out[:start+got]
		rest = rest[n:]
	}
	return out, nil
}
