package boot

import (
	"fmt"
	"io"
	"math"
	"os"

	"github.com/hullvm/hull/vmm/memory"
)

// Image is the bytes of a kernel or an initrd: a file, which is mapped where
// possible, or anything else that can be read.
type Image struct {
	name string
	r    io.ReaderAt
	file *os.File // nil if it cannot be mapped
	off  int64    // where the image starts in file
	size uint64
}

// FileImage is all of an open regular file. The file may be closed after Load.
func FileImage(f *os.File) (Image, error) {
	st, err := f.Stat()
	if err != nil {
		return Image{}, fmt.Errorf("boot: %w", err)
	}
	if !st.Mode().IsRegular() {
		return Image{}, fmt.Errorf("boot: %s: %w: not a regular file", f.Name(), ErrParams)
	}
	return Image{name: f.Name(), r: f, file: f, size: uint64(st.Size())}, nil
}

// FileSectionImage is size bytes of an open regular file from off.
func FileSectionImage(f *os.File, off, size int64) (Image, error) {
	whole, err := FileImage(f)
	if err != nil {
		return Image{}, err
	}
	if off < 0 || size < 0 || uint64(off) > whole.size || uint64(size) > whole.size-uint64(off) {
		return Image{}, fmt.Errorf("boot: %s: %w: %d bytes from offset %d of a file of %d", f.Name(), ErrParams, size, off, whole.size)
	}
	return Image{name: f.Name(), r: io.NewSectionReader(f, off, size), file: f, off: off, size: uint64(size)}, nil
}

// ReaderImage is size bytes of r, with a name for error messages.
func ReaderImage(name string, r io.ReaderAt, size int64) Image {
	return Image{name: name, r: r, size: uint64(max(size, 0))}
}

// Name returns the image's name, for messages.
func (im Image) Name() string { return im.name }

// Size returns its bytes.
func (im Image) Size() uint64 { return im.size }

// has says whether n bytes from off are within the image.
func (im Image) has(off, n uint64) bool { return off <= im.size && n <= im.size-off }

// read returns n bytes from off. The caller has bounded n.
func (im Image) read(off, n uint64) ([]byte, error) {
	if !im.has(off, n) || off > math.MaxInt64 {
		return nil, fmt.Errorf("%s: %w: it ends at byte %d, before %d bytes from %d", im.name, ErrTruncated, im.size, n, off)
	}
	b := make([]byte, n)
	if got, err := im.r.ReadAt(b, int64(off)); got < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%s: reading %d bytes from %d: %w", im.name, n, off, err)
	}
	return b, nil
}

// put makes n bytes of the image from off appear at gpa. The caller has checked
// that they are in the image.
func (l *loader) put(im Image, gpa, off, n uint64) error {
	switch {
	case im.file == nil:
		return l.mem.CopyFrom(gpa, im.r, im.name, int64(off), n)
	case l.p.CopyFiles:
		return l.mem.CopyFile(gpa, im.file, im.off+int64(off), n)
	}
	return l.mem.LoadFile(gpa, im.file, im.off+int64(off), n)
}

// ram returns the region of RAM that holds all n bytes from gpa.
func (l *loader) ram(gpa, n uint64) (memory.Region, bool) {
	for _, r := range l.mem.Regions() {
		if gpa >= r.GPA && gpa-r.GPA < r.Size && n <= r.Size-(gpa-r.GPA) {
			return r, true
		}
	}
	return memory.Region{}, false
}

// ramText describes RAM for an error message.
func (l *loader) ramText() string {
	return fmt.Sprintf("the guest has %d MiB", l.mem.Size()>>20)
}
