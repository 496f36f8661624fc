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
	ErrInUse     = errors.New("another program listens there")
	ErrNotSocket = errors.New("something that is not a socket is in the way")
	ErrPath      = errors.New("not a possible name of a Unix socket")
)

// maxPath is the longest path of a Unix socket, in bytes: sun_path less the final zero (unix(7)).
const maxPath = 107

// backlog is the number of connections that may wait to be accepted. The kernel has a limit of its own.
const backlog = 4096

// fileID tells a socket from another of the same name.
type fileID struct{ dev, ino uint64 }

// listen makes a listening socket at path with mode 0600. A socket that nobody listens on any more is replaced.
func listen(path string) (fd int, id fileID, err error) {
	fail := func(err error) (int, fileID, error) {
		return -1, fileID{}, fmt.Errorf("listen on %s: %w", path, err)
	}
	if path == "" || len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
		return fail(fmt.Errorf("%w: 1 to %d bytes without a zero", ErrPath, maxPath))
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(os.NewSyscallError("socket", err))
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// The mode that bind gives the name, with no moment at which it is another.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return fail(os.NewSyscallError("fchmod", err))
	}
	err = unix.Bind(fd, address(path))
	if err == unix.EADDRINUSE {
		if err = clearDead(path); err != nil {
			return fail(err)
		}
		err = unix.Bind(fd, address(path))
	}
	if err == unix.EADDRINUSE {
		err = ErrInUse // someone was faster
	}
	if err != nil {
		return fail(os.NewSyscallError("bind", err))
	}
	var st unix.Stat_t
	if err = unix.Lstat(path, &st); err != nil {
		return fail(os.NewSyscallError("lstat", err))
	}
	id = fileID{uint64(st.Dev), st.Ino}
	if err = unix.Listen(fd, backlog); err != nil {
		_ = unwanted(path)
		return fail(os.NewSyscallError("listen", err))
	}
	return fd, id, nil
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
		return ErrNotSocket
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
