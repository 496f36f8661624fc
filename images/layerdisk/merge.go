package layerdisk

// below answers questions about the stack of layers under one layer, the way
// overlayfs would see it.
type below []*Tree // lowest first

// find returns the attributes of the directory or file at a path (components
// from the root, links not followed), or nil. Directories that a layer has
// without listing them say nothing about their attributes: then the next layer
// down is asked, and a nil inode with found set means that none knew.
func (b below) find(components []string) (i *inode, found bool) {
	for layer := len(b) - 1; layer >= 0; layer-- {
		n, stop := b[layer].root, false
		for _, name := range components {
			stop = stop || n.opaque
			child := n.children[name]
			if child == nil {
				n = nil
				break
			}
			if child.kind == whiteout {
				return nil, found
			}
			n = child
			if n.kind != directory {
				stop = true
			}
		}
		switch {
		case n == nil:
		case n.kind == directory && n.implicit:
			found = true
			stop = stop || n.fresh
		case found && n.kind != directory:
			return nil, true // the directory above replaced it
		default:
			return n.inode, true
		}
		if stop {
			return nil, found
		}
	}
	return nil, found
}

// hasDirectory tells whether the stack shows a directory at a path.
func (b below) hasDirectory(components []string) bool {
	i, found := b.find(components)
	return found && (i == nil || i.kind == directory)
}

// merged is several layers put together into one tree, as a union file system
// would show them: without whiteouts and without links to other layers.
type merged struct{ walker walker }

func newMerged() *merged { return &merged{walker{root: newDirectory()}} }

// apply puts a layer on top of what is there.
func (m *merged) apply(t *Tree) error {
	// Hard links lead to what was there before this layer.
	targets := make(map[*inode]*inode)
	if t.links > 0 {
		if err := m.resolveLinks(t.root, "", targets); err != nil {
			return err
		}
	}
	root := m.walker.root
	if t.root.opaque {
		clear(root.children)
	}
	if !t.root.implicit {
		root.inode = t.root.inode
	}
	applyDirectory(root, t.root, targets)
	return nil
}

func (m *merged) resolveLinks(dir *node, prefix string, targets map[*inode]*inode) error {
	for _, name := range sortedNames(dir) {
		child := dir.children[name]
		switch child.kind {
		case directory:
			if err := m.resolveLinks(child, prefix+name+"/", targets); err != nil {
				return err
			}
		case lowerLink:
			old, err := m.walker.lookup(child.target)
			if err != nil {
				return layerError(prefix+name, "a hard link to %q: %v or the layers below", child.target, err)
			}
			if old.kind == directory {
				return layerError(prefix+name, "a hard link to %q, which is a directory", child.target)
			}
			targets[child.inode] = old.inode
		}
	}
	return nil
}

// applyDirectory puts the contents of the directory top onto those of dst.
func applyDirectory(dst, top *node, targets map[*inode]*inode) {
	for name, child := range top.children {
		switch child.kind {
		case whiteout:
			delete(dst.children, name)
		case lowerLink:
			dst.children[name] = &node{inode: targets[child.inode]}
		case directory:
			dst.children[name] = applyOne(dst.children[name], child, targets)
		default:
			dst.children[name] = &node{inode: child.inode}
		}
	}
}

// applyOne is the directory that results from top on old, which may be nil.
func applyOne(old, top *node, targets map[*inode]*inode) *node {
	result := &node{inode: top.inode, length: top.length}
	if old != nil && old.kind == directory && !top.fresh {
		if top.implicit {
			result.inode = old.inode
		}
		if !top.opaque {
			result.children = old.children
		}
	}
	if result.children == nil {
		result.children = make(map[string]*node, len(top.children))
	}
	applyDirectory(result, top, targets)
	return result
}
