package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/archive"
)

// copyTarget is where a copy goes. Whether it exists, and how its path is written, decides what the copy is called.
type copyTarget struct {
	path   string // without symbolic links at its end
	exists bool
	isDir  bool
	asDir  bool // the path ends in a slash, or in "/."
}

// place decides where an archive of something called name is unpacked, and under which name it goes into that
// archive. The rules are docker's, which are those of cp(1) without -T.
func (t copyTarget) place(name string, isDir bool) (dir, as string, err error) {
	switch {
	case t.isDir:
		return t.path, name, nil
	case t.exists && isDir:
		return "", "", errCannotCopyDir
	case !t.exists && t.asDir && !isDir:
		return "", "", errDirNotExists
	}
	return filepath.Dir(t.path), filepath.Base(t.path), nil
}

// wantsDir tells whether a path can only be a directory's.
func wantsDir(path string) bool {
	return strings.HasSuffix(path, "/") || path == "." || strings.HasSuffix(path, "/.")
}

// baseName is what a file is called in an archive; "." when what it has is meant and not the directory itself.
func baseName(path string) string {
	if path == "." || strings.HasSuffix(path, "/.") {
		return "."
	}
	if base := filepath.Base(path); base != "/" && base != ".." {
		return base
	}
	return "."
}

// checkOutputPath refuses paths that nothing can be copied to.
func checkOutputPath(path string) error {
	if dir := filepath.Dir(filepath.Clean(path)); dir != "." {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("invalid output path: directory %q does not exist", dir)
		}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir() && !info.Mode().IsRegular():
		return fmt.Errorf("invalid output path: %q must be a directory or a regular file", path)
	}
	return nil
}

// maxHostLinks is how many symbolic links are followed at the end of a path of this host.
const maxHostLinks = 40

// hostTarget finds out what a path of this host is. Symbolic links there are the user's, and followed.
func hostTarget(to string) (copyTarget, error) {
	t := copyTarget{path: filepath.Clean(to), asDir: wantsDir(to)}
	for range maxHostLinks {
		info, err := os.Lstat(t.path)
		if errors.Is(err, fs.ErrNotExist) {
			parent, err := os.Stat(filepath.Dir(t.path))
			if err == nil && !parent.IsDir() {
				err = &os.PathError{Op: "open", Path: filepath.Dir(t.path), Err: unix.ENOTDIR}
			}
			return t, err
		}
		if err != nil {
			return t, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			t.exists, t.isDir = true, info.IsDir()
			if t.asDir && !t.isDir {
				return t, &os.PathError{Op: "open", Path: to, Err: unix.ENOTDIR}
			}
			return t, nil
		}
		target, err := os.Readlink(t.path)
		if err != nil {
			return t, err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(t.path), target)
		}
		t.path = target
	}
	return t, &os.PathError{Op: "open", Path: to, Err: unix.ELOOP}
}

// hostSource is what is copied from this host.
type hostSource struct {
	root  *archive.Root // the directory that has it
	base  string        // its name there, "." for the directory itself
	name  string        // its name in the archive
	isDir bool
}

// openHostSource finds what is to be copied. A symbolic link at the end of the path is followed only if it is to be, or if a
// slash comes after it.
func openHostSource(from string, follow bool) (*hostSource, error) {
	s := &hostSource{name: baseName(from)}
	if follow {
		resolved, err := filepath.EvalSymlinks(from)
		if err != nil {
			return nil, err
		}
		if s.name == "." || strings.HasSuffix(from, "/") {
			resolved += "/" // the name of what is not a directory is an error then
		}
		from = resolved
	}
	dir, base := filepath.Split(from)
	if base == "" || base == "." || base == ".." {
		dir, base = from, "."
	}
	if dir == "" {
		dir = "."
	}
	var info fs.FileInfo
	var err error
	if base == "." {
		info, err = os.Stat(dir)
	} else {
		info, err = os.Lstat(filepath.Join(dir, base))
	}
	if err != nil {
		return nil, err
	}
	s.base, s.isDir = base, info.IsDir()
	if s.root, err = archive.Open(dir); err != nil {
		return nil, err
	}
	return s, nil
}
