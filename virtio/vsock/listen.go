package vsock

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors of New about Config.Path, wrapped with it.
var (
	ErrInUse    = errors.New("another program listens there")
	ErrInTheWay = errors.New("something else is in the way")
	ErrPath     = errors.New("not a possible name of a Unix socket")
)

// maxPath is the longest path of a Unix socket, in bytes: sun_path less the final zero (unix(7)).
const maxPath = 107

// backlog is the number of connections that may wait to be accepted. The kernel has a limit of its own.
const backlog = 4096

// fileID tells a socket from another of the same name.
type fileID struct{ dev, ino uint64 }

// listen makes a listening socket at path with mode 0600. A socket that nobody listens on any more is replaced.
func listen(path string) (int, fileID, error) {
	fd, id, err := listenLocked(path)
	if err != nil {
		return -1, fileID{}, fmt.Errorf("listen on %s: %w", path, err)
	}
	return fd, id, nil
}

func listenLocked(path string) (_ int, id fileID, err error) {
	if path == "" || len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
		return -1, id, fmt.Errorf("%w: 1 to %d bytes without a zero", ErrPath, maxPath)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, id, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// The mode that bind gives the name, with no moment at which it is another.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return -1, id, os.NewSyscallError("fchmod", err)
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return -1, id, err
	}
	defer unlock()
	err = unix.Bind(fd, address(path))
	if err == unix.EADDRINUSE {
		if err := clearDead(path); err != nil {
			return -1, id, err
		}
		err = unix.Bind(fd, address(path))
	}
	if err != nil {
		return -1, id, os.NewSyscallError("bind", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return -1, id, os.NewSyscallError("lstat", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return -1, id, errors.Join(os.NewSyscallError("listen", err), unwanted(path))
	}
	return fd, fileID{uint64(st.Dev), st.Ino}, nil
}

// lock keeps two devices from taking each other's socket for a dead one: one that is bound and does not listen yet looks
// like it, and so does one that was dead a moment ago. The lock is a file that exists as long as it is held; a process
// that is killed leaves it behind unlocked.
func lock(path string) (unlock func(), err error) {
	for range 100 {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		var st unix.Stat_t
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = unix.Fstat(fd, &st)
		}
		switch {
		case err == unix.EWOULDBLOCK:
			err = ErrInUse
		case err != nil:
			err = &os.PathError{Op: "lock", Path: path, Err: err}
		case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0:
			err = &os.PathError{Op: "lock", Path: path, Err: ErrInTheWay}
		case st.Nlink == 0:
			unix.Close(fd) // of one that has just been given up
			continue
		default:
			return func() {
				_ = unwanted(path)
				unix.Close(fd)
			}, nil
		}
		unix.Close(fd)
		return nil, err
	}
	return nil, ErrInUse
}

// clearDead removes the socket at path if nobody listens on it.
func clearDead(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return os.NewSyscallError("lstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return ErrInTheWay
	}
	probe, errno := connect(path)
	if errno == 0 {
		unix.Close(probe)
	}
	if errno != unix.ECONNREFUSED {
		return ErrInUse
	}
	return unwanted(path)
}

// unlisten closes a listening socket and removes its name, if it is still the socket's.
func unlisten(path string, fd int, id fileID) error {
	var errs []error
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil && (fileID{uint64(st.Dev), st.Ino}) == id {
		errs = append(errs, unwanted(path))
	}
	return errors.Join(append(errs, os.NewSyscallError("close", unix.Close(fd)))...)
}

// address is path as a socket's address. A leading @ would mean a name that is not a file.
func address(path string) *unix.SockaddrUnix {
	if path[0] == '@' {
		path = "./" + path
	}
	return &unix.SockaddrUnix{Name: path}
}

// connect connects to the socket at path without waiting. EAGAIN means that too many wait there already.
func connect(path string) (int, unix.Errno) {
	if len(path) > maxPath {
		return -1, unix.ENAMETOOLONG
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Connect(fd, address(path)); err == nil {
			return fd, 0
		}
		unix.Close(fd)
	}
	errno, ok := err.(unix.Errno)
	if !ok {
		errno = unix.EINVAL // of the wrapper itself
	}
	return -1, errno
}

// accept takes a connection from a listening socket.
func accept(fd int) (int, unix.Errno) {
	conn, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(conn), 0
}

// unwanted removes a socket's name, if there is one.
func unwanted(path string) error {
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}
