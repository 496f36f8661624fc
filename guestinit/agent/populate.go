package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Names in a volume that is being filled: first all is copied into one directory, then that gets another name, and
// then what is in it is moved to its place. So whoever finds a volume after an end in between knows how far it was.
const (
	filling = ".hull-filling"
	filled  = ".hull-filled"
)

// populate fills an empty volume with what the image has where it is to be mounted, as docker does: owners, modes, times and
// links as they are there. One that has anything is left as it is. Of the image's own links none leads out of root.
func populate(root, destination, volume string) error {
	entries, err := os.ReadDir(volume)
	if err != nil {
		return err
	}
	is := func(name string) func(fs.DirEntry) bool { return func(e fs.DirEntry) bool { return e.Name() == name } }
	whole := slices.ContainsFunc(entries, is(filled))
	if !whole && len(entries) > 0 && (len(entries) > 1 || !is(filling)(entries[0])) {
		return nil // somebody's own
	}
	dir, err := openIn(root, destination)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil // the image has nothing there
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	if !whole {
		copied := filepath.Join(volume, filling)
		if err := os.RemoveAll(copied); err != nil {
			return err
		}
		if err := copyTree(dir, copied); err != nil {
			return err
		}
		// Closed or not, things are moved out of it.
		if err := os.Chmod(copied, 0o700); err != nil {
			return err
		}
		if err := os.Rename(copied, filepath.Join(volume, filled)); err != nil {
			return err
		}
	}
	if err := moveUp(volume); err != nil {
		return err
	}
	return finishLike(volume, &st)
}

// moveUp moves what has been copied to its place.
func moveUp(volume string) error {
	from := filepath.Join(volume, filled)
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(volume, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(from)
}

// copyTree copies a directory, with all that is below it, to a new one.
func copyTree(dir *os.File, to string) error {
	// Below it no link is followed.
	source := fmt.Sprintf("/proc/self/fd/%d/.", dir.Fd())
	var directories []func() error
	err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: rel, Err: err}
		}
		if err := makeLike(path, target, &st); err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		if d.IsDir() { // what is put into it changes its time, and its mode may not allow it
			directories = append(directories, func() error { return finishLike(target, &st) })
			return nil
		}
		return finishLike(target, &st)
	})
	for i := len(directories) - 1; i >= 0 && err == nil; i-- {
		err = directories[i]()
	}
	return err
}

// openIn opens a directory below root, which a path in it is resolved in.
func openIn(root, path string) (*os.File, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		dir, err := unix.Openat2(fd, path, &how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: something was renamed meanwhile
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(dir), path), nil
	}
}

// makeLike makes a file of the kind that another is, with its content.
func makeLike(path, target string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return os.Mkdir(target, 0o700)
	case unix.S_IFREG:
		return copyContent(path, target)
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	default: // pipes, sockets and, where they are allowed, devices
		err := unix.Mknod(target, st.Mode, int(st.Rdev))
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		return err
	}
}

func copyContent(path, target string) (err error) {
	from, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// finishLike gives a file the owner, mode and time of another. A host whose user may not give files away keeps them, and
// none but a disk of the volume's own has set-user-ID files.
func finishLike(target string, st *unix.Stat_t) error {
	var made unix.Stat_t
	if errors.Is(unix.Lstat(target, &made), unix.ENOENT) {
		return nil // one that could not be made
	}
	if err := unix.Lchown(target, int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, unix.EPERM) {
		return &fs.PathError{Op: "chown", Path: target, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err := unix.Chmod(target, st.Mode&0o7777)
		if errors.Is(err, unix.EPERM) {
			err = unix.Chmod(target, st.Mode&0o1777)
		}
		if err != nil && !errors.Is(err, unix.EPERM) {
			return &fs.PathError{Op: "chmod", Path: target, Err: err}
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, target, times, unix.AT_SYMLINK_NOFOLLOW); err != nil && !errors.Is(err, unix.EPERM) {
		return &fs.PathError{Op: "utimensat", Path: target, Err: err}
	}
	return nil
}
