package guestkernel

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// decompress unpacks data whose first bytes tell how it is compressed, to at
// most limit bytes. What is not compressed is returned as it is.
func decompress(src []byte, limit int) ([]byte, error) {
	var r io.Reader
	var err error
	name := ""
	switch {
	case bytes.HasPrefix(src, []byte("\x7fELF")):
		return src, nil
	case bytes.HasPrefix(src, []byte{0x02, 0x21, 0x4c, 0x18}):
		return unlz4(src, limit)
	case bytes.HasPrefix(src, []byte{0x1f, 0x8b}):
		name = "gzip"
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(src)); err == nil {
			z.Multistream(false)
			r = z
		}
	case bytes.HasPrefix(src, []byte("\xfd7zXZ\x00")):
		name = "xz"
		// A dictionary is at most as large as what it is for.
		r, err = xz.ReaderConfig{DictCap: max(lzma.MinDictCap, min(limit, maxDictionary)), SingleStream: true}.NewReader(bytes.NewReader(src))
	case bytes.HasPrefix(src, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		name = "zstd"
		var z *zstd.Decoder
		z, err = zstd.NewReader(bytes.NewReader(src), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(limit)+maxDictionary), zstd.WithDecoderMaxWindow(maxDictionary))
		if err == nil {
			defer z.Close()
			r = z
		}
	case bytes.HasPrefix(src, []byte("BZh")):
		name, r = "bzip2", bzip2.NewReader(bytes.NewReader(src))
	case bytes.HasPrefix(src, []byte{0x5d, 0, 0}):
		name = "lzma"
		r, err = lzma.ReaderConfig{DictCap: max(lzma.MinDictCap, min(limit, maxDictionary))}.NewReader(bytes.NewReader(src))
	default:
		return nil, fmt.Errorf("%w: it begins with % x", ErrCompression, src[:min(len(src), 6)])
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, name, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, name, err)
	}
	if len(out) > limit {
		return nil, fmt.Errorf("%w: %s: more than %d bytes uncompressed", ErrCorrupt, name, limit)
	}
	return out, nil
}

// maxDictionary bounds the memory that a decompressor takes, in bytes. The
// kernel's build uses up to 128 MiB.
const maxDictionary = 128 << 20
