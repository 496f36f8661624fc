package share

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// make makes an entry in a directory in the name of who asks for it, and looks it up.
func (f *FileSystem) make(header *fuse.InHeader, name string, out *fuse.EntryOut, create func(dir int) error) fuse.Status {
	dir, s := f.writable(header.NodeId, name)
	if !s.Ok() {
		return s
	}
	defer f.release(dir)
	if err := f.maker.as(header.Uid, header.Gid, func() error { return create(dir.fd) }); err != nil {
		return status(err)
	}
	return f.enter(dir, name, out)
}

// Mkdir implements fuse.RawFileSystem.
func (f *FileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(&in.InHeader, name, out, func(dir int) error { return unix.Mkdirat(dir, name, in.Mode&0o7777) })
}

// Mknod implements fuse.RawFileSystem: for all but device nodes.
func (f *FileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	switch kind := in.Mode & unix.S_IFMT; {
	case f.cfg.ReadOnly: // before anything else
	case kind != unix.S_IFREG && kind != unix.S_IFIFO && kind != unix.S_IFSOCK, in.Mode&privileged != 0:
		return fuse.EPERM
	}
	return f.make(&in.InHeader, name, out, func(dir int) error { return unix.Mknodat(dir, name, in.Mode, 0) })
}

// Symlink implements fuse.RawFileSystem.
func (f *FileSystem) Symlink(_ <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(header, name, out, func(dir int) error { return unix.Symlinkat(target, dir, name) })
}

// Create implements fuse.RawFileSystem. The guest asks for it when it knows of no such file; but there may be one, of any
// kind, which must not be opened by its name.
func (f *FileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, s := f.writable(in.NodeId, name)
	if !s.Ok() {
		return s
	}
	defer f.release(dir)
	access := int(in.Flags & unix.O_ACCMODE)
	switch {
	case access == unix.O_ACCMODE:
		return fuse.EINVAL
	case in.Mode&privileged != 0:
		return fuse.EPERM
	}
	fd := -1
	err := f.maker.as(in.Uid, in.Gid, func() (err error) {
		flags := access | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(dir.fd, name, flags, in.Mode&0o7777)
		return err
	})
	if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		return f.openExisting(dir, name, in.Flags, out)
	}
	if err != nil {
		return status(err)
	}
	// The node is that of the new file, whatever has its name by now.
	path, err := openProc(f.proc, &node{fd: fd}, unix.O_PATH|unix.O_CLOEXEC)
	if err == nil {
		if s = f.take(path, &out.EntryOut); s.Ok() {
			if s = f.opened(fd, access, &out.OpenOut); !s.Ok() {
				f.Forget(out.NodeId, 1)
			}
			return s
		}
	} else {
		s = status(err)
	}
	unix.Close(fd)
	return s
}

func (f *FileSystem) openExisting(dir *node, name string, flags uint32, out *fuse.CreateOut) fuse.Status {
	if s := f.enter(dir, name, &out.EntryOut); !s.Ok() {
		return s
	}
	n, s := f.node(out.NodeId)
	if s.Ok() {
		s = f.openFile(n, flags, &out.OpenOut)
		f.release(n)
	}
	if !s.Ok() {
		f.Forget(out.NodeId, 1)
	}
	return s
}

// Link implements fuse.RawFileSystem.
func (f *FileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, s := f.writable(in.NodeId, name)
	if !s.Ok() {
		return s
	}
	defer f.release(dir)
	old, s := f.node(in.Oldnodeid)
	if !s.Ok() {
		return s
	}
	defer f.release(old)
	if old.kind == unix.S_IFDIR {
		return fuse.EPERM
	}
	// Proc's link is followed to the very file, and no further.
	if err := again(func() error { return unix.Linkat(f.proc, procName(old), dir.fd, name, unix.AT_SYMLINK_FOLLOW) }); err != nil {
		return status(err)
	}
	return f.enter(dir, name, out)
}

// Unlink implements fuse.RawFileSystem.
func (f *FileSystem) Unlink(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return f.remove(header, name, 0)
}

// Rmdir implements fuse.RawFileSystem.
func (f *FileSystem) Rmdir(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return f.remove(header, name, unix.AT_REMOVEDIR)
}

func (f *FileSystem) remove(header *fuse.InHeader, name string, flags int) fuse.Status {
	dir, s := f.writable(header.NodeId, name)
	if !s.Ok() {
		return s
	}
	defer f.release(dir)
	return status(again(func() error { return unix.Unlinkat(dir.fd, name, flags) }))
}

// Rename implements fuse.RawFileSystem.
func (f *FileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	from, s := f.writable(in.NodeId, oldName)
	if !s.Ok() {
		return s
	}
	defer f.release(from)
	to, s := f.writable(in.Newdir, newName)
	if !s.Ok() {
		return s
	}
	defer f.release(to)
	// A whiteout, the third flag, would be a device node.
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fuse.EINVAL
	}
	return status(again(func() error { return unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)) }))
}
