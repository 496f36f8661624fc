package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peer is the other end of what a guest talks to. It exists before the monitor
// does; what it sends, it sends from start on. end waits for it, and tells what
// went wrong.
type peer interface {
	files() []*os.File // that the monitor inherits
	start()
	end() error
}

// nobody is the peer of a disk.
type nobody struct{}

func (nobody) files() []*os.File { return nil }
func (nobody) start()            {}
func (nobody) end() error        { return nil }

// newPeer makes the peer for w.
func (b *bench) newPeer(w work) (peer, error) {
	switch w.Device {
	case idBlock:
		return nobody{}, nil
	case idNet:
		return newCable(w)
	}
	path := fmt.Sprintf("%s_%d", b.vsock, vsockPort)
	for _, p := range []string{path, b.vsock} { // of the killed one before
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	s := &stream{l: l, drain: b.drain, source: w.Kind == kindVsockIn, begin: make(chan struct{}), done: make(chan error, 1)}
	go func() { s.done <- s.serve() }()
	return s, nil
}

// vsockPort is the port of the host that the guest connects to, as in guest.S.
const vsockPort = 1024

// stream is the host's end of the guest's connection: it reads all there is, or
// writes for ever.
type stream struct {
	l      *net.UnixListener
	source bool
	drain  func(io.Reader) error
	begin  chan struct{} // closed by start
	done   chan error
}

func (s *stream) serve() error {
	conn, err := s.l.Accept()
	if errors.Is(err, net.ErrClosed) {
		return nil // the guest got nowhere, and says so
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if !s.source {
		return s.drain(conn)
	}
	<-s.begin
	return pour(conn)
}

func (s *stream) files() []*os.File { return nil }

func (s *stream) start() { close(s.begin) }

// end is called when the VM is gone, and the connection with it.
func (s *stream) end() error {
	s.l.Close()
	select {
	case <-s.begin:
	default:
		close(s.begin)
	}
	return <-s.done
}

// drain reads to the end.
func drain(r io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		if _, err := r.Read(buf); errors.Is(err, io.EOF) || isGone(err) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// pour writes what the guest expects until nobody reads it any more.
func pour(w io.Writer) error {
	buf := make([]byte, streamPeriod)
	pattern(buf, 0)
	for {
		for p := buf; len(p) > 0; p = p[64<<10:] {
			if _, err := w.Write(p[:64<<10]); isGone(err) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
}

// isGone tells whether err is that of a connection whose other end was killed.
func isGone(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }

// streamPeriod is after how many bytes a stream repeats itself, as in guest.S.
const streamPeriod = 1 << 20
