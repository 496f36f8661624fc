package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// root is the root directory of a container that is being built. Paths given to
// its methods are the container's: symbolic links in them, and "..", do not lead out of it.
type root struct {
	path string
	fd   int // O_PATH
}

func openRoot(path string) (*root, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the root filesystem at %s: %w", path, err)
	}
	return &root{path, fd}, nil
}

// open opens a path with O_PATH. The caller closes the descriptor.
func (r *root) open(path string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(r.fd, path, &how)
		// EAGAIN: something was renamed meanwhile, so that the kernel cannot be sure.
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}

// resolve gives the path on the outside of a path that need not exist. No
// program of the container runs yet, so it stays true until it is used.
func (r *root) resolve(path string) (string, error) {
	return securejoin.SecureJoin(r.path, path)
}

// mkdir makes a directory and those above it, as far as they are missing, and opens it.
func (r *root) mkdir(path string, mode fs.FileMode) (int, error) {
	fd, err := r.open(path, unix.O_DIRECTORY)
	if !errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	outside, err := r.resolve(path)
	if err != nil {
		return -1, err
	}
	if err := os.MkdirAll(outside, mode); err != nil {
		return -1, err
	}
	return r.open(path, unix.O_DIRECTORY)
}

// touch makes an empty file, if there is none, and opens it.
func (r *root) touch(path string) (int, error) {
	fd, err := r.open(path, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	outside, err := r.resolve(path)
	if err != nil {
		return -1, err
	}
	if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
		return -1, err
	}
	f, err := os.OpenFile(outside, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return -1, err
	}
	f.Close()
	return r.open(path, 0)
}

// fdPath names an open file for system calls that want a path.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
