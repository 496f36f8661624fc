package share

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// reopen opens a node's file, which must be a regular one: others block, or reach what is not a file.
func (f *FileSystem) reopen(n *node, flags int) (int, error) {
	switch n.kind {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return -1, unix.EISDIR
	case unix.S_IFLNK:
		return -1, unix.ELOOP
	default:
		return -1, unix.ENXIO
	}
	flags |= unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		fd, err := openProc(f.proc, n, flags)
		if err != nil {
			return -1, err
		}
		return fd, dropPrivileged(fd)
	}
	if f.cfg.ReadOnly {
		// Not even the time of the last access changes, where the host allows that.
		if fd, err := openProc(f.proc, n, flags|unix.O_NOATIME); err != unix.EPERM {
			return fd, err
		}
	}
	return openProc(f.proc, n, flags)
}

func openProc(proc int, n *node, flags int) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat(proc, procName(n), flags, 0)
		return err
	})
	return fd, err
}

// dropPrivileged takes the bits from a file that is going to be written, as the host's kernel does when anybody but root
// writes. On an error it closes the file.
func dropPrivileged(fd int) error {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Mode&privileged != 0 {
		err = unix.Fchmod(fd, st.Mode&0o7777&^privileged)
	}
	if err == unix.EPERM { // another's file, and we are not root
		return nil
	}
	if err != nil {
		unix.Close(fd)
	}
	return err
}

// Open implements fuse.RawFileSystem. O_DIRECT is the guest's business: its page cache is passed by, the host's is not.
func (f *FileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, s := f.node(in.NodeId)
	if !s.Ok() {
		return s
	}
	defer f.release(n)
	return f.openFile(n, in.Flags, out)
}

func (f *FileSystem) openFile(n *node, flags uint32, out *fuse.OpenOut) fuse.Status {
	host := int(flags & (unix.O_ACCMODE | unix.O_TRUNC))
	access := host & unix.O_ACCMODE
	if access == unix.O_ACCMODE {
		return fuse.EINVAL
	}
	if f.cfg.ReadOnly && (access != unix.O_RDONLY || host&unix.O_TRUNC != 0) {
		return fuse.EROFS
	}
	if access == unix.O_RDONLY {
		host &^= unix.O_TRUNC // which would write
	}
	fd, err := f.reopen(n, host)
	if err != nil {
		return status(err)
	}
	return f.opened(fd, access, out)
}

// opened gives a file its number.
func (f *FileSystem) opened(fd, access int, out *fuse.OpenOut) (s fuse.Status) {
	if access == unix.O_RDONLY {
		out.OpenFlags = fuse.FOPEN_NOFLUSH
	}
	out.Fh, s = f.open(&handle{fd: fd})
	return s
}

// Release implements fuse.RawFileSystem.
func (f *FileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { f.shut(in.Fh, false) }

// read is a READ that is still to be done, straight into guest memory.
type read struct {
	f    *FileSystem
	h    *handle
	off  int64
	size int
}

// Read implements fuse.RawFileSystem.
func (f *FileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	if in.Offset > math.MaxInt64 {
		return nil, fuse.EINVAL
	}
	h, s := f.handle(in.Fh, false)
	if !s.Ok() {
		return nil, s
	}
	return &read{f, h, int64(in.Offset), int(in.Size)}, fuse.OK
}

// Size implements fuse.ReadResult: at most.
func (r *read) Size() int { return r.size }

// Done implements fuse.ReadResult.
func (r *read) Done() { r.f.done(r.h) }

// Readv fills the pieces as far as the file goes. go-fuse finds it by its name and type.
func (r *read) Readv(pieces [][]byte) (n int, s fuse.Status) {
	err := again(func() (err error) {
		n, err = unix.Preadv(r.h.fd, pieces, r.off)
		return err
	})
	return max(n, 0), status(err)
}

// Bytes implements fuse.ReadResult.
func (r *read) Bytes(buf []byte) ([]byte, fuse.Status) {
	n, s := r.Readv([][]byte{buf[:min(len(buf), r.size)]})
	return buf[:n], s
}

// Writev implements fuse.RawFileSystem. Where to append, the host knows best. No file is open with O_APPEND for that: what
// a program has written through a mapping comes over any file that is open, and has its place.
func (f *FileSystem) Writev(_ <-chan struct{}, in *fuse.WriteIn, pieces [][]byte) (uint32, fuse.Status) {
	if f.cfg.ReadOnly {
		return 0, fuse.EROFS
	}
	if in.Offset > math.MaxInt64 {
		return 0, fuse.EINVAL
	}
	h, s := f.handle(in.Fh, false)
	if !s.Ok() {
		return 0, s
	}
	defer f.done(h)
	flags := 0
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		flags = unix.RWF_APPEND
	}
	var n int
	err := again(func() (err error) {
		n, err = unix.Pwritev2(h.fd, pieces, int64(in.Offset), flags)
		return err
	})
	if err != nil {
		return 0, status(err)
	}
	return uint32(n), fuse.OK // a short one is for the guest to go on with
}

// Flush implements fuse.RawFileSystem. A file system that tells of errors late does so when a descriptor is closed.
func (f *FileSystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	return f.onFile(in.Fh, func(fd int) error {
		again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(again)
	})
}

// onFile does something with an open file.
func (f *FileSystem) onFile(id uint64, do func(fd int) error) fuse.Status {
	h, s := f.handle(id, false)
	if !s.Ok() {
		return s
	}
	defer f.done(h)
	return status(again(func() error { return do(h.fd) }))
}

// fsyncData is FUSE_FSYNC_FDATASYNC.
const fsyncData = 1

func syncing(in *fuse.FsyncIn) func(fd int) error {
	if in.FsyncFlags&fsyncData != 0 {
		return unix.Fdatasync
	}
	return unix.Fsync
}

// Fsync implements fuse.RawFileSystem.
func (f *FileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.onFile(in.Fh, syncing(in))
}

// Fallocate implements fuse.RawFileSystem.
func (f *FileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if f.cfg.ReadOnly {
		return fuse.EROFS
	}
	switch in.Mode {
	case 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
	default:
		return fuse.ENOTSUP
	}
	return f.onFile(in.Fh, func(fd int) error {
		return unix.Fallocate(fd, in.Mode, int64(in.Offset), int64(in.Length))
	})
}

// Lseek implements fuse.RawFileSystem: where data and holes are. All else the guest knows by itself.
func (f *FileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	return f.onFile(in.Fh, func(fd int) error {
		off, err := unix.Seek(fd, int64(in.Offset), int(in.Whence))
		out.Offset = uint64(off)
		return err
	})
}

// maxCopy is the most that one COPY_FILE_RANGE copies, in bytes: the guest asks again, and a device that is to stop does
// not wait for long.
const maxCopy = 128 << 20

// CopyFileRange implements fuse.RawFileSystem.
func (f *FileSystem) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (n uint32, s fuse.Status) {
	if f.cfg.ReadOnly {
		return 0, fuse.EROFS
	}
	if in.Flags != 0 || in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 {
		return 0, fuse.EINVAL
	}
	to, s := f.handle(in.FhOut, false)
	if !s.Ok() {
		return 0, s
	}
	defer f.done(to)
	return n, f.onFile(in.FhIn, func(fd int) error {
		from, at := int64(in.OffIn), int64(in.OffOut)
		copied, err := unix.CopyFileRange(fd, &from, to.fd, &at, int(min(in.Len, maxCopy)), 0)
		n = uint32(max(copied, 0))
		return err
	})
}
