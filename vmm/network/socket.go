// Package network has the host ends of a guest's network card that live in the VM process, as backends of virtio/net: a
// socket (socket.go) and a tap interface (tap.go, and tap_open.go for who may open one). What they share is frame.go, a
// frame between guest memory and one system call.
package network

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// bufferSize is asked for on both sides of the socket, in bytes. The kernel gives what it allows.
const bufferSize = 4 << 20

// sendPatience is how long a frame may wait, in milliseconds, for the other end to take those before it.
const sendPatience = 100

// Socket is a network at the other end of a Unix SOCK_SEQPACKET socket: each message is virtio-net's header and a frame.
// The other end takes frames whose checksums are not there.
type Socket struct {
	f    *os.File
	fd   int
	out  outbox
	in   inbox
	read func(*vector) (int, unix.Errno)
}

// NewSocket takes over f. The error is about what f is.
func NewSocket(f *os.File) (*Socket, error) {
	fd := int(f.Fd())
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil && kind != unix.SOCK_SEQPACKET {
		err = errors.New("it is not a SOCK_SEQPACKET socket")
	}
	if err != nil {
		return nil, fmt.Errorf("network socket %s: %w", f.Name(), err)
	}
	// A smaller buffer only costs speed.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bufferSize)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize)
	s := &Socket{f: f, fd: fd}
	s.read = func(v *vector) (int, unix.Errno) { return v.recvmsg(fd, unix.MSG_DONTWAIT|unix.MSG_TRUNC) }
	return s, nil
}

// Close closes the socket. The device must be inactive.
func (s *Socket) Close() error { return s.f.Close() }

// Offloads implements virtio-net's Backend.
func (*Socket) Offloads() uint64 { return featureCSum | featureGuestCSum }

// Start implements virtio-net's Backend.
func (*Socket) Start(uint64) error { return nil }

// FD implements virtio-net's Backend.
func (s *Socket) FD() int { return s.fd }

// Send implements virtio-net's Backend.
func (s *Socket) Send(header *[headerSize]byte, frame [][]byte) {
	s.out.fill(header, frame)
	defer s.out.v.reset()
	for range 2 {
		if _, errno := s.out.v.sendmsg(s.fd, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); errno != unix.EAGAIN {
			return // sent, or there is nobody any more
		}
		fds := [1]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(fds[:], sendPatience); n == 0 && err == nil {
			return // dropped, as by a network that is overloaded
		}
	}
}

// Receive implements virtio-net's Backend.
func (s *Socket) Receive(header *[headerSize]byte, frame [][]byte) (int, error) {
	n, errno := s.in.receive(header, frame, s.read)
	switch {
	case errno == 0 && n > 0:
		return n, nil
	case errno == unix.EAGAIN:
		return 0, nil
	case errno == 0 || errno == unix.ECONNRESET:
		return 0, io.EOF // the other end is gone
	}
	return 0, fmt.Errorf("network socket: receiving: %w", errno)
}

// Drop implements virtio-net's Backend.
func (s *Socket) Drop() {
	if s.in.drop() {
		return
	}
	var b [1]byte
	_, _, _ = unix.Recvfrom(s.fd, b[:], unix.MSG_DONTWAIT) // what is wrong with the socket, the next Receive says
}
