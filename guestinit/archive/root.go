package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// Root is a directory that stands for "/". Paths given to its methods are resolved with it as their root, absolute or not.
type Root struct {
	fd int // O_PATH
}

// Open opens the directory at path, which may be reached through symbolic links.
func Open(path string) (*Root, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &Root{fd}, nil
}

// Close closes the directory.
func (r *Root) Close() error { return unix.Close(r.fd) }

// Clone opens the same directory once more.
func (r *Root) Clone() (*Root, error) {
	fd, err := unix.FcntlInt(uintptr(r.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a root directory again: %w", err)
	}
	return &Root{fd}, nil
}

// Mountpoint calls mount with a path of the directory, or the file, at name, which is made if it is not there.
func (r *Root) Mountpoint(name string, dir bool, mount func(at string) error) error {
	at := name
	if !dir {
		at = path.Dir(path.Clean("/" + name))
	}
	fd, err := r.mkdirAll(at)
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	if !dir {
		base := path.Base(path.Clean("/" + name))
		file, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err == nil {
			unix.Close(file)
		} else if err != unix.EEXIST {
			return &os.PathError{Op: "create", Path: name, Err: err}
		}
		if file, err = r.open(name, unix.O_PATH); err != nil {
			return err
		}
		unix.Close(fd)
		fd = file
	}
	return mount(fdPath(fd))
}

// Rewrite gives a regular file the content that change makes of the present one; nil leaves it as it is, and so does a content of
// more than limit bytes. Symbolic links are followed. It stays the same file.
func (r *Root) Rewrite(name string, limit int, change func(old []byte) []byte) error {
	fd, err := r.open(name, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() > int64(limit) {
		return err
	}
	old, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil || len(old) > limit {
		return err
	}
	content := change(old)
	if content == nil {
		return nil
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(content)))
}

// Cover mounts a tree of one file, of open_tree(2), over a regular file. Symbolic links are followed.
func (r *Root) Cover(name string, tree int) error {
	fd, err := r.open(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return &os.PathError{Op: "mount", Path: name, Err: errors.New("not a file")}
	}
	if err := unix.MoveMount(tree, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "mount", Path: name, Err: err}
	}
	return nil
}

// open opens a path. The caller closes the descriptor.
func (r *Root) open(name string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(r.fd, name, &how)
		// EAGAIN: something was renamed meanwhile, so that the kernel cannot be sure.
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

// Find opens the directory that has the last element of a path, and returns that element. The last element of a path that
// ends in a slash, or in "/.", is ".": what it leads to must be a directory then. The caller closes dir.
func (r *Root) Find(name string) (dir int, base string, err error) {
	if strings.IndexByte(name, 0) >= 0 {
		return -1, "", &os.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	parent, base := split(name)
	dir, err = r.open(parent, unix.O_PATH|unix.O_DIRECTORY)
	return dir, base, err
}

// split takes a path apart like path.Split, but "/a/" and "/a/." are "." in "/a", and "/a/.." is "." in "/a/..".
func split(name string) (dir, base string) {
	name = "/" + name
	i := strings.LastIndexByte(name, '/')
	switch base := name[i+1:]; base {
	case "", ".":
		return name[:i+1] + ".", "."
	case "..":
		return name, "."
	}
	return name[:i+1], name[i+1:]
}

// Info tells of a file.
type Info struct {
	Name    string // last element of its path, "/" for the root
	Size    int64
	Mode    fs.FileMode
	ModTime int64 // ns since 1970
	// Target is where a symbolic link leads in the end, as a path from the root. It need not exist.
	Target string
}

// Stat tells of the file at a path. A symbolic link there is not followed, unless the path ends in a slash.
func (r *Root) Stat(name string) (Info, error) {
	dir, base, err := r.Find(name)
	if err != nil {
		return Info{}, err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Info{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	info := Info{Name: path.Base(path.Clean("/" + name)), Size: st.Size, Mode: fileMode(st.Mode), ModTime: st.Mtim.Nano()}
	if info.Mode&fs.ModeSymlink != 0 {
		if info.Target, err = r.resolve(name); err != nil {
			return Info{}, err
		}
	}
	return info, nil
}

// resolve gives the path, without symbolic links, of a path that need not exist. It may be wrong as soon as somebody changes the
// directory: what is done with it is resolved in the root again.
func (r *Root) resolve(name string) (string, error) {
	at := fdPath(r.fd)
	resolved, err := securejoin.SecureJoin(at, name)
	if err != nil {
		return "", err
	}
	return path.Join("/", strings.TrimPrefix(resolved, at)), nil
}

// mkdirAll opens a directory and makes what is missing of the way there.
func (r *Root) mkdirAll(name string) (int, error) {
	fd, err := r.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if !errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	up, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return -1, err
	}
	parent, err := r.mkdirAll(up)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, base, 0o755); err != nil && err != unix.EEXIST {
		return -1, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return r.open(name, unix.O_PATH|unix.O_DIRECTORY)
}

// fdPath names an open file for system calls that want a path.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// fileMode turns st_mode into Go's bits.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	}
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
