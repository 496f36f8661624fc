// Package bundle makes hull one file.
//
// The released executable is an ELF program followed by a ZIP archive with all that
// a virtual machine needs: guest kernel, initramfs, the built-in image, the
// template of an empty disk, and hull-vmm. The ELF loader does not see the
// archive, ZIP readers do not see the program, and both are content. A member
// "manifest.json" lists the others with their sizes and SHA-256 hashes.
//
// [Write] appends an archive (package mkbundle is its command line). [Open] finds the archive of the
// running program and [Bundle.Extract] unpacks it, once, into a directory named
// after the manifest's hash, from where the kernel is mapped straight into guests. All guests of all
// users' containers share those pages, so the directory is private to its owner
// and is checked before each use.
package bundle

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Names of the members. All are required.
const (
	NameKernel      = "vmlinux"        // guest kernel, ELF
	NameInitramfs   = "initramfs.cpio" // guest's init
	NameVMM         = "hull-vmm"       // the program of one VM process
	NameUroot       = "uroot.ext4"     // root filesystem of the built-in image
	NameUrootConfig = "uroot.json"     // its OCI image configuration
	NameScratch     = "scratch.tmpl"   // template of an empty ext4 (package scratch)
	NameVolume      = "volume.tmpl"    // the same, that can grow
)

const nameManifest = "manifest.json"

// Members returns the names of all members but the manifest.
func Members() []string {
	return []string{NameKernel, NameInitramfs, NameVMM, NameUroot, NameUrootConfig, NameScratch, NameVolume}
}

const (
	maxManifest = 1 << 20 // bytes
	maxMember   = 1 << 30 // bytes
)

// EnvBundle names the environment variable with the path of a file to take the archive from
// instead of the running program. Tests use it.
const EnvBundle = "HULL_BUNDLE"

var (
	// ErrNone is wrapped by Open's error when the file has no archive.
	ErrNone = errors.New("no guest kernel and images in this file (a hull built by `go build` alone has none: use `make`)")
	// ErrCorrupt is wrapped by errors about an archive that is not as it was made.
	ErrCorrupt = errors.New("archive is damaged")
)

// manifest lists the members.
type manifest struct {
	Members map[string]entry `json:"members"`
}

type entry struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Bundle is an open archive.
type Bundle struct {
	file     *os.File
	members  map[string]*zip.File
	manifest manifest
	id       string
}

// Open opens the archive of the running program, or of the file that $HULL_BUNDLE names.
func Open() (*Bundle, error) {
	if path := os.Getenv(EnvBundle); path != "" {
		return OpenFile(path)
	}
	// The link leads to the file that is running, even when it has been
	// replaced on disk since.
	return OpenFile("/proc/self/exe")
}

// OpenFile opens the archive of a file.
func OpenFile(path string) (*Bundle, error) {
	b, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("opening the archive of %s: %w", path, err)
	}
	return b, nil
}

func openFile(path string) (_ *Bundle, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unwrapPath(err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, unwrapPath(err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file: %w", ErrNone)
	}
	r, err := zip.NewReader(f, st.Size())
	if errors.Is(err, zip.ErrFormat) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	b := &Bundle{file: f, members: make(map[string]*zip.File, len(r.File))}
	for _, m := range r.File {
		if b.members[m.Name] != nil {
			return nil, fmt.Errorf("%w: two members %q", ErrCorrupt, m.Name)
		}
		b.members[m.Name] = m
	}
	if b.members[nameManifest] == nil {
		return nil, fmt.Errorf("no member %q: %w", nameManifest, ErrNone)
	}
	raw, err := b.readManifest()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	b.id = hex.EncodeToString(sum[:16])
	return b, b.check()
}

// ID names the bundle's content: bundles with equal IDs have equal members.
func (b *Bundle) ID() string { return b.id }

// Close closes the archive.
func (b *Bundle) Close() error { return b.file.Close() }

func (b *Bundle) readManifest() ([]byte, error) {
	r, err := b.members[nameManifest].Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, nameManifest, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, nameManifest, err)
	}
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrCorrupt, nameManifest, maxManifest)
	}
	if err := json.Unmarshal(raw, &b.manifest); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, nameManifest, err)
	}
	return raw, nil
}

// check holds manifest and archive against each other, as far as can be without reading the members.
func (b *Bundle) check() error {
	for _, name := range Members() {
		e, listed := b.manifest.Members[name]
		m := b.members[name]
		switch {
		case !listed || m == nil:
			return fmt.Errorf("%w: no member %q", ErrCorrupt, name)
		case e.Size < 0 || e.Size > maxMember || m.UncompressedSize64 != uint64(e.Size):
			return fmt.Errorf("%w: member %q has %d bytes, its manifest says %d (at most %d)", ErrCorrupt, name, m.UncompressedSize64, e.Size, maxMember)
		case len(e.SHA256) != 2*sha256.Size:
			return fmt.Errorf("%w: member %q has no SHA-256", ErrCorrupt, name)
		}
	}
	return nil
}

// copyMember writes a member to w and checks its size and hash on the way.
func (b *Bundle) copyMember(w io.Writer, name string) error {
	want := b.manifest.Members[name]
	r, err := b.members[name].Open()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, name, err)
	}
	defer r.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, hash), io.LimitReader(r, want.Size+1))
	if err != nil {
		if errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	if n != want.Size {
		return fmt.Errorf("%w: %s has %d bytes, not %d", ErrCorrupt, name, n, want.Size)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%w: %s has SHA-256 %s, not %s", ErrCorrupt, name, got, want.SHA256)
	}
	return nil
}

// unwrapPath takes the path off an error whose message will name it anyway.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
