// Package share serves a directory of the host, or a single file, to a guest through virtio/fs.
//
// # What a guest cannot do
//
// The guest names files by the numbers of nodes, and by names of a single component in a node that is a directory. A node
// is a descriptor opened with O_PATH and O_NOFOLLOW in its parent, so no path is ever walked here, and no symbolic
// link followed: whoever renames or replaces what, on the host or in the guest, a number keeps meaning the same file.
// The guest resolves links by itself, in its own tree. Names that are "." or ".." or have a separator are refused.
// (A directory that somebody on the host moves out of the share while the guest knows it stays the guest's.)
//
// Only regular files and directories are opened. FIFOs, sockets and device nodes are objects of the guest's own kernel,
// which never asks for their contents; device nodes cannot be made. Set-user-ID and set-group-ID bits cannot be set on
// files, and go when a file is opened for writing. Of extended attributes there are those of the user.
//
// A read-only share refuses all that changes anything, and has no file open for writing.
//
// Nodes and open files are bounded (Config), and go when the guest forgets them, unmounts, or resets its driver.
//
// # Whose files they are
//
// As root, what the guest makes belongs to the user and group that made it in the guest, by number, as with a
// container's bind mount; the guest's kernel checks permissions. Any other user makes files of its own, whatever the
// guest says, and cannot change their owner; files of others are open to the guest as they are to that user.
//
// # Who sees what when
//
// By default the guest asks again each time: a change on either side is seen by the next system call on the other. Data
// that the guest has in its page cache goes when the file is opened, or its time of modification has changed. Config.Cache
// lets the guest keep names and attributes for a second. Locks are the guest's own, not the host's.
package share

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/fs"
)

// FileName is the name of a single shared file in the directory that is made up for it.
const FileName = "file"

// Config says what is shared, and how.
type Config struct {
	// File is a directory, or a regular file, opened in any way; O_PATH is enough. It stays the caller's.
	File     *os.File
	ReadOnly bool
	// Cache lets the guest keep names and attributes for a second.
	Cache bool
	// MaxNodes and MaxFiles bound the nodes that the guest knows and the files that it has open. Each takes a
	// descriptor. At the bound the guest gets ENFILE.
	MaxNodes, MaxFiles int
}

// FileSystem implements fs.FileSystem.
type FileSystem struct {
	fuse.RawFileSystem // answers ENOSYS to everything else

	cfg   Config
	base  int // of what is shared
	dev   uint64
	proc  int    // /proc/self/fd: where a node's descriptor becomes one for reading and writing
	maker *maker // nil if read-only

	mu sync.Mutex
	table
}

var _ fs.FileSystem = (*FileSystem)(nil)

// New serves cfg.File.
func New(cfg Config) (_ *FileSystem, err error) {
	f := &FileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), cfg: cfg, base: -1, proc: -1}
	defer func() {
		if err != nil {
			f.Close()
			err = fmt.Errorf("sharing %s: %w", cfg.File.Name(), err)
		}
	}()
	if cfg.MaxNodes < 1 || cfg.MaxFiles < 1 {
		return nil, fmt.Errorf("room for %d nodes and %d files: must be positive", cfg.MaxNodes, cfg.MaxFiles)
	}
	if f.base, err = unix.FcntlInt(cfg.File.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.base, &st); err != nil {
		return nil, err
	}
	f.dev = st.Dev
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil, errors.New("is neither a directory nor a regular file")
	}
	if f.proc, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("opening /proc/self/fd: %w", err)
	}
	if !cfg.ReadOnly {
		if f.maker, err = startMaker(); err != nil {
			return nil, err
		}
	}
	f.table = newTable(&st, f.base)
	return f, nil
}

// Close closes everything. Nobody may use f any more; a second Close does nothing.
func (f *FileSystem) Close() error {
	if f.root != nil {
		f.Reset()
	}
	f.maker.stop()
	for _, fd := range []int{f.base, f.proc} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	f.base, f.proc, f.maker = -1, -1, nil
	return nil
}

// String implements fuse.RawFileSystem.
func (f *FileSystem) String() string { return "hull" }

// status makes an answer of an error of a system call.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return fuse.Status(errno)
	}
	return fuse.EIO
}

// again repeats a system call that a signal has interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
