package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// fileSet is what an image archive consists of: an archive of docker save, or
// an OCI layout, in a tar or a directory.
type fileSet interface {
	// open opens a regular file of the set. The error is fs.ErrNotExist when there is none.
	open(name string) (io.ReadCloser, int64, error)
	// close releases the set.
	close() error
}

// readSmall reads a file of at most limit bytes.
func readSmall(set fileSet, name string, limit int64) ([]byte, error) {
	f, size, err := set.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d: %w", shorten(name), size, limit, ErrLimit)
	}
	return io.ReadAll(f)
}

// dirSet is a directory. Nothing outside it is opened, whatever symbolic links it holds.
type dirSet struct{ root *os.Root }

func (d *dirSet) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.Open(path.Clean(name))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file: %w", shorten(name), ErrArchive)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (d *dirSet) close() error { return d.root.Close() }

// tarSet is an uncompressed tar whose members are read in place.
type tarSet struct {
	file    *os.File
	members map[string]member // by cleaned name
	done    func()
}

// member is a regular file of a tar, or another name for one.
type member struct {
	offset, size int64
	link         string // cleaned name of another member; empty for a file
}

const (
	maxMembers     = 100_000
	maxMemberLinks = 10
)

// openTarSet reads where the members are.
func openTarSet(ctx context.Context, f *os.File, done func()) (*tarSet, error) {
	set := &tarSet{file: f, members: make(map[string]member), done: done}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r := tar.NewReader(f)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := r.Next()
		if err == io.EOF {
			return set, nil
		}
		if err != nil {
			var system *fs.PathError
			if errors.As(err, &system) {
				return nil, err
			}
			return nil, fmt.Errorf("after %d files: %w: %w", n, err, ErrArchive)
		}
		if n == maxMembers {
			return nil, fmt.Errorf("more than %d files: %w", maxMembers, ErrLimit)
		}
		if err := set.add(h); err != nil {
			return nil, err
		}
	}
}

// add notes a member; of several with the same name the last counts.
func (t *tarSet) add(h *tar.Header) error {
	name, err := memberName(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" || h.PAXRecords["GNU.sparse.size"] != "" {
			return fmt.Errorf("%s is stored as a sparse file: %w", shorten(name), ErrArchive)
		}
		// archive/tar reads headers straight from the file, so this is where the contents start.
		offset, err := t.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		t.members[name] = member{offset: offset, size: h.Size}
	case tar.TypeSymlink, tar.TypeLink:
		target := h.Linkname
		if h.Typeflag == tar.TypeSymlink && !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		if target, err = memberName(target); err != nil {
			return err
		}
		t.members[name] = member{link: target}
	case tar.TypeDir, tar.TypeXGlobalHeader:
	default:
		return fmt.Errorf("%s has type %q: %w", shorten(name), h.Typeflag, ErrArchive)
	}
	return nil
}

// memberName cleans a name of a tar, which must not lead out of it.
func memberName(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") || strings.IndexByte(clean, 0) >= 0 {
		return "", fmt.Errorf("the name %q leads out of the archive: %w", shorten(name), ErrArchive)
	}
	return clean, nil
}

func (t *tarSet) open(name string) (io.ReadCloser, int64, error) {
	clean, err := memberName(name)
	if err != nil {
		return nil, 0, err
	}
	for range maxMemberLinks {
		m, ok := t.members[clean]
		if !ok {
			return nil, 0, fmt.Errorf("%q: %w", shorten(name), fs.ErrNotExist)
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(t.file, m.offset, m.size)), m.size, nil
		}
		clean = m.link
	}
	return nil, 0, fmt.Errorf("%q leads through too many links: %w", shorten(name), ErrArchive)
}

func (t *tarSet) close() error {
	t.done()
	return nil
}

// openArchive makes a fileSet of a stream, which is unpacked to a temporary
// file unless it is an uncompressed tar in a regular file already.
func (o *operation) openArchive(ctx context.Context, r io.Reader, report *reporter) (fileSet, error) {
	var total int64
	f, isFile := r.(*os.File)
	if isFile {
		info, err := f.Stat()
		offset, serr := f.Seek(0, io.SeekCurrent)
		if isFile = err == nil && serr == nil && info.Mode().IsRegular() && offset == 0; isFile {
			total = info.Size()
		}
	}
	if isFile {
		var start [512]byte
		n, err := f.ReadAt(start[:], 0)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if looksLikeTar(start[:n]) {
			return openTarSet(ctx, f, func() {})
		}
	}
	in, _, err := decompress(report.reader(withContext(ctx, r), PhaseReading, total))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	spool, err := newTemp(o.s.tempDir(), "archive-")
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(spool, &atMost{r: in, left: o.s.limits.Archive, what: "archive"}); err != nil {
		spool.discard()
		return nil, err
	}
	set, err := openTarSet(ctx, spool.File, spool.discard)
	if err != nil {
		spool.discard()
		return nil, err
	}
	return set, nil
}

// looksLikeTar tells whether a file starts with a tar header (POSIX.1-2001, pax, "ustar Interchange Format").
func looksLikeTar(start []byte) bool {
	const magic = 257
	return len(start) == 512 && string(start[magic:magic+5]) == "ustar"
}
