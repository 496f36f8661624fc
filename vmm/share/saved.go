package share

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/fs"
)

// What a guest knows is saved as paths below the share: those that its files have now, wherever it has found them. Whoever goes on
// sees the files that have these paths by then. What has none any more, or is of another kind, is gone: ESTALE, which has the guest
// look the name up again, or fail what it has open.

// savedTable is a table in a snapshot.
type savedTable struct {
	Last  uint64      `json:"last"`
	Nodes []savedNode `json:"nodes,omitempty"`
	Files []savedFile `json:"files,omitempty"`
}

type savedNode struct {
	ID      uint64 `json:"id"`
	Path    []byte `json:"path"` // names are bytes
	Kind    uint32 `json:"kind"`
	Lookups uint64 `json:"lookups"`
}

// savedFile is a file, or a directory, that the guest has open.
type savedFile struct {
	ID     uint64 `json:"id"`
	Dir    bool   `json:"dir,omitempty"`
	Gone   bool   `json:"gone,omitempty"`   // all else means nothing
	Node   uint64 `json:"node,omitempty"`   // of a directory
	Path   []byte `json:"path,omitempty"`   // of a file
	Access int    `json:"access,omitempty"` // of a file: O_RDONLY, O_WRONLY or O_RDWR
}

// maxPaths bounds the paths of what a guest knows, in bytes, for it to be saved: that of each may be long.
const maxPaths = 32 << 20

// errNoPath says that a file cannot be found below the share.
var errNoPath = errors.New("it has no name in the share any more")

// Save implements fs.FileSystem. It fails when the guest has something open that nobody could find again.
func (f *FileSystem) Save() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	base, err := f.readlink(f.base)
	if err != nil {
		return nil, err
	}
	s := savedTable{Last: f.last}
	saved, length := make(map[uint64]bool), 0
	for _, n := range f.nodes {
		path, err := f.pathOf(base, n.fd)
		if errors.Is(err, errNoPath) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if length += len(path); length > maxPaths {
			return nil, fmt.Errorf("the guest remembers files with more than %d bytes of names: have it forget some (echo 2 > /proc/sys/vm/drop_caches)", maxPaths)
		}
		saved[n.id] = true
		s.Nodes = append(s.Nodes, savedNode{n.id, []byte(path), n.kind, n.lookups})
	}
	for id, h := range f.handles {
		file := savedFile{ID: id, Dir: h.dir}
		switch {
		case !h.dir:
			path, err := f.pathOf(base, h.fd)
			if err != nil {
				return nil, f.lost(h.fd, err)
			}
			flags, err := unix.FcntlInt(uintptr(h.fd), unix.F_GETFL, 0)
			if err != nil {
				return nil, err
			}
			if length += len(path); length > maxPaths {
				return nil, fmt.Errorf("the guest has files open with more than %d bytes of names", maxPaths)
			}
			file.Path, file.Access = []byte(path), flags&unix.O_ACCMODE
		case h.node == f.root:
			file.Node = fuse.FUSE_ROOT_ID
		case saved[h.node.id]:
			file.Node = h.node.id
		default:
			return nil, f.lost(h.fd, errNoPath)
		}
		s.Files = append(s.Files, file)
	}
	for id, dir := range f.gone {
		s.Files = append(s.Files, savedFile{ID: id, Dir: dir, Gone: true})
	}
	slices.SortFunc(s.Nodes, func(a, b savedNode) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Files, func(a, b savedFile) int { return cmp.Compare(a.ID, b.ID) })
	return json.Marshal(s)
}

// lost is the error of a file that is open, by what was its path.
func (f *FileSystem) lost(fd int, err error) error {
	path, _ := f.readlink(fd) // then it is without
	return fmt.Errorf("the guest has %q open, and %w", strings.TrimSuffix(path, " (deleted)"), err)
}

// readlink returns the path of a descriptor as the kernel has it.
func (f *FileSystem) readlink(fd int) (string, error) {
	p := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.proc, strconv.Itoa(fd), p)
	if err != nil {
		return "", err
	}
	return string(p[:n]), nil
}

// pathOf returns the path of a descriptor below the share, whose own is base. It wraps errNoPath when the file is not there.
func (f *FileSystem) pathOf(base string, fd int) (string, error) {
	var want, st unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return "", err
	}
	if f.root.fd < 0 {
		if err := unix.Fstat(f.base, &st); err != nil {
			return "", err
		}
		if st.Dev != want.Dev || st.Ino != want.Ino {
			return "", errNoPath
		}
		return FileName, nil
	}
	path, err := f.readlink(fd)
	if err == unix.ENAMETOOLONG {
		return "", errNoPath
	}
	if err != nil {
		return "", err
	}
	path, below := strings.CutPrefix(path, strings.TrimSuffix(base, "/")+"/")
	if !below {
		return "", errNoPath
	}
	// A file that was removed still has a path, and another may have got that.
	err = unix.Fstatat(f.base, path, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	if isGone(err) || err == nil && (st.Dev != want.Dev || st.Ino != want.Ino) {
		return "", errNoPath
	}
	return path, err
}

// isGone tells whether an error means that there is no such file for us.
func isGone(err error) bool {
	for _, e := range []unix.Errno{
		unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.EPERM, unix.ELOOP, unix.EISDIR, unix.ENXIO, unix.ETXTBSY, unix.ESTALE, unix.ENAMETOOLONG, unix.EROFS,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// errSaved is wrapped by errors about what no FileSystem can have saved.
var errSaved = errors.New("not what a share has saved")

// Restore implements fs.FileSystem. What is in p may be anything. On an error nothing of it is kept.
func (f *FileSystem) Restore(p []byte) (err error) {
	var s savedTable
	if err := json.Unmarshal(p, &s); err != nil {
		return fmt.Errorf("%w: %w", errSaved, err)
	}
	if err := s.check(&f.cfg); err != nil {
		return err
	}
	f.Reset()
	defer func() {
		if err != nil {
			f.Reset()
		}
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = max(f.last, s.Last)
	for i := range s.Nodes {
		if err := f.restoreNode(&s.Nodes[i]); err != nil && !isGone(err) {
			return err
		}
	}
	for i := range s.Files {
		file := &s.Files[i]
		h, err := f.restoreFile(file)
		switch {
		case isGone(err):
			f.gone[file.ID] = file.Dir
		case err != nil:
			return err
		default:
			f.handles[file.ID] = h
		}
	}
	for _, n := range f.nodes {
		f.drop(n)
	}
	return nil
}

// check looks at everything that does not depend on files.
func (s *savedTable) check(cfg *Config) error {
	if len(s.Nodes) > cfg.MaxNodes || len(s.Files) > cfg.MaxFiles {
		return fmt.Errorf("the guest knows %d files and has %d open, and there is room for %d and %d: raise the limit of open files (ulimit -n)",
			len(s.Nodes), len(s.Files), cfg.MaxNodes, cfg.MaxFiles)
	}
	if s.Last < fuse.FUSE_ROOT_ID || s.Last >= fs.NodeBit {
		return fmt.Errorf("%w: the last number is %d", errSaved, s.Last)
	}
	used := make(map[uint64]bool)
	take := func(id uint64) error {
		if id <= fuse.FUSE_ROOT_ID || id > s.Last || used[id] {
			return fmt.Errorf("%w: number %d", errSaved, id)
		}
		used[id] = true
		return nil
	}
	for i := range s.Nodes {
		if err := errors.Join(take(s.Nodes[i].ID), checkPath(s.Nodes[i].Path)); err != nil {
			return err
		}
	}
	for i := range s.Files {
		file := &s.Files[i]
		err := take(file.ID)
		if !file.Gone && !file.Dir {
			err = errors.Join(err, checkPath(file.Path))
			if file.Access < unix.O_RDONLY || file.Access > unix.O_RDWR {
				err = errors.Join(err, fmt.Errorf("%w: access %#x", errSaved, file.Access))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkPath tells whether a path leads below a directory by names alone.
func checkPath(path []byte) error {
	if len(path) >= unix.PathMax {
		return fmt.Errorf("%w: a path of %d bytes", errSaved, len(path))
	}
	for name := range strings.SplitSeq(string(path), "/") {
		if s := checkName(name); !s.Ok() {
			return fmt.Errorf("%w: path %q", errSaved, path)
		}
	}
	return nil
}

// walk opens what is at a path below the share as a node's descriptor; no symbolic link is followed.
func (f *FileSystem) walk(path []byte) (fd int, st unix.Stat_t, err error) {
	dir := &node{fd: f.root.fd}
	fd = -1
	for name := range strings.SplitSeq(string(path), "/") {
		next, err := -1, error(unix.ENOENT)
		if fd >= 0 || f.root.fd >= 0 || string(path) == FileName {
			next, err = f.openEntry(dir, name)
		}
		if fd >= 0 {
			unix.Close(fd)
		}
		if err != nil {
			return -1, st, err
		}
		fd, dir = next, &node{fd: next}
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// restoreNode makes a node again. f.mu is held.
func (f *FileSystem) restoreNode(s *savedNode) error {
	fd, st, err := f.walk(s.Path)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != s.Kind {
		unix.Close(fd)
		return unix.ESTALE
	}
	n := &node{id: s.ID, key: key{st.Dev, st.Ino}, fd: fd, kind: s.Kind, lookups: s.Lookups}
	f.nodes[n.id] = n
	if f.byKey[n.key] == nil {
		f.byKey[n.key] = n
	}
	return nil
}

// restoreFile opens a file or a directory again. f.mu is held.
func (f *FileSystem) restoreFile(s *savedFile) (*handle, error) {
	if s.Gone {
		return nil, unix.ESTALE
	}
	if s.Dir {
		n := f.root
		if s.Node != fuse.FUSE_ROOT_ID {
			n = f.nodes[s.Node]
		}
		if n == nil || n.kind != unix.S_IFDIR {
			return nil, unix.ESTALE
		}
		h := &handle{fd: -1, dir: true, node: n}
		if n.fd >= 0 {
			var err error
			if h.fd, err = openDir(n.fd, f.cfg.ReadOnly); err != nil {
				return nil, err
			}
		}
		n.users++
		return h, nil
	}
	if f.cfg.ReadOnly && s.Access != unix.O_RDONLY {
		return nil, unix.EROFS
	}
	path, st, err := f.walk(s.Path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(path)
	fd, err := f.reopen(&node{fd: path, kind: st.Mode & unix.S_IFMT}, s.Access)
	if err != nil {
		return nil, err
	}
	return &handle{fd: fd}, nil
}
