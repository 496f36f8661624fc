package share

import (
	"math"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// cacheTime is how long the guest may keep names and attributes with Config.Cache, in seconds.
const cacheTime = 1

func (f *FileSystem) validity() uint64 {
	if f.cfg.Cache {
		return cacheTime
	}
	return 0
}

// fillEntry describes a node that was looked up.
func (f *FileSystem) fillEntry(out *fuse.EntryOut, n *node, st *unix.Stat_t) {
	*out = fuse.EntryOut{NodeId: n.id, EntryValid: f.validity(), AttrValid: f.validity()}
	f.fillAttr(&out.Attr, n, st)
}

// fillAttr describes a file.
func (f *FileSystem) fillAttr(out *fuse.Attr, n *node, st *unix.Stat_t) {
	*out = fuse.Attr{
		Ino: f.inode(n.key), Size: uint64(st.Size), Blocks: uint64(st.Blocks),
		Atime: uint64(st.Atim.Sec), Mtime: uint64(st.Mtim.Sec), Ctime: uint64(st.Ctim.Sec),
		Atimensec: uint32(st.Atim.Nsec), Mtimensec: uint32(st.Mtim.Nsec), Ctimensec: uint32(st.Ctim.Nsec),
		Mode: st.Mode, Nlink: uint32(st.Nlink), Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev: uint32(st.Rdev), Blksize: uint32(st.Blksize),
	}
}

// stat asks the host for a node's attributes.
func (f *FileSystem) stat(n *node, st *unix.Stat_t) error {
	if n.fd >= 0 {
		return unix.Fstat(n.fd, st)
	}
	// The directory is made up, and of the same age as the file.
	if err := unix.Fstat(f.base, st); err != nil {
		return err
	}
	st.Mode, st.Nlink, st.Size, st.Blocks, st.Rdev = unix.S_IFDIR|0o555, 2, 0, 0, 0
	return nil
}

func (f *FileSystem) attrOut(n *node, out *fuse.AttrOut) fuse.Status {
	var st unix.Stat_t
	if err := f.stat(n, &st); err != nil {
		return status(err)
	}
	out.AttrValid = f.validity()
	f.fillAttr(&out.Attr, n, &st)
	return fuse.OK
}

// GetAttr implements fuse.RawFileSystem.
func (f *FileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, s := f.node(in.NodeId)
	if !s.Ok() {
		return s
	}
	defer f.release(n)
	return f.attrOut(n, out)
}

// SetAttr implements fuse.RawFileSystem.
func (f *FileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if f.cfg.ReadOnly {
		return fuse.EROFS
	}
	n, s := f.node(in.NodeId)
	if !s.Ok() {
		return s
	}
	defer f.release(n)
	if n.fd < 0 {
		return fuse.EPERM
	}
	if mode, ok := in.GetMode(); ok {
		s = f.chmod(n, mode)
	}
	if s.Ok() && in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		s = f.chown(n, in)
	}
	if size, ok := in.GetSize(); ok && s.Ok() {
		s = f.truncate(n, in, size)
	}
	if s.Ok() && in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		s = f.setTimes(n, in)
	}
	if !s.Ok() {
		return s
	}
	return f.attrOut(n, out)
}

// privileged are the bits of a file's mode that make a program run as somebody else.
const privileged = unix.S_ISUID | unix.S_ISGID

// procName is the name of a node's descriptor in f.proc, for system calls that do not take the descriptor.
func procName(n *node) string { return strconv.Itoa(n.fd) }

func (f *FileSystem) chmod(n *node, mode uint32) fuse.Status {
	if n.kind == unix.S_IFLNK {
		return fuse.ENOTSUP
	}
	if n.kind != unix.S_IFDIR && mode&privileged != 0 {
		var st unix.Stat_t
		if err := unix.Fstat(n.fd, &st); err != nil {
			return status(err)
		}
		if mode&privileged&^st.Mode != 0 {
			return fuse.EPERM
		}
	}
	return status(unix.Fchmodat(f.proc, procName(n), mode&0o7777, 0))
}

func (f *FileSystem) chown(n *node, in *fuse.SetAttrIn) fuse.Status {
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	// All ones mean "as it is" to the host.
	if setUID && uid == math.MaxUint32 || setGID && gid == math.MaxUint32 {
		return fuse.EINVAL
	}
	to := func(id uint32, set bool) int {
		if !set {
			return -1
		}
		return int(id)
	}
	return status(unix.Fchownat(n.fd, "", to(uid, setUID), to(gid, setGID), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW))
}

func (f *FileSystem) truncate(n *node, in *fuse.SetAttrIn, size uint64) fuse.Status {
	if size > math.MaxInt64 {
		return fuse.Status(unix.EFBIG)
	}
	if id, ok := in.GetFh(); ok {
		h, s := f.handle(id, false)
		if !s.Ok() {
			return s
		}
		defer f.done(h)
		return status(again(func() error { return unix.Ftruncate(h.fd, int64(size)) }))
	}
	fd, err := f.reopen(n, unix.O_WRONLY)
	if err != nil {
		return status(err)
	}
	defer unix.Close(fd)
	return status(again(func() error { return unix.Ftruncate(fd, int64(size)) }))
}

func (f *FileSystem) setTimes(n *node, in *fuse.SetAttrIn) fuse.Status {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	for i, t := range []struct {
		set, now uint32
		sec      uint64
		nsec     uint32
	}{
		{fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec},
		{fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec},
	} {
		switch {
		case in.Valid&t.set == 0:
		case in.Valid&t.now != 0:
			times[i].Nsec = unix.UTIME_NOW
		case t.nsec >= 1e9:
			return fuse.EINVAL
		default:
			times[i] = unix.Timespec{Sec: int64(t.sec), Nsec: int64(t.nsec)}
		}
	}
	// Through proc's link to the very file, which is not followed further if it is a symbolic link itself.
	return status(unix.UtimesNanoAt(f.proc, procName(n), times, 0))
}
