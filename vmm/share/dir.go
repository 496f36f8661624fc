package share

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// OpenDir implements fuse.RawFileSystem.
func (f *FileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) (s fuse.Status) {
	n, s := f.node(in.NodeId)
	if !s.Ok() {
		return s
	}
	defer f.release(n)
	if n.kind != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	fd := -1
	if n.fd >= 0 {
		var err error
		if fd, err = openDir(n.fd, f.cfg.ReadOnly); err != nil {
			return status(err)
		}
	}
	out.Fh, s = f.open(&handle{fd: fd, dir: true, node: n})
	return s
}

// openDir opens the directory at dir for reading; quietly, so that its time of access stays as it is where the host
// allows that.
func openDir(dir int, quietly bool) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if quietly {
		if fd, err := unix.Openat(dir, ".", flags|unix.O_NOATIME, 0); err != unix.EPERM {
			return fd, err
		}
	}
	return unix.Openat(dir, ".", flags, 0)
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *FileSystem) ReleaseDir(in *fuse.ReleaseIn) { f.shut(in.Fh, true) }

// FsyncDir implements fuse.RawFileSystem.
func (f *FileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, s := f.handle(in.Fh, true)
	if !s.Ok() {
		return s
	}
	defer f.done(h)
	if h.fd < 0 {
		return fuse.OK
	}
	return status(again(func() error { return syncing(in)(h.fd) }))
}

// ReadDir implements fuse.RawFileSystem.
func (f *FileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(_ *node, e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements fuse.RawFileSystem. An entry that cannot be looked up comes without attributes.
func (f *FileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(dir *node, e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Name != "." && e.Name != ".." {
			// The entry is in guest memory: what is in it is decided here first.
			var found fuse.EntryOut
			if s := f.enter(dir, e.Name, &found); s.Ok() {
				*entry = found
			}
		}
		return true
	})
}

// direntBuffer is how much of a directory is read at a time, in bytes.
const direntBuffer = 32 << 10

var direntBuffers = sync.Pool{New: func() any { return new([direntBuffer]byte) }}

// list reads entries of a directory, from the one at in.Offset, until add has no room for more.
func (f *FileSystem) list(in *fuse.ReadIn, add func(dir *node, e fuse.DirEntry) bool) fuse.Status {
	h, s := f.handle(in.Fh, true)
	if !s.Ok() {
		return s
	}
	defer f.done(h)
	if h.fd < 0 {
		return f.listSingle(h.node, in.Offset, add)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := unix.Seek(h.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
		return status(err)
	}
	buf := direntBuffers.Get().(*[direntBuffer]byte)
	defer direntBuffers.Put(buf)
	// Entries are about as long here as there: what does not fit would be read again.
	limit := min(max(int(in.Size), 1024), direntBuffer)
	for any := false; ; any = true {
		var n int
		err := again(func() (err error) {
			n, err = unix.Getdents(h.fd, buf[:limit])
			return err
		})
		if err != nil && !any {
			return status(err)
		}
		if n <= 0 || err != nil {
			return fuse.OK
		}
		for entries := buf[:n]; len(entries) > 0; {
			e, size := parseDirent(entries)
			entries = entries[size:]
			if e.Name == ".." && h.node == f.root {
				e.Ino = h.node.key.ino // what is above the share is not the guest's to know
			}
			if !add(h.node, e) {
				return fuse.OK
			}
		}
	}
}

// parseDirent decodes struct linux_dirent64, as the kernel has written it, and returns its length.
func parseDirent(b []byte) (e fuse.DirEntry, size int) {
	le := binary.LittleEndian
	size = int(le.Uint16(b[16:]))
	name, _, _ := bytes.Cut(b[19:size], []byte{0})
	return fuse.DirEntry{Ino: le.Uint64(b), Off: le.Uint64(b[8:]), Mode: uint32(b[18]) << 12, Name: string(name)}, size
}

// listSingle is list for the directory that is made up for a single file.
func (f *FileSystem) listSingle(dir *node, from uint64, add func(dir *node, e fuse.DirEntry) bool) fuse.Status {
	entries := []fuse.DirEntry{{Mode: unix.S_IFDIR, Name: "."}, {Mode: unix.S_IFDIR, Name: ".."}, {Mode: unix.S_IFREG, Name: FileName}}
	for i, e := range entries {
		e.Off = uint64(i + 1)
		if e.Off > from && !add(dir, e) {
			break
		}
	}
	return fuse.OK
}
