package share

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// checkName tells whether a name is that of an entry in a directory, and of nothing else.
func checkName(name string) fuse.Status {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fuse.EINVAL
	case len(name) > unix.NAME_MAX:
		return fuse.Status(unix.ENAMETOOLONG)
	}
	return fuse.OK
}

// dir returns a node that is a directory of the host's.
func (f *FileSystem) dir(id uint64) (*node, fuse.Status) {
	n, s := f.node(id)
	if s.Ok() && n.kind != unix.S_IFDIR {
		s = fuse.ENOTDIR
	} else if s.Ok() && n.fd < 0 {
		s = fuse.EPERM // it is made up for the one file in it
	} else {
		return n, s
	}
	f.release(n)
	return nil, s
}

// writable is dir for a request that changes the entry with a name.
func (f *FileSystem) writable(id uint64, name string) (*node, fuse.Status) {
	if f.cfg.ReadOnly {
		return nil, fuse.EROFS
	}
	if s := checkName(name); !s.Ok() {
		return nil, s
	}
	return f.dir(id)
}

// Lookup implements fuse.RawFileSystem.
func (f *FileSystem) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if s := checkName(name); !s.Ok() {
		return s
	}
	n, s := f.node(header.NodeId)
	if !s.Ok() {
		return s
	}
	defer f.release(n)
	if n.kind != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	return f.enter(n, name, out)
}

// enter looks up a name in a directory, which counts, and describes what it finds.
func (f *FileSystem) enter(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	var st unix.Stat_t
	if dir.fd >= 0 {
		if err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
			return status(err)
		}
		// Nothing else can be the same file as long as the node is there.
		if n := f.find(key{st.Dev, st.Ino}); n != nil {
			f.fillEntry(out, n, &st)
			return fuse.OK
		}
	}
	fd, err := f.openEntry(dir, name)
	if err != nil {
		return status(err)
	}
	return f.take(fd, out)
}

// openEntry opens the entry of a directory as a node's descriptor.
func (f *FileSystem) openEntry(dir *node, name string) (int, error) {
	if dir.fd >= 0 {
		return unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if name != FileName {
		return -1, unix.ENOENT
	}
	return unix.FcntlInt(uintptr(f.base), unix.F_DUPFD_CLOEXEC, 0)
}

// take makes a node of a descriptor and describes it.
func (f *FileSystem) take(fd int, out *fuse.EntryOut) fuse.Status {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return status(err)
	}
	n, s := f.add(fd, &st)
	if s.Ok() {
		f.fillEntry(out, n, &st)
	}
	return s
}

// Readlink implements fuse.RawFileSystem. Where the link leads is the guest's business.
func (f *FileSystem) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	n, s := f.node(header.NodeId)
	if !s.Ok() {
		return nil, s
	}
	defer f.release(n)
	if n.kind != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	target := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", target)
	if err != nil {
		return nil, status(err)
	}
	return target[:size], fuse.OK
}

// StatFs implements fuse.RawFileSystem.
func (f *FileSystem) StatFs(_ <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, s := f.node(header.NodeId)
	if !s.Ok() {
		return s
	}
	defer f.release(n)
	fd := n.fd
	if fd < 0 {
		fd = f.base
	}
	var st unix.Statfs_t
	if err := again(func() error { return unix.Fstatfs(fd, &st) }); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: uint32(st.Namelen),
	}
	return fuse.OK
}
