package layerdisk

import (
	"errors"
	"slices"
)

// Recipe says what the disk image of one layer holds.
type Recipe struct {
	root      *node
	layers    []*Tree // those whose contents are in it
	first     int     // the number of the lowest of them
	inContext bool

	attributes map[*inode]*inode // of directories that take theirs from below
	dropped    map[*node]bool    // whiteouts that must not be there
}

// NewRecipe decides about the disk image of the last of layers, which are the
// layers of an image up to it, lowest first. When the last one is
// self-contained, the others may be nil. The error is ErrLayer when the layer
// links to a file that the layers below do not have.
func NewRecipe(layers []*Tree) (*Recipe, error) {
	if len(layers) == 0 {
		return nil, errors.New("a recipe needs a layer")
	}
	last := len(layers) - 1
	top := layers[last]
	r := &Recipe{root: top.root, layers: layers[last:], first: last}
	switch {
	case top.SelfContained():
	case top.links > 0:
		m := newMerged()
		for _, t := range layers {
			if err := m.apply(t); err != nil {
				return nil, err
			}
		}
		r.root, r.layers, r.first, r.inContext = m.walker.root, layers, 0, true
	default:
		r.attributes = make(map[*inode]*inode)
		r.dropped = make(map[*node]bool)
		r.adapt(top.root, nil, below(layers[:last]))
		r.inContext = len(r.attributes)+len(r.dropped) > 0
	}
	return r, nil
}

// InContext tells that the disk image depends on the layers below. If not, it
// is a function of the layer alone.
func (r *Recipe) InContext() bool { return r.inContext }

// Flat tells that the disk image holds the layers below as well and takes
// their place.
func (r *Recipe) Flat() bool { return len(r.layers) > 1 }

// adapt fits a directory of the layer, and all in it, to the layers below.
// Nil for them means that none shows through.
func (r *Recipe) adapt(dir *node, components []string, lower below) {
	if dir.opaque {
		if len(components) > 0 && dir.implicit && !dir.fresh {
			r.inherit(dir, components, lower)
		}
		lower = nil
	} else if len(components) > 0 && dir.implicit {
		r.inherit(dir, components, lower)
	}
	shines := lower.hasDirectory(components)
	for name, child := range dir.children {
		switch child.kind {
		case whiteout:
			if !shines {
				// overlayfs does not merge this directory with another, so it would list the whiteout.
				r.dropped[child] = true
			}
		case directory:
			r.adapt(child, append(slices.Clip(components), name), lower)
		}
	}
}

// inherit gives a directory that the layer does not list the attributes it has below.
func (r *Recipe) inherit(dir *node, components []string, lower below) {
	if i, _ := lower.find(components); i != nil && i.kind == directory {
		r.attributes[dir.inode] = i
	}
}
