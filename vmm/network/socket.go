// Package network has the host ends of a guest's network card that live in the VM process, as backends of virtio/net.
package network

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// headerSize is the number of bytes of virtio-net's header before each frame (VIRTIO 1.2, 5.1.6).
const headerSize = 12

// Feature bits of virtio-net (5.1.3) that Offloads may have.
const (
	featureCSum      = 1 << 0 // VIRTIO_NET_F_CSUM
	featureGuestCSum = 1 << 1 // VIRTIO_NET_F_GUEST_CSUM
)

// bufferSize is asked for on both sides of the socket, in bytes. The kernel gives what it allows.
const bufferSize = 4 << 20

// sendPatience is how long a frame may wait, in milliseconds, for the other end to take those before it.
const sendPatience = 100

// Socket is a network at the other end of a Unix SOCK_SEQPACKET socket: each message is virtio-net's header and a frame.
// The other end takes frames whose checksums are not there.
type Socket struct {
	f     *os.File
	fd    int
	again chan struct{} // the socket is empty: look out for more

	mu   sync.Mutex
	stop *os.File // closing it ends the look-out
	done chan struct{}

	send [][]byte // of Send alone
	recv [][]byte // of Receive and Drop alone
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
	return &Socket{f: f, fd: fd, again: make(chan struct{}, 1)}, nil
}

// Close closes the socket. The device must be inactive.
func (s *Socket) Close() error { return s.f.Close() }

// Offloads implements virtio-net's Backend.
func (*Socket) Offloads() uint64 { return featureCSum | featureGuestCSum }

// Start implements virtio-net's Backend.
func (s *Socket) Start(_ uint64, ready func()) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("network socket: %w", err)
	}
	s.mu.Lock()
	s.stop, s.done = w, make(chan struct{})
	done := s.done
	s.mu.Unlock()
	go func() {
		defer close(done)
		defer r.Close()
		s.watch(int(r.Fd()), ready)
	}()
	return nil
}

// Stop implements virtio-net's Backend.
func (s *Socket) Stop() {
	s.mu.Lock()
	stop, done := s.stop, s.done
	s.stop = nil
	s.mu.Unlock()
	if stop == nil {
		return
	}
	stop.Close()
	s.rearm()
	<-done
}

func (s *Socket) rearm() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// watch calls ready each time that the socket becomes readable after Receive has found it empty.
func (s *Socket) watch(stop int, ready func()) {
	for {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents == 0 {
			continue
		}
		// A Receive before this one may have asked already: then ready comes once too often, which is harmless.
		ready()
		<-s.again
	}
}

// Send implements virtio-net's Backend.
func (s *Socket) Send(header *[headerSize]byte, frame [][]byte) {
	s.send = append(append(s.send[:0], header[:]), frame...)
	for range 2 {
		_, err := unix.SendmsgBuffers(s.fd, s.send, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
			if n, err := unix.Poll(fds, sendPatience); n == 0 && err == nil {
				return // dropped, as by a network that is overloaded
			}
		default:
			return // sent, or there is nobody any more
		}
	}
}

// Receive implements virtio-net's Backend.
func (s *Socket) Receive(header *[headerSize]byte, frame [][]byte) (int, error) {
	room := headerSize
	for _, p := range frame {
		room += len(p)
	}
	for {
		if room < headerSize+maxFrame {
			// It may not fit: look at its length first.
			n, err := s.receive(nil, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
			if n > room || n == 0 || err != nil {
				return max(n-headerSize, 0), err
			}
		}
		n, err := s.receive(header, frame, unix.MSG_TRUNC)
		if n == 0 || err != nil {
			return 0, err
		}
		if n > headerSize && n <= room {
			return n - headerSize, nil
		}
		// Not a frame: the next.
	}
}

// maxFrame is the longest frame that is expected, in bytes.
const maxFrame = 65535 + 18

// Drop implements virtio-net's Backend.
func (s *Socket) Drop() {
	_, _ = s.receive(nil, nil, unix.MSG_TRUNC) // what is wrong with the socket, the next Receive says
}

// receive reads one message and returns its whole length, or 0 if there is none.
func (s *Socket) receive(header *[headerSize]byte, frame [][]byte, flags int) (int, error) {
	s.recv = s.recv[:0]
	if header != nil {
		s.recv = append(append(s.recv, header[:]), frame...)
	}
	for {
		n, _, _, _, err := unix.RecvmsgBuffers(s.fd, s.recv, nil, flags|unix.MSG_DONTWAIT)
		switch err {
		case nil:
			return n, nil // 0: the other end is gone, and nobody looks out for more
		case unix.EINTR:
		case unix.EAGAIN:
			s.rearm()
			return 0, nil
		case unix.ECONNRESET:
			return 0, nil
		default:
			return 0, fmt.Errorf("network socket: receiving: %w", err)
		}
	}
}
