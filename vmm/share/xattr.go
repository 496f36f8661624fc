package share

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// userXAttr begins the names of the attributes that a guest may see and change. The others mean something to the host's
// kernel: capabilities, access control lists, labels.
const userXAttr = "user."

// onXAttrs does something with a file or directory, the only ones that have attributes of the user.
func (f *FileSystem) onXAttrs(id uint64, otherwise fuse.Status, do func(fd int) error) fuse.Status {
	n, s := f.node(id)
	if !s.Ok() {
		return s
	}
	defer f.release(n)
	var fd int
	var err error
	switch {
	case n.kind == unix.S_IFDIR && n.fd >= 0:
		fd, err = openDir(n.fd, true)
	case n.kind == unix.S_IFREG:
		fd, err = f.reopen(n, unix.O_RDONLY)
	default:
		return otherwise
	}
	if err != nil {
		return status(err)
	}
	defer unix.Close(fd)
	return status(again(func() error { return do(fd) }))
}

// GetXAttr implements fuse.RawFileSystem.
func (f *FileSystem) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, name string, value []byte) (size uint32, s fuse.Status) {
	if !strings.HasPrefix(name, userXAttr) {
		return 0, fuse.ENOTSUP
	}
	s = f.onXAttrs(header.NodeId, fuse.ENODATA, func(fd int) error {
		n, err := unix.Fgetxattr(fd, name, value)
		size = uint32(max(n, 0))
		return err
	})
	return size, s
}

// maxXAttrList is XATTR_LIST_MAX, the most bytes of a list of attributes.
const maxXAttrList = 64 << 10

// ListXAttr implements fuse.RawFileSystem.
func (f *FileSystem) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, out []byte) (uint32, fuse.Status) {
	var names []byte
	s := f.onXAttrs(header.NodeId, fuse.OK, func(fd int) error {
		all := make([]byte, maxXAttrList)
		n, err := unix.Flistxattr(fd, all)
		if err != nil {
			return err
		}
		for name := range bytes.SplitAfterSeq(all[:n], []byte{0}) {
			if bytes.HasPrefix(name, []byte(userXAttr)) {
				names = append(names, name...)
			}
		}
		return nil
	})
	if s.Ok() && len(out) > 0 && copy(out, names) < len(names) {
		return 0, fuse.ERANGE
	}
	return uint32(len(names)), s
}

// SetXAttr implements fuse.RawFileSystem.
func (f *FileSystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if s := f.mayChange(name); !s.Ok() {
		return s
	}
	return f.onXAttrs(in.NodeId, fuse.EPERM, func(fd int) error { return unix.Fsetxattr(fd, name, value, int(in.Flags)) })
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *FileSystem) RemoveXAttr(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	if s := f.mayChange(name); !s.Ok() {
		return s
	}
	return f.onXAttrs(header.NodeId, fuse.EPERM, func(fd int) error { return unix.Fremovexattr(fd, name) })
}

func (f *FileSystem) mayChange(name string) fuse.Status {
	if f.cfg.ReadOnly {
		return fuse.EROFS
	}
	if !strings.HasPrefix(name, userXAttr) {
		return fuse.ENOTSUP
	}
	return fuse.OK
}
