package images

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Magic numbers of what archives are compressed with. What a file is, is told
// by its first bytes and not by what a manifest calls it, as docker does.
var (
	magicGzip  = []byte{0x1f, 0x8b}                     // RFC 1952, 2.3.1
	magicZstd  = []byte{0x28, 0xb5, 0x2f, 0xfd}         // RFC 8878, 3.1.1
	magicXz    = []byte{0xfd, '7', 'z', 'X', 'Z', 0x00} // xz-file-format, 2.1.1.1
	magicBzip2 = []byte{'B', 'Z', 'h'}                  // then the digit of the level, then magicBlock
	// magicBlock is that of bzip2's first block.
	magicBlock = []byte{0x31, 0x41, 0x59, 0x26, 0x53, 0x59}
)

// zstdWindow is the most memory a zstd archive may ask for: what zstd --ultra -22 uses, RFC 8878 recommends 8 MiB.
const zstdWindow = 128 << 20

// decompress returns the contents of r, and the media type of a layer that is
// compressed like it; empty when OCI has none for it. Damaged data gives
// ErrArchive; errors of r come through.
func decompress(r io.Reader) (_ io.ReadCloser, format types.MediaType, err error) {
	src := &source{r: r}
	in := bufio.NewReaderSize(src, 256<<10)
	start, err := in.Peek(len(magicBlock) + 4)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	var out io.ReadCloser
	switch {
	case bytes.HasPrefix(start, magicGzip):
		format = types.OCILayer
		out, err = gzip.NewReader(in)
	case bytes.HasPrefix(start, magicZstd):
		format = types.OCILayerZStd
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow)); err == nil {
			out = d.IOReadCloser()
		}
	case bytes.HasPrefix(start, magicXz):
		var d *xz.Reader
		d, err = xz.NewReader(in)
		out = io.NopCloser(d)
	case bytes.HasPrefix(start, magicBzip2) && bytes.HasSuffix(start, magicBlock):
		out = io.NopCloser(bzip2.NewReader(in))
	default:
		return io.NopCloser(in), types.OCIUncompressedLayer, nil
	}
	if err != nil {
		return nil, "", src.explain(err)
	}
	return &decompressed{out, src}, format, nil
}

// source remembers an error of the compressed data's reader, so that it is not
// taken for damage of the data.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *source) explain(err error) error {
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("decompress: %w: %w", err, ErrArchive)
}

type decompressed struct {
	io.ReadCloser
	src *source
}

func (d *decompressed) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = d.src.explain(err)
	}
	return n, err
}
