package layerdisk

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// kind is what a node of a tree is.
type kind uint8

const (
	directory kind = iota
	regular
	symlink
	charDevice
	blockDevice
	fifo
	// whiteout: the layer deletes what layers below have under this name.
	whiteout
	// lowerLink: a hard link to a file that only a layer below can have.
	lowerLink
)

// inode is a file with all that does not depend on its name. Hard links are
// nodes that share one. It does not change once its tree is complete.
type inode struct {
	kind         kind
	mode         uint16 // permissions with setuid, setgid and sticky: 07777
	implicit     bool   // a directory that the layer does not list but has something in
	uid, gid     uint32
	major, minor uint32
	size         int64  // of a regular file
	target       string // of a symlink; for a lowerLink the cleaned path of the file
	mtime, atime time.Time
	xattrs       []xattr // sorted by name, as they stand on the disk
	entry        int     // the number of the entry that has the contents
}

// node is a name in a directory.
type node struct {
	*inode
	children map[string]*node // of a directory, else nil
	length   int              // of a directory's path, with a slash at the end; 0 for the root

	// opaque: a directory that hides the directory of that name below.
	opaque bool
	// fresh: opaque because the one below was deleted, so not even its attributes show through.
	fresh bool
}

// Tree is what one layer holds. It is immutable once Scan has returned it.
type Tree struct {
	root      *node
	entries   int
	bytes     int64
	endMarker bool
	whiteouts int
	implicit  int
	links     int // lowerLinks
}

// Entries is the number of names in the layer, parent directories it does not list included.
func (t *Tree) Entries() int { return t.entries }

// Bytes is the size of all files the archive holds, also of those that a later entry replaces.
func (t *Tree) Bytes() int64 { return t.bytes }

// EndMarker tells whether the archive had the zero block that ends a tar.
// Without it, an archive cut between two entries looks complete.
func (t *Tree) EndMarker() bool { return t.endMarker }

// Empty tells whether the layer changes nothing.
func (t *Tree) Empty() bool {
	return len(t.root.children) == 0 && !t.root.opaque && t.root.implicit
}

// SelfContained tells whether the layer's disk image is the same whatever lies
// below it.
func (t *Tree) SelfContained() bool { return t.whiteouts+t.implicit+t.links == 0 }

// newDirectory is a directory nobody has said anything about, as mkdir makes it.
func newDirectory() *node {
	return &node{
		inode:    &inode{kind: directory, mode: 0o755, implicit: true, mtime: time.Unix(0, 0)},
		children: make(map[string]*node),
	}
}

// maxLinksFollowed is how many symbolic links one path may go through, as in Linux (MAXSYMLINKS).
const maxLinksFollowed = 40

// maxSteps bounds the components all paths of a tree may have, those of
// symbolic links they go through included: a few thousand short entries can
// lead through millions. An honest layer of a million entries takes some ten million.
const maxSteps = 200_000_000

var (
	errNotFound     = errors.New("no such file in the layer")
	errNotDirectory = errors.New("a component of the path is not a directory")
	errTooManyLinks = errors.New("too many symbolic links")
	errTooManySteps = fmt.Errorf("the paths of the layer go through too many directories and links: %w", ErrLimit)
)

// walker follows paths in a tree.
type walker struct {
	root  *node
	steps int
}

// directory follows components from the root and returns the directory they
// lead to. Symbolic links are followed inside the tree: an absolute one starts
// at the root, ".." stops there. What is missing is made with missing, or the
// error is errNotFound when missing is nil.
func (w *walker) directory(components []string, missing func(dir *node, name string) (*node, error)) (*node, error) {
	trail := []*node{w.root} // from the root to where we are, for ".."
	pending := slices.Clone(components)
	slices.Reverse(pending) // the next component is the last
	links := 0
	for len(pending) > 0 {
		if w.steps++; w.steps > maxSteps {
			return nil, errTooManySteps
		}
		name := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		here := trail[len(trail)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(trail) > 1 {
				trail = trail[:len(trail)-1]
			}
			continue
		}
		child := here.children[name]
		if child == nil || child.kind == whiteout {
			if missing == nil {
				return nil, errNotFound
			}
			var err error
			if child, err = missing(here, name); err != nil {
				return nil, err
			}
		}
		switch child.kind {
		case directory:
			trail = append(trail, child)
		case symlink:
			if links++; links > maxLinksFollowed {
				return nil, errTooManyLinks
			}
			target := strings.Split(child.target, "/")
			if strings.HasPrefix(child.target, "/") {
				trail = trail[:1]
			}
			slices.Reverse(target)
			pending = append(pending, target...)
		default:
			return nil, errNotDirectory
		}
	}
	return trail[len(trail)-1], nil
}

// lookup finds the node a cleaned path leads to; the last component is not
// followed when it is a symbolic link.
func (w *walker) lookup(name string) (*node, error) {
	if name == "." {
		return w.root, nil
	}
	components, base := splitName(name)
	dir, err := w.directory(components, nil)
	if err != nil {
		return nil, err
	}
	found := dir.children[base]
	if found == nil || found.kind == whiteout {
		return nil, errNotFound
	}
	return found, nil
}

// sortedNames returns the names in a directory in the order of their bytes.
func sortedNames(dir *node) []string {
	names := make([]string, 0, len(dir.children))
	for name := range dir.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// layerError says what is wrong with which entry. The name is quoted: it may
// hold anything.
func layerError(name, format string, args ...any) error {
	const most = 300
	if len(name) > most {
		name = name[:most] + "…"
	}
	return fmt.Errorf("entry %q: %s: %w", name, fmt.Sprintf(format, args...), ErrLayer)
}
