package usernet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// Serve connects the network to a guest whose device is at the other end of a SOCK_SEQPACKET socket (vmm/network.Socket): each
// message is virtio-net's header and a frame. It returns when the socket is closed at either end.
func (u *User) Serve(conn *net.UnixConn) error {
	kick := make(chan struct{}, 1)
	if err := u.Start(0, func() {
		select {
		case kick <- struct{}{}:
		default:
		}
	}); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- u.toSocket(conn, kick) }()
	err := u.fromSocket(conn)
	conn.Close()
	u.Stop() // nobody kicks any more
	close(kick)
	return errors.Join(err, <-done)
}

// maxMessage is the longest message, in bytes.
const maxMessage = headerSize + MTU + 64

func (u *User) fromSocket(conn *net.UnixConn) error {
	buf := make([]byte, maxMessage)
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return ended("receiving from the guest", err)
		}
		if n > headerSize {
			u.Send((*[headerSize]byte)(buf), [][]byte{buf[headerSize:n]})
		}
	}
}

func (u *User) toSocket(conn *net.UnixConn, kick <-chan struct{}) error {
	buf := make([]byte, maxMessage)
	for {
		n, err := u.Receive((*[headerSize]byte)(buf), [][]byte{buf[headerSize:]})
		if err != nil {
			return err
		}
		if n == 0 {
			if _, ok := <-kick; !ok {
				return nil
			}
			continue
		}
		if n > len(buf)-headerSize {
			u.Drop()
			continue
		}
		if _, err := conn.Write(buf[:headerSize+n]); err != nil {
			return ended("sending to the guest", err)
		}
	}
}

// ended tells the error of a socket that was closed from that of one that has failed.
func ended(what string, err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return fmt.Errorf("user-mode network: %s: %w", what, err)
}
