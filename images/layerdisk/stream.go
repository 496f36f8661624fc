package layerdisk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
)

// named is a node with its path.
type named struct {
	path string
	node *node
}

// content is a file whose bytes come from the archive.
type content struct {
	*inode
	names []string // sorted
}

var errChanged = fmt.Errorf("the archive changed while it was read: %w", ErrLayer)

// stream is the tar archive that the ext4 writer is given: every name once,
// parents first, then the files with contents in the order in which their
// layers have them, so that each layer is read from front to back. It is an
// io.Reader without goroutines: each Read makes what it returns.
type stream struct {
	ctx    context.Context
	recipe *Recipe
	open   func(layer int) (io.ReadCloser, error)

	plain    []named               // what has no contents, next first
	first    map[*inode]string     // under which name an inode was first given to the writer
	contents map[*inode]*content   // files with contents
	files    []*content            // those of the layer that is being read, next first
	layer    int                   // index in recipe.layers of the next layer to read
	source   io.Closer             // of the layer that is being read
	archive  *tar.Reader           // same
	entry    int                   // number of the next entry of archive
	header   bytes.Buffer          // encoded headers and padding to be read before all else
	left     int64                 // bytes of the current file still to be read from archive
	rename   func(s string) string // of a path
}

func newStream(ctx context.Context, r *Recipe, open func(int) (io.ReadCloser, error), rename func(string) string) *stream {
	s := &stream{
		ctx: ctx, recipe: r, open: open, rename: rename,
		first:    make(map[*inode]string),
		contents: make(map[*inode]*content),
	}
	s.plain = append(s.plain, named{".", r.root})
	s.collect(r.root, "")
	return s
}

// collect lists all below dir, parents first and names sorted.
func (s *stream) collect(dir *node, prefix string) {
	for _, name := range sortedNames(dir) {
		child, full := dir.children[name], prefix+name
		switch {
		case s.recipe.dropped[child]:
		case child.kind == regular && child.size > 0:
			c := s.contents[child.inode]
			if c == nil {
				c = &content{inode: child.inode}
				s.contents[child.inode] = c
			}
			c.names = append(c.names, full)
		default:
			s.plain = append(s.plain, named{full, child})
			if child.kind == directory {
				s.collect(child, full+"/")
			}
		}
	}
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.header.Len() > 0 {
			return s.header.Read(p)
		}
		if s.left > 0 {
			return s.readContents(p)
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
}

// readContents passes bytes of the current file on.
func (s *stream) readContents(p []byte) (int, error) {
	if int64(len(p)) > s.left {
		p = p[:s.left]
	}
	n, err := s.archive.Read(p)
	s.left -= int64(n)
	if s.left == 0 {
		size := s.files[0].size
		s.header.Write(zeroBlock[:-size&511]) // contents fill whole blocks of 512 bytes
		err = s.links(s.files[0])
		s.files = s.files[1:]
		return n, err
	}
	if err == io.EOF {
		return n, errChanged
	}
	if err != nil {
		err = archiveError(err, s.entry)
	}
	return n, err
}

// next prepares the next entry, or returns io.EOF.
func (s *stream) next() error {
	if len(s.plain) > 0 {
		// Many at once: most entries are small.
		for range min(len(s.plain), 256) {
			if err := s.writePlain(s.plain[0]); err != nil {
				return err
			}
			s.plain = s.plain[1:]
		}
		return s.ctx.Err()
	}
	if len(s.files) == 0 {
		if err := s.nextLayer(); err != nil {
			return err
		}
		if len(s.files) == 0 {
			return nil
		}
	}
	return s.nextFile()
}

// nextLayer starts to read the next layer, or returns io.EOF.
func (s *stream) nextLayer() error {
	if err := s.Close(); err != nil {
		return err
	}
	if s.layer == len(s.recipe.layers) {
		return io.EOF
	}
	s.files = s.filesOf(s.recipe.layers[s.layer].root, nil, make(map[*inode]bool))
	slices.SortFunc(s.files, func(a, b *content) int { return cmp.Compare(a.entry, b.entry) })
	if len(s.files) > 0 {
		source, err := s.open(s.recipe.first + s.layer)
		if err != nil {
			return err
		}
		s.source, s.entry = source, 0
		s.archive = tar.NewReader(bufio.NewReaderSize(source, readSize))
	}
	s.layer++
	return nil
}

// filesOf adds those files below dir, a directory of one layer's own tree, of
// which the recipe has kept at least one name.
func (s *stream) filesOf(dir *node, files []*content, seen map[*inode]bool) []*content {
	for _, child := range dir.children {
		if child.kind == directory {
			files = s.filesOf(child, files, seen)
		} else if c := s.contents[child.inode]; c != nil && !seen[child.inode] {
			seen[child.inode] = true
			files = append(files, c)
		}
	}
	return files
}

// nextFile moves on to the entry with the contents of s.files[0].
func (s *stream) nextFile() error {
	file := s.files[0]
	for {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		h, err := s.archive.Next()
		if err == io.EOF {
			return errChanged
		}
		if err != nil {
			return archiveError(err, s.entry)
		}
		s.entry++
		if s.entry-1 < file.entry {
			continue
		}
		if !hasContents(h) || h.Size != file.size {
			return layerError(h.Name, "it changed while the archive was read")
		}
		s.left = file.size
		return s.write(s.inodeHeader(file.names[0], file.inode))
	}
}

// links gives a file its further names.
func (s *stream) links(c *content) error {
	for _, name := range c.names[1:] {
		if err := s.write(s.linkHeader(name, c.names[0])); err != nil {
			return err
		}
	}
	return nil
}

// writePlain writes the header of something without contents.
func (s *stream) writePlain(n named) error {
	if n.node.kind == directory {
		i := n.node.inode
		if other := s.recipe.attributes[i]; other != nil {
			i = other
		}
		h := s.inodeHeader(n.path, i)
		if n.node.opaque {
			setXattr(h, opaqueXattr)
		}
		return s.write(h)
	}
	if first, ok := s.first[n.node.inode]; ok {
		return s.write(s.linkHeader(n.path, first))
	}
	s.first[n.node.inode] = n.path
	return s.write(s.inodeHeader(n.path, n.node.inode))
}

// write encodes a header. What comes after it is the stream's own business, so
// each gets a tar.Writer of its own.
func (s *stream) write(h *tar.Header) error {
	if err := tar.NewWriter(&s.header).WriteHeader(h); err != nil {
		return layerError(h.Name, "%v", err)
	}
	return nil
}

func (s *stream) linkHeader(name, target string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeLink, Name: s.rename(name), Linkname: s.rename(target)}
}

// typeflags of the kinds that the ext4 writer is told about.
func typeflag(k kind) byte {
	switch k {
	case directory:
		return tar.TypeDir
	case symlink:
		return tar.TypeSymlink
	case charDevice, whiteout: // overlayfs: "a whiteout is created as a character device with 0/0 device number"
		return tar.TypeChar
	case blockDevice:
		return tar.TypeBlock
	case fifo:
		return tar.TypeFifo
	}
	return tar.TypeReg
}

func (s *stream) inodeHeader(name string, i *inode) *tar.Header {
	h := &tar.Header{
		Typeflag: typeflag(i.kind),
		Name:     s.rename(name),
		Linkname: i.target,
		Size:     i.size,
		Mode:     int64(i.mode),
		Uid:      int(i.uid),
		Gid:      int(i.gid),
		Devmajor: int64(i.major),
		Devminor: int64(i.minor),
	}
	h.ModTime = diskTime(i.mtime)
	if !i.atime.IsZero() {
		h.AccessTime = diskTime(i.atime)
	}
	if !i.atime.IsZero() || h.ModTime.Nanosecond() != 0 {
		h.Format = tar.FormatPAX // the others have whole seconds of mtime only
	}
	for _, x := range i.xattrs {
		setXattr(h, x)
	}
	return h
}

func setXattr(h *tar.Header, x xattr) {
	if h.PAXRecords == nil {
		h.PAXRecords = make(map[string]string)
	}
	h.PAXRecords[paxXattr+x.name] = x.value
}

// Close ends the reading of a layer.
func (s *stream) Close() error {
	if s.source == nil {
		return nil
	}
	source := s.source
	s.source = nil
	return source.Close()
}
