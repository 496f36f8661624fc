package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a file in an archive, in bytes (PATH_MAX). It bounds the depth of a tree as well.
const maxPath = 4096

// Writer writes files to a tar. It reads those of a running system as well: what goes while it is looked at is left out,
// a file that shrinks is filled up with zeros.
type Writer struct {
	tar   *tar.Writer
	links map[inode]string // files with several names, by the one that is in the archive
	buf   []byte
}

type inode struct{ dev, ino uint64 }

// copyBuffer is how much of a file is moved at a time, in bytes.
const copyBuffer = 64 << 10

// NewWriter makes a Writer. Close must be called for a whole archive.
func NewWriter(w io.Writer) *Writer {
	return &Writer{tar: tar.NewWriter(w), links: make(map[inode]string), buf: make([]byte, copyBuffer)}
}

// Close writes the end of the archive.
func (w *Writer) Close() error { return w.tar.Close() }

// errPseudo says that something is not a file with contents of its own.
var errPseudo = errors.New("it is on a file system of the kernel's, such as proc: its files cannot be copied")

// Pack writes the file at a path of root, with all below it. name is its name in the archive, a path; "." writes what a directory
// has as "./…", and "" without its own entry. Directories of the kernel's file systems, such as proc, are
// empty in the archive.
func (w *Writer) Pack(root *Root, from, name string) error {
	dir, base, err := root.Find(from)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if pseudo(dir) && path.Clean("/"+from) != "/" {
		return &os.PathError{Op: "copy", Path: from, Err: errPseudo}
	}
	err = w.tree(dir, base, name)
	if err != nil {
		return fmt.Errorf("archiving %s: %w", from, err)
	}
	return nil
}

// tree writes a file and, if it is a directory, what is in it.
func (w *Writer) tree(dir int, base, name string) error {
	st, err := w.Add(dir, base, name)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return EachChild(dir, base, func(sub int, child string) error {
		err := w.tree(sub, child, joinName(name, child))
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return nil // gone meanwhile, or something else now
		}
		return err
	})
}

// joinName is path.Join, but keeps a "." at the beginning.
func joinName(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// EachChild calls f for every file in a directory, in the order of their names. A directory of one of
// the kernel's file systems has none.
func EachChild(dir int, base string, f func(dir int, child string) error) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: base, Err: err}
	}
	sub := os.NewFile(uintptr(fd), base)
	defer sub.Close()
	if pseudo(fd) {
		return nil
	}
	names, err := sub.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := f(fd, name); err != nil {
			return err
		}
	}
	return nil
}

// pseudo tells whether a directory is on a file system whose files only seem to have contents.
func pseudo(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false
	}
	switch st.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC, mqueueMagic:
		return true
	}
	return false
}

// mqueueMagic is MQUEUE_MAGIC in ipc/mqueue.c of Linux.
const mqueueMagic = 0x19800202

// Add writes one file, without what is in it if it is a directory, and tells what it is. Sockets, which no archive
// can have, are left out.
func (w *Writer) Add(dir int, base, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if len(name) > maxPath {
		return st, &os.PathError{Op: "archive", Path: name[:64] + "…", Err: unix.ENAMETOOLONG}
	}
	h := header(&st, name)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return st, nil
	case unix.S_IFDIR:
		if name == "" {
			return st, nil
		}
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case unix.S_IFLNK:
		target, err := readLink(dir, base)
		if err != nil {
			return st, &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFREG:
		return st, w.regular(dir, base, h, &st)
	}
	if h.Typeflag == tar.TypeDir {
		addXattrs(h, dir, base)
	}
	return st, w.tar.WriteHeader(h)
}

// header is what all kinds of files have in common. Times are whole seconds, as docker has them.
func header(st *unix.Stat_t, name string) *tar.Header {
	mode := int64(st.Mode & 0o7777)
	return &tar.Header{
		Name: name, Mode: mode, Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()).Truncate(time.Second),
	}
}

// Empty writes an empty regular file that belongs to root, such as a mark that something is gone.
func (w *Writer) Empty(name string, mtime time.Time) error {
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: mtime.Truncate(time.Second)})
}

// regular writes a regular file, or a hard link if the archive has it already.
func (w *Writer) regular(dir int, base string, h *tar.Header, st *unix.Stat_t) error {
	key := inode{st.Dev, st.Ino}
	if first, ok := w.links[key]; ok {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return w.tar.WriteHeader(h)
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: h.Name, Err: err}
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer f.Close()
	// What was found and what was opened need not be the same: the latter counts.
	if err := unix.Fstat(fd, st); err != nil {
		return &os.PathError{Op: "stat", Path: h.Name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return &os.PathError{Op: "open", Path: h.Name, Err: unix.ELOOP}
	}
	*h = *header(st, h.Name)
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	addXattrs(h, dir, base)
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	if st.Nlink > 1 {
		w.links[inode{st.Dev, st.Ino}] = h.Name
	}
	return w.contents(f, st.Size)
}

// contents writes size bytes of a file, whatever becomes of it meanwhile.
func (w *Writer) contents(f *os.File, size int64) error {
	for left := size; left > 0; {
		part := w.buf[:min(left, int64(len(w.buf)))]
		n, err := f.Read(part)
		if n == 0 && err == io.EOF {
			clear(part)
			n = len(part)
		} else if err != nil {
			return err
		}
		if _, err := w.tar.Write(part[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

func readLink(dir int, base string) (string, error) {
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(dir, base, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// paxXattr begins the PAX records that hold extended attributes.
const paxXattr = "SCHILY.xattr."

// keepXattr tells which extended attributes are part of a file: capabilities, access control lists and the user's. Others
// belong to the system the file is on.
func keepXattr(name string) bool {
	return name == "security.capability" || name == "system.posix_acl_access" || name == "system.posix_acl_default" || strings.HasPrefix(name, "user.")
}

// addXattrs adds a file's extended attributes to its header. One that cannot be read is left out, as on
// a file system that has none.
func addXattrs(h *tar.Header, dir int, base string) {
	at := fdPath(dir) + "/" + base
	size, err := unix.Llistxattr(at, nil)
	if err != nil || size == 0 {
		return
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(at, list); err != nil {
		return
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		if !keepXattr(name) {
			continue
		}
		value := make([]byte, xattrMax)
		n, err := unix.Lgetxattr(at, name, value)
		if err != nil || strings.ContainsRune(name, '=') { // a PAX record has no such key
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[paxXattr+name] = string(value[:n])
	}
}

// xattrMax is the longest value of an extended attribute, in bytes (XATTR_SIZE_MAX).
const xattrMax = 64 << 10

// IsNotExist tells whether a file was not there, or a directory on the way to it was none.
func IsNotExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
