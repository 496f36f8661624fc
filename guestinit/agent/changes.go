package agent

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/archive"
	"github.com/hullvm/hull/guestinit/proto"
)

// Marks of an OCI layer (image-spec, layer.md, "Whiteouts"): a file that the layer takes away, and a directory
// that hides all that the layers below have in it.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// Extended attributes of overlayfs (Documentation/filesystems/overlayfs.rst).
const (
	xattrOpaque   = "trusted.overlay.opaque"   // "y": an opaque directory
	xattrRedirect = "trusted.overlay.redirect" // the directory was renamed; no kernel that mounts as package rootfs does sets it
	xattrMetacopy = "trusted.overlay.metacopy" // the same of the contents of a file
)

// changeSink takes what has changed. Directories come before what is in them. dir and base say where a file is that was
// added or modified, name is its path without a slash in front.
type changeSink interface {
	// changed is called for a file that was added or modified; opaque directories hide what the image has in them.
	changed(dir int, base, name string, added, opaque bool) error
	// deleted is called for a file of the image that is gone; hidden, if it is an opaque directory
	// that hides it.
	deleted(name string, hidden bool) error
}

// differ finds out what a container has changed: what is in overlayfs' writable directory, compared with the image.
type differ struct {
	image *archive.Root // all layers of it
	sink  changeSink
	// pending are directories that are the image's but for what is in them: they are told of when that turns out to
	// be a change.
	pending []pendingDir
}

type pendingDir struct {
	dir        int
	base, name string
}

// eachChange tells sink of all changes.
func (a *Agent) eachChange(c *container, sink changeSink) error {
	base, err := c.root.Base()
	if err != nil {
		return err
	}
	image, err := archive.Open(base)
	if err != nil {
		return err
	}
	defer image.Close()
	upper, err := archive.Open(c.root.Upper())
	if err != nil {
		return err
	}
	defer upper.Close()
	dir, self, err := upper.Find("/")
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	d := &differ{image: image, sink: sink}
	return d.walk(dir, self, "", true, false)
}

// walk goes through a directory of the upper layer. old says that the image has a directory there too, opaque that this
// one hides it.
func (d *differ) walk(dir int, base, name string, old, opaque bool) error {
	return archive.EachChild(dir, base, func(sub int, child string) error {
		err := d.file(sub, child, path.Join(name, child), old, opaque)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil // gone meanwhile
		}
		return err
	})
}

func (d *differ) file(dir int, base, name string, old, opaque bool) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var below *unix.Stat_t
	if old {
		var err error
		if below, err = d.below(name); err != nil {
			return err
		}
	}
	if isWhiteout(&st) {
		if below == nil || opaque {
			return nil // of something that does not show through anyway
		}
		if err := d.flush(); err != nil {
			return err
		}
		return d.sink.deleted(name, false)
	}
	if below == nil && isPlaceholder(dir, base, name, &st) {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := refuse(dir, base, name, xattrMetacopy); err != nil {
			return err
		}
		if err := d.flush(); err != nil {
			return err
		}
		return d.sink.changed(dir, base, name, below == nil, false)
	}
	if err := refuse(dir, base, name, xattrRedirect); err != nil {
		return err
	}
	return d.directory(dir, base, name, &st, below, opaque)
}

// directory tells of a directory and what is in it. inside says that it is in an opaque one.
func (d *differ) directory(dir int, base, name string, st, below *unix.Stat_t, inside bool) error {
	old := below != nil && below.Mode&unix.S_IFMT == unix.S_IFDIR
	mark := old && !inside && xattrIs(dir, base, xattrOpaque, "y")
	opaque := inside || mark
	if old && !opaque && below.Mode == st.Mode && below.Uid == st.Uid && below.Gid == st.Gid {
		// Its time alone is not worth telling: it comes from what has changed in it.
		d.pending = append(d.pending, pendingDir{dir, base, name})
		if err := d.walk(dir, base, name, true, false); err != nil {
			return err
		}
		if n := len(d.pending); n > 0 && d.pending[n-1].name == name {
			d.pending = d.pending[:n-1]
		}
		return nil
	}
	if err := d.flush(); err != nil {
		return err
	}
	if err := d.sink.changed(dir, base, name, below == nil, mark); err != nil {
		return err
	}
	if old && opaque {
		if err := d.hidden(dir, base, name); err != nil {
			return err
		}
	}
	return d.walk(dir, base, name, old, opaque)
}

// flush tells of the directories above something that has changed.
func (d *differ) flush() error {
	for _, p := range d.pending {
		if err := d.sink.changed(p.dir, p.base, p.name, false, false); err != nil {
			return err
		}
	}
	d.pending = d.pending[:0]
	return nil
}

// below tells of a file of the image, nil if there is none. It is asked only for what is in directories of the image.
func (d *differ) below(name string) (*unix.Stat_t, error) {
	dir, base, err := d.image.Find(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case nil:
		return &st, nil
	case unix.ENOENT:
		return nil, nil
	default:
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
}

// hidden tells of what an opaque directory hides of the image and does not have itself.
func (d *differ) hidden(dir int, base, name string) error {
	upper, err := unix.Openat(dir, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(upper)
	lower, self, err := d.image.Find(name + "/")
	if err != nil {
		return err
	}
	defer unix.Close(lower)
	return archive.EachChild(lower, self, func(_ int, child string) error {
		var st unix.Stat_t
		if err := unix.Fstatat(upper, child, &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
			return err
		}
		return d.sink.deleted(path.Join(name, child), true)
	})
}

// isWhiteout tells whether a file stands for one that is gone: a character device 0/0.
func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// isPlaceholder tells whether a file is there for something to be mounted on, and not the container's work. Docker keeps
// these in a layer that counts as the image's.
func isPlaceholder(dir int, base, name string, st *unix.Stat_t) bool {
	switch name {
	case "etc/hosts", "etc/hostname", "etc/resolv.conf":
		return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0
	case "dev", "proc", "sys":
		empty := true
		err := archive.EachChild(dir, base, func(int, string) error {
			empty = false
			return nil
		})
		return err == nil && empty
	}
	return false
}

// refuse fails if overlayfs keeps part of a file elsewhere.
func refuse(dir int, base, name, xattr string) error {
	if _, err := unix.Lgetxattr(fdPath(dir)+"/"+base, xattr, nil); err != nil {
		return nil // it has none
	}
	return fmt.Errorf("%s has the attribute %s, of which only its kernel knows the meaning", name, xattr)
}

func xattrIs(dir int, base, xattr, want string) bool {
	value := make([]byte, len(want)+1)
	n, err := unix.Lgetxattr(fdPath(dir)+"/"+base, xattr, value)
	return err == nil && string(value[:n]) == want
}

// fdPath names an open file for system calls that want a path.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// layerWriter makes a layer of an OCI image of changes.
type layerWriter struct{ *archive.Writer }

func (w *layerWriter) changed(dir int, base, name string, _, opaque bool) error {
	if strings.HasPrefix(base, whiteoutPrefix) {
		return fmt.Errorf("%s: a layer cannot have a file whose name begins with %s", name, whiteoutPrefix)
	}
	if _, err := w.Add(dir, base, name); err != nil || !opaque {
		return err
	}
	return w.Empty(path.Join(name, whiteoutOpaque), time.Unix(0, 0))
}

func (w *layerWriter) deleted(name string, hidden bool) error {
	if hidden {
		return nil // the mark of the directory says so
	}
	dir, base := path.Split(name)
	return w.Empty(path.Join(dir, whiteoutPrefix+base), time.Unix(0, 0))
}

// listWriter makes a list of changes.
type listWriter struct{ w *bufio.Writer }

func (l *listWriter) changed(_ int, _, name string, added, _ bool) error {
	kind := proto.KindModified
	if added {
		kind = proto.KindAdded
	}
	return proto.WriteFrame(l.w, proto.Change{Kind: kind, Path: "/" + name})
}

func (l *listWriter) deleted(name string, _ bool) error {
	return proto.WriteFrame(l.w, proto.Change{Kind: proto.KindDeleted, Path: "/" + name})
}

// changes sends a list of what has changed.
func (a *Agent) changes(r *proto.Changes) error {
	return a.transfer(r.Transfer, func(conn Conn) error {
		c, _, err := a.mounted()
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(onlyWriter{conn}, copyBuffer)
		if err := a.eachChange(c, &listWriter{w}); err != nil {
			return err
		}
		return w.Flush()
	})
}
