package share

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/fs"
)

// key is what makes a file the same file. It is not used again while a descriptor of the file is open.
type key struct{ dev, ino uint64 }

// node is a file that the guest has a number for.
type node struct {
	id      uint64
	key     key
	fd      int    // O_PATH; -1 for the directory that is made up for a single file
	kind    uint32 // S_IFDIR and so on, which never changes
	lookups uint64 // that the guest has not forgotten
	users   int    // requests under way
}

// handle is a file or directory that the guest has open.
type handle struct {
	fd     int
	dir    bool
	users  int  // requests under way
	closed bool // by the guest: the last user closes fd

	mu   sync.Mutex // of a directory's position
	node *node      // of a directory, held
}

// table is what the guest knows. FileSystem.mu guards it, and the counts in nodes and handles.
type table struct {
	root    *node
	nodes   map[uint64]*node // without root
	byKey   map[key]*node
	handles map[uint64]*handle
	gone    map[uint64]bool   // open in a guest that was restored, and not to be found; true for directories
	last    uint64            // number given out: none is used again
	devices map[uint64]uint64 // other devices in the share, numbered from 1
}

// newTable makes a table with nothing in it but the root: base, or a directory made up for it.
func newTable(st *unix.Stat_t, base int) table {
	t := table{
		root:  &node{id: fuse.FUSE_ROOT_ID, fd: -1, kind: unix.S_IFDIR},
		nodes: make(map[uint64]*node), byKey: make(map[key]*node), handles: make(map[uint64]*handle), gone: make(map[uint64]bool),
		last: fuse.FUSE_ROOT_ID, devices: make(map[uint64]uint64),
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		t.root.fd, t.root.key = base, key{st.Dev, st.Ino}
		t.byKey[t.root.key] = t.root
	}
	return t
}

// node returns a node by its number, to be given back with release.
func (f *FileSystem) node(id uint64) (*node, fuse.Status) {
	id &^= fs.NodeBit
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.root
	if id != fuse.FUSE_ROOT_ID {
		if n = f.nodes[id]; n == nil {
			return nil, fuse.Status(unix.ESTALE)
		}
	}
	n.users++
	return n, fuse.OK
}

func (f *FileSystem) release(n *node) {
	f.mu.Lock()
	n.users--
	f.drop(n)
	f.mu.Unlock()
}

// drop closes a node that nobody needs. f.mu is held.
func (f *FileSystem) drop(n *node) {
	if n == f.root || n.users > 0 || n.lookups > 0 {
		return
	}
	delete(f.nodes, n.id)
	if f.byKey[n.key] == n {
		delete(f.byKey, n.key)
	}
	unix.Close(n.fd)
}

// find counts a lookup of the file and returns its node, if there is one.
func (f *FileSystem) find(k key) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.byKey[k]
	if n != nil {
		n.lookups++
	}
	return n
}

// add counts a lookup of the file at fd, and takes fd, which is closed if there is a node already or room for none.
func (f *FileSystem) add(fd int, st *unix.Stat_t) (*node, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := key{st.Dev, st.Ino}
	if n := f.byKey[k]; n != nil {
		unix.Close(fd)
		n.lookups++
		return n, fuse.OK
	}
	if len(f.nodes) >= f.cfg.MaxNodes {
		unix.Close(fd)
		return nil, fuse.Status(unix.ENFILE)
	}
	f.last++
	n := &node{id: f.last, key: k, fd: fd, kind: st.Mode & unix.S_IFMT, lookups: 1}
	f.nodes[n.id], f.byKey[k] = n, n
	return n, fuse.OK
}

// Forget implements fuse.RawFileSystem.
func (f *FileSystem) Forget(id, lookups uint64) {
	id &^= fs.NodeBit
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[id]; n != nil {
		n.lookups -= min(n.lookups, lookups)
		f.drop(n)
	}
}

// open notes an open file and returns its number. It takes fd.
func (f *FileSystem) open(h *handle) (uint64, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.handles)+len(f.gone) >= f.cfg.MaxFiles {
		unix.Close(h.fd)
		return 0, fuse.Status(unix.ENFILE)
	}
	f.last++
	f.handles[f.last] = h
	if h.node != nil {
		h.node.users++
	}
	return f.last, fuse.OK
}

// handle returns an open file, or directory, by its number, to be given back with done.
func (f *FileSystem) handle(id uint64, dir bool) (*handle, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.handles[id]
	if was, gone := f.gone[id]; gone && was == dir {
		return nil, fuse.Status(unix.ESTALE)
	}
	if h == nil || h.dir != dir {
		return nil, fuse.EBADF
	}
	h.users++
	return h, fuse.OK
}

func (f *FileSystem) done(h *handle) {
	f.mu.Lock()
	h.users--
	f.closeIfUnused(h)
	f.mu.Unlock()
}

// shut is the guest's close.
func (f *FileSystem) shut(id uint64, dir bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.handles[id]; h != nil && h.dir == dir {
		delete(f.handles, id)
		h.closed = true
		f.closeIfUnused(h)
	}
	if was, gone := f.gone[id]; gone && was == dir {
		delete(f.gone, id)
	}
}

// closeIfUnused closes the descriptor of a closed file when nobody uses it. f.mu is held.
func (f *FileSystem) closeIfUnused(h *handle) {
	if !h.closed || h.users > 0 {
		return
	}
	if h.fd >= 0 {
		unix.Close(h.fd)
	}
	if h.node != nil {
		h.node.users--
		f.drop(h.node)
	}
}

// Reset implements fs.FileSystem.
func (f *FileSystem) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, h := range f.handles {
		delete(f.handles, id)
		h.closed = true
		f.closeIfUnused(h)
	}
	clear(f.gone)
	for _, n := range f.nodes {
		n.lookups = 0
		f.drop(n)
	}
}

// maxDevices bounds how many file systems below a share have inode numbers of their own in the guest.
const maxDevices = 255

// inode is a file's inode number in the guest, where all file systems below the share are one.
func (f *FileSystem) inode(k key) uint64 {
	if k.dev == f.dev {
		return k.ino
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.devices[k.dev]
	if !ok && len(f.devices) < maxDevices {
		n = uint64(len(f.devices) + 1)
		f.devices[k.dev] = n
	}
	return k.ino ^ n<<56
}
