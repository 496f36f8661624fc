package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// UnpackOptions say what is made of an archive.
type UnpackOptions struct {
	// KeepOwners gives files the user and group that the archive names. Without it they belong to whoever
	// unpacks.
	KeepOwners bool
	// Trusted makes device nodes, keeps set-user-ID and set-group-ID bits, and extended attributes.
	Trusted bool
	// Skipped is told the name of each device node that is not made. May be nil.
	Skipped func(name string)
}

// Errors about what is in the way, in docker's words.
var (
	errDirInTheWay  = errors.New("cannot overwrite directory with non-directory")
	errFileInTheWay = errors.New("cannot overwrite non-directory with directory")
)

// Unpack unpacks a tar into the directory at a path of root. Directories that exist are merged, files replaced; neither takes
// the place of the other. Zeros become holes.
func Unpack(ctx context.Context, r io.Reader, root *Root, dir string, o UnpackOptions) error {
	if fd, err := root.open(dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return err
	} else if err := unix.Close(fd); err != nil {
		return err
	}
	u := &unpacker{root: root, dir: path.Clean("/" + dir), o: o, in: tar.NewReader(r), buf: make([]byte, copyBuffer), zero: make([]byte, copyBuffer)}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := u.in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the archive: %w", err)
		}
		if err := u.entry(h); err != nil {
			return err
		}
	}
	if err := u.leave(""); err != nil {
		return err
	}
	// Whoever writes an archive may fill it up to a block.
	_, err := io.CopyN(io.Discard, r, maxPadding)
	if err == io.EOF {
		err = nil
	}
	return err
}

// maxPadding is how much may follow the end of an archive, in bytes.
const maxPadding = 1 << 20

type unpacker struct {
	root *Root
	dir  string // where to, from the root
	o    UnpackOptions
	in   *tar.Reader
	buf  []byte
	zero []byte
	// inside are the directories above the entry at hand, the outermost first: they get their modes and times when
	// they are complete.
	inside []directory
}

type directory struct {
	name   string
	header *tar.Header
}

// entry makes one file.
func (u *unpacker) entry(h *tar.Header) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if err := u.leave(name); err != nil {
		return err
	}
	if name == "" {
		return nil // the directory itself is the user's
	}
	err := checkSparse(h)
	if u.o.Trusted {
		err = nil
	}
	if err == nil {
		err = u.make(name, h)
	}
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", h.Name, err)
	}
	return nil
}

// checkSparse refuses an entry whose holes are not in the archive: a few bytes could stand for any number of zeros, and it would take
// years to count them.
func checkSparse(h *tar.Header) error {
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	if sparse {
		return errors.New("an entry with holes")
	}
	return nil
}

func (u *unpacker) make(name string, h *tar.Header) error {
	parent, err := u.root.mkdirAll(path.Join(u.dir, path.Dir(name)))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(name)
	exists, err := clearWay(parent, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if !exists {
			if err := unix.Mkdirat(parent, base, 0o700); err != nil {
				return err
			}
		}
		u.inside = append(u.inside, directory{name, h})
		return nil
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.regular(parent, base, h)
	case tar.TypeLink:
		return u.link(parent, base, h.Linkname)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return err
		}
	case tar.TypeFifo:
		if err := unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		if !u.o.Trusted {
			if u.o.Skipped != nil {
				u.o.Skipped(h.Name)
			}
			return nil
		}
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
			return fmt.Errorf("device number %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		if err := unix.Mknodat(parent, base, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entry of an unknown type %q", h.Typeflag)
	}
	if u.o.KeepOwners {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, u.mode(h), 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(parent, base, times(h), unix.AT_SYMLINK_NOFOLLOW)
}

// clearWay makes room for a file: another file goes, a directory is left for a directory.
func clearWay(parent int, base string, dir bool) (exists bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case err == unix.ENOENT:
		return false, nil
	case err != nil:
		return false, err
	case isDir && dir:
		return true, nil
	case isDir:
		return false, errDirInTheWay
	case dir:
		return false, errFileInTheWay
	}
	if err := unix.Unlinkat(parent, base, 0); err != nil && err != unix.ENOENT {
		return false, err
	}
	return false, nil
}

// regular makes a regular file of what follows in the archive.
func (u *unpacker) regular(parent int, base string, h *tar.Header) error {
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if err := u.contents(f, h.Size); err != nil {
		return err
	}
	if err := u.finish(fd, h); err != nil {
		return err
	}
	return f.Close()
}

// contents copies a file out of the archive. Whole buffers of zeros become holes.
func (u *unpacker) contents(f *os.File, size int64) error {
	for left := size; left > 0; {
		part := u.buf[:min(left, int64(len(u.buf)))]
		if _, err := io.ReadFull(u.in, part); err != nil {
			return fmt.Errorf("reading the archive: %w", err)
		}
		left -= int64(len(part))
		if left > 0 && bytes.Equal(part, u.zero[:len(part)]) {
			if _, err := f.Seek(int64(len(part)), io.SeekCurrent); err != nil {
				return err
			}
			continue
		}
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// link makes a hard link to a file of the archive.
func (u *unpacker) link(parent int, base, target string) error {
	from := path.Clean("/" + target)
	dir, err := u.root.open(path.Join(u.dir, path.Dir(from)), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return unix.Linkat(dir, path.Base(from), parent, base, 0)
}

// finish gives an open file its owner, mode, attributes and time; in this order, since a change of owner takes others
// away.
func (u *unpacker) finish(fd int, h *tar.Header) error {
	if u.o.KeepOwners {
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			return fmt.Errorf("giving it to user %d and group %d: %w", h.Uid, h.Gid, err)
		}
	}
	if err := unix.Fchmod(fd, u.mode(h)); err != nil {
		return err
	}
	if u.o.Trusted {
		for key, value := range h.PAXRecords {
			name, ok := strings.CutPrefix(key, paxXattr)
			if !ok || !keepXattr(name) {
				continue
			}
			if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
				return fmt.Errorf("setting its attribute %s: %w", name, err)
			}
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), times(h), 0)
}

// mode is the one that a file gets.
func (u *unpacker) mode(h *tar.Header) uint32 {
	mode := uint32(h.Mode) & 0o7777
	if !u.o.Trusted {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	return mode
}

func times(h *tar.Header) []unix.Timespec {
	mtime := unix.NsecToTimespec(clampTime(h.ModTime).UnixNano())
	return []unix.Timespec{mtime, mtime}
}

// clampTime is the nearest time that nanoseconds since 1970 can tell.
func clampTime(t time.Time) time.Time {
	earliest, latest := time.Unix(-1<<33, 0), time.Unix(1<<33, 0) // what UnixNano can hold, and then some years less
	switch {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	}
	return t
}

// leave completes the directories that name is not in.
func (u *unpacker) leave(name string) error {
	for len(u.inside) > 0 {
		d := u.inside[len(u.inside)-1]
		if strings.HasPrefix(name, d.name+"/") {
			return nil
		}
		u.inside = u.inside[:len(u.inside)-1]
		if err := u.complete(d); err != nil {
			return fmt.Errorf("unpacking %s: %w", d.header.Name, err)
		}
	}
	return nil
}

func (u *unpacker) complete(d directory) error {
	parent, err := u.root.open(path.Join(u.dir, path.Dir(d.name)), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	fd, err := unix.Openat(parent, path.Base(d.name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.finish(fd, d.header)
}
