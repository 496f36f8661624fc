// Package guestkernel makes a kernel that hull has not built fit to be a guest's.
//
// A distribution's kernel (/boot/vmlinuz-…) boots in hull as it is, but has its drivers for
// virtio, and more that a container needs, as modules. [Identify] finds out which
// kernel a file holds, [Modules] which modules a guest needs of it and in
// which order, [WriteCPIO] packs them as a further initrd, from where the
// guest's init loads them. [Vmlinux] unpacks the ELF file inside a bzImage, for boot protocols that want one.
//
// Kernel files and module trees may come from anywhere, an OCI image for example: all sizes are
// bounded and checked before they are used, and paths in modules.dep cannot lead out of the tree.
package guestkernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Format is the format of a kernel file.
type Format string

// The formats that hull boots.
const (
	BzImage Format = "bzImage"
	ELF     Format = "elf"
)

var (
	// ErrNotKernel is wrapped by errors about a file that is no kernel.
	ErrNotKernel = errors.New("not an x86-64 Linux kernel (bzImage or ELF)")
	// ErrCorrupt is wrapped by errors about a kernel or module whose parts do not fit together.
	ErrCorrupt = errors.New("damaged kernel or module")
	// ErrCompression is wrapped by errors about data whose compression is not known.
	ErrCompression = errors.New("unknown compression")
)

// Offsets in the first sectors of a bzImage (Documentation/arch/x86/boot.rst).
const (
	offSetupSects    = 0x1f1
	offBootFlag      = 0x1fe
	offHeaderMagic   = 0x202
	offVersion       = 0x206
	offKernelVersion = 0x20e // relative to 0x200
	offPayload       = 0x248
	offPayloadLength = 0x24c
	headerEnd        = 0x250

	bootFlag       = 0xaa55
	headerMagic    = "HdrS"
	payloadVersion = 0x208 // of the protocol, the first with a payload_offset
	sectorSize     = 512
)

const (
	maxRelease = 64        // bytes; __NEW_UTS_LEN
	maxELFScan = 256 << 20 // bytes of an ELF file that are searched for its version
)

// Kernel is what a kernel file says of itself.
type Kernel struct {
	Format  Format
	Release string // as of uname -r; names the directory of its modules
}

// Identify finds out what kernel a file holds.
func Identify(path string) (*Kernel, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("identifying a kernel: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identifying a kernel: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("identifying the kernel %s: %w: not a regular file", path, ErrNotKernel)
	}
	k, err := IdentifyAt(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("identifying the kernel %s: %w", path, err)
	}
	return k, nil
}

// IdentifyAt is Identify for any reader of size bytes.
func IdentifyAt(r io.ReaderAt, size int64) (*Kernel, error) {
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotKernel, err)
	}
	if string(magic[:]) == "\x7fELF" {
		release, err := scanRelease(io.NewSectionReader(r, 0, min(size, maxELFScan)))
		if err != nil {
			return nil, err
		}
		return &Kernel{ELF, release}, nil
	}
	h, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	offset := int64(binary.LittleEndian.Uint16(h[offKernelVersion:]))
	if offset == 0 {
		return nil, fmt.Errorf("%w: it does not tell its version", ErrNotKernel)
	}
	text := make([]byte, maxRelease+1)
	n, err := r.ReadAt(text, 0x200+offset)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("reading the version: %w", err)
	}
	release, ok := cutRelease(text[:n])
	if !ok {
		return nil, fmt.Errorf("%w: version at 0x%x is none", ErrCorrupt, 0x200+offset)
	}
	return &Kernel{BzImage, release}, nil
}

// readHeader reads and checks the start of a bzImage.
func readHeader(r io.ReaderAt) ([]byte, error) {
	h := make([]byte, headerEnd)
	if _, err := r.ReadAt(h, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotKernel, err)
	}
	if binary.LittleEndian.Uint16(h[offBootFlag:]) != bootFlag || string(h[offHeaderMagic:offHeaderMagic+4]) != headerMagic {
		return nil, ErrNotKernel
	}
	return h, nil
}

// cutRelease takes the release from the start of a version text.
func cutRelease(text []byte) (string, bool) {
	end := bytes.IndexAny(text, " \x00\n")
	if end <= 0 || end > maxRelease {
		return "", false
	}
	release := string(text[:end])
	return release, validRelease(release)
}

// validRelease tells whether a release is one word that can name a directory.
func validRelease(s string) bool {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '/' {
			return false
		}
	}
	return true
}

// scanRelease looks for the banner of a kernel, "Linux version RELEASE (…".
func scanRelease(r io.Reader) (string, error) {
	const banner = "Linux version "
	const chunk = 1 << 20
	const keep = len(banner) + maxRelease + 1
	buf := make([]byte, 0, chunk+keep)
	for {
		start := len(buf)
		n, err := io.ReadFull(r, buf[start:start+chunk])
		buf = buf[:start+n]
		for rest := buf; ; {
			i := bytes.Index(rest, []byte(banner))
			if i < 0 {
				break
			}
			rest = rest[i+len(banner):]
			// A format string has "%s" there.
			if release, ok := cutRelease(rest[:min(len(rest), maxRelease+1)]); ok && strings.ContainsRune(release, '.') {
				return release, nil
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return "", fmt.Errorf("%w: an ELF file without a Linux version in its first %d MiB", ErrNotKernel, maxELFScan>>20)
		}
		if err != nil {
			return "", fmt.Errorf("looking for the version: %w", err)
		}
		buf = buf[:copy(buf, buf[max(0, len(buf)-keep):])]
	}
}
