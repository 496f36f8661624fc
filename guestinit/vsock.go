package guestinit

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/agent"
	"github.com/hullvm/hull/guestinit/proto"
)

// vsock is the transport in a guest. It stands on os.File and not on the net package, which
// would make init larger and slower to start.
type vsock struct{}

// Listen implements agent.Transport.
func (vsock) Listen(port uint32) (agent.Listener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("vsock: socket: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("vsock: listening on port %d: %w", port, err)
	}
	return &vsockListener{os.NewFile(uintptr(fd), "vsock-listener")}, nil
}

// Dial implements agent.Transport.
func (vsock) Dial(port uint32) (agent.Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("vsock: socket: %w", err)
	}
	// The kernel bounds the time that this takes.
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: proto.HostCID, Port: port}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("vsock: connecting to port %d of the host: %w", port, err)
	}
	return newSocket(fd)
}

type vsockListener struct{ file *os.File }

func (l *vsockListener) Close() error { return l.file.Close() }

// Accept implements agent.Listener. An error is final.
func (l *vsockListener) Accept() (agent.Conn, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		fd := -1
		var acceptErr error
		err := raw.Read(func(listener uintptr) bool {
			fd, _, acceptErr = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return acceptErr != unix.EAGAIN
		})
		if err != nil {
			return nil, err
		}
		switch acceptErr {
		case nil:
			return newSocket(fd)
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS:
			time.Sleep(10 * time.Millisecond) // others may be closed meanwhile
		default:
			return nil, acceptErr
		}
	}
}

// socket is a connected stream socket.
type socket struct{ *os.File }

func newSocket(fd int) (*socket, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("vsock: %w", err)
	}
	return &socket{os.NewFile(uintptr(fd), "vsock")}, nil
}

// CloseWrite implements agent.Conn.
func (s *socket) CloseWrite() error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) })
	if cerr != nil {
		return cerr
	}
	return err
}
