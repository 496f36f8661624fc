package layerdisk

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Device numbers that ext4 can hold (new_encode_dev in include/linux/kdev_t.h).
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// readSize is how much of an archive is read at once.
const readSize = 256 << 10

// Scan reads a layer's uncompressed archive up to its end marker. Contents are
// skipped. The error is ErrLayer, ErrLimit, that of r, or that of ctx.
func Scan(ctx context.Context, r io.Reader, lim Limits) (*Tree, error) {
	s := &scanner{tree: &Tree{root: newDirectory()}, limits: lim.WithDefaults()}
	s.walker.root = s.tree.root
	blocks := &blockWatcher{r: bufio.NewReaderSize(r, readSize)}
	archive := tar.NewReader(blocks)
	for number := 0; ; number++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, archiveError(err, number)
		}
		if err := s.add(h, number); err != nil {
			return nil, err
		}
	}
	s.tree.endMarker = blocks.zero
	s.finish(s.tree.root)
	for name := range s.tree.root.children {
		// Only now: hard links may have gone through them.
		if strings.HasPrefix(name, whiteoutMeta) {
			delete(s.tree.root.children, name)
		}
	}
	s.count(s.tree.root)
	return s.tree, nil
}

// archiveError tells a damaged archive from a reader that failed.
func archiveError(err error, number int) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the archive is cut short after %d entries: %w", number, ErrLayer)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return fmt.Errorf("the archive is damaged after %d entries: %w: %w", number, err, ErrLayer)
	}
	return err
}

// blockWatcher notes whether the last block that was read is all zero.
type blockWatcher struct {
	r    io.Reader
	zero bool
}

func (w *blockWatcher) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.zero = n == 512 && isZero(p[:n])
	}
	return n, err
}

type scanner struct {
	tree     *Tree
	walker   walker
	limits   Limits
	names    int   // entries and implicit directories so far
	metadata int64 // bytes so far
}

// add applies one entry the way docker would, had it an empty directory to
// unpack the layer in.
func (s *scanner) add(h *tar.Header, number int) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if err := s.spend(h); err != nil {
		return err
	}
	if name == "." {
		return s.addRoot(h)
	}
	components, base := splitName(name)
	dir, err := s.walker.directory(components, s.makeParent)
	if err == nil {
		err = s.spendName(dir, base)
	}
	if err != nil {
		return entryError(h.Name, err)
	}
	switch {
	case base == whiteoutOpaque:
		dir.opaque = true
		return nil
	case strings.HasPrefix(base, whiteoutMeta):
		if len(components) > 0 {
			return nil
		}
		// At the root it may be the target of hard links; Scan drops it at the end.
	case strings.HasPrefix(base, whiteoutPrefix):
		return s.addWhiteout(h, dir, strings.TrimPrefix(base, whiteoutPrefix))
	}
	if h.Typeflag == tar.TypeLink {
		return s.addLink(h, dir, base, name)
	}
	i, err := newInode(h, number)
	if err != nil {
		return err
	}
	s.place(dir, base, i)
	return nil
}

// entryError adds the entry's name to an error of walkDirectories.
func entryError(name string, err error) error {
	if errors.Is(err, ErrLimit) || errors.Is(err, ErrLayer) {
		return err
	}
	return layerError(name, "%v", err)
}

// spend counts an entry's contents and attributes against the limits.
func (s *scanner) spend(h *tar.Header) error {
	s.metadata += int64(len(h.Linkname))
	for key, value := range h.PAXRecords {
		s.metadata += int64(len(key)) + int64(len(value))
	}
	if !hasContents(h) {
		return nil
	}
	switch {
	case h.Size > maxFileSize:
		return fmt.Errorf("entry %q: a file of %d bytes; at most %d: %w", h.Name, h.Size, maxFileSize, ErrLimit)
	case h.Size > s.limits.Unpacked-s.tree.bytes:
		return fmt.Errorf("entry %q: the files of the layer have more than %d bytes: %w", h.Name, s.limits.Unpacked, ErrLimit)
	}
	s.tree.bytes += h.Size
	return nil
}

// hasContents tells whether an entry is a file with bytes of its own.
// (archive/tar has refused negative sizes.)
func hasContents(h *tar.Header) bool {
	return h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse
}

// spendName counts a name in a directory against the limits. It counts whole
// paths, since they are what is held in memory when the disk image is written.
func (s *scanner) spendName(dir *node, name string) error {
	s.names++
	s.metadata += int64(dir.length) + int64(len(name))
	switch {
	case dir.length+len(name) >= pathMax:
		return errors.New("links lead to a path that is too long")
	case s.names > s.limits.Entries:
		return fmt.Errorf("more than %d entries: %w", s.limits.Entries, ErrLimit)
	case s.metadata > s.limits.Metadata:
		return fmt.Errorf("names and attributes have more than %d bytes: %w", s.limits.Metadata, ErrLimit)
	}
	return nil
}

// makeParent makes a directory that the layer has something in but does not list.
func (s *scanner) makeParent(dir *node, name string) (*node, error) {
	if len(name) > nameMax {
		return nil, errors.New("a symbolic link leads to a name that is too long")
	}
	if err := s.spendName(dir, name); err != nil {
		return nil, err
	}
	n := newDirectory()
	n.length = dir.length + len(name) + 1
	if dir.children[name] != nil { // a whiteout
		n.opaque, n.fresh = true, true
	}
	dir.children[name] = n
	return n, nil
}

func (s *scanner) addRoot(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return layerError(h.Name, "the root of a layer must be a directory")
	}
	i, err := newInode(h, 0)
	if err != nil {
		return err
	}
	s.tree.root.inode = i
	return nil
}

// addWhiteout notes a deletion. It is about the layers below only (OCI
// image-spec, layer.md): what this layer has under the name stays, whichever
// comes first.
func (s *scanner) addWhiteout(h *tar.Header, dir *node, name string) error {
	if name == "" || name == "." || name == ".." {
		return layerError(h.Name, "a whiteout of %q", name)
	}
	switch old := dir.children[name]; {
	case old == nil:
		dir.children[name] = &node{inode: &inode{kind: whiteout}}
	case old.kind == directory:
		old.opaque, old.fresh = true, true
	}
	return nil
}

// addLink gives a file a further name. The file is in this layer, or the
// layers below must have it.
func (s *scanner) addLink(h *tar.Header, dir *node, base, name string) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return layerError(h.Name, "a hard link: %v", err)
	}
	if target == name {
		return layerError(h.Name, "a hard link to itself")
	}
	old, err := s.walker.lookup(target)
	switch {
	case errors.Is(err, errNotFound):
		s.place(dir, base, &inode{kind: lowerLink, target: target})
		return nil
	case err != nil:
		return layerError(h.Name, "a hard link to %q: %v", h.Linkname, err)
	case old.kind == directory:
		return layerError(h.Name, "a hard link to %q, which is a directory", h.Linkname)
	}
	s.place(dir, base, old.inode)
	return nil
}

// place puts an inode into a directory. It replaces what was there, but a
// directory on a directory only changes the attributes.
func (s *scanner) place(dir *node, name string, i *inode) {
	old := dir.children[name]
	if i.kind != directory {
		dir.children[name] = &node{inode: i}
		return
	}
	if old != nil && old.kind == directory {
		old.inode = i
		return
	}
	n := &node{inode: i, children: make(map[string]*node), length: dir.length + len(name) + 1}
	if old != nil && old.kind == whiteout {
		n.opaque, n.fresh = true, true
	}
	dir.children[name] = n
}

// finish drops whiteouts that can have no effect: in an opaque directory
// nothing shines through, and overlayfs would list them.
func (s *scanner) finish(dir *node) {
	for name, child := range dir.children {
		switch {
		case child.kind == whiteout && dir.opaque:
			delete(dir.children, name)
		case child.kind == directory:
			s.finish(child)
		}
	}
}

// count fills in what the tree tells about itself.
func (s *scanner) count(dir *node) {
	for _, child := range dir.children {
		s.tree.entries++
		switch child.kind {
		case whiteout:
			s.tree.whiteouts++
		case lowerLink:
			s.tree.links++
		case directory:
			if child.implicit {
				s.tree.implicit++
			}
			s.count(child)
		}
	}
}

// newInode checks an entry's attributes.
func newInode(h *tar.Header, number int) (*inode, error) {
	if h.Uid < 0 || int64(h.Uid) >= math.MaxUint32 || h.Gid < 0 || int64(h.Gid) >= math.MaxUint32 {
		return nil, layerError(h.Name, "user %d or group %d is out of range", h.Uid, h.Gid)
	}
	i := &inode{
		mode:  uint16(h.Mode & 0o7777),
		uid:   uint32(h.Uid),
		gid:   uint32(h.Gid),
		mtime: h.ModTime,
		entry: number,
	}
	if h.AccessTime.After(h.ModTime) {
		i.atime = h.AccessTime
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse: // hasContents
		i.kind, i.size = regular, h.Size
	case tar.TypeDir:
		i.kind = directory
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= pathMax || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, layerError(h.Name, "a symbolic link with a target of %d bytes", len(h.Linkname))
		}
		i.kind, i.target = symlink, h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return nil, layerError(h.Name, "device %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		i.kind, i.major, i.minor = charDevice, uint32(h.Devmajor), uint32(h.Devminor)
		if h.Typeflag == tar.TypeBlock {
			i.kind = blockDevice
		} else if i.major == 0 && i.minor == 0 {
			// To overlayfs this is a whiteout, whoever made it.
			i.kind = whiteout
		}
	case tar.TypeFifo:
		i.kind = fifo
	default:
		return nil, layerError(h.Name, "unknown entry type %q", h.Typeflag)
	}
	var err error
	i.xattrs, err = readXattrs(h)
	return i, err
}
