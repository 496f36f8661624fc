// Package mux carries many byte streams over one connection.
//
// The lab's only connection to its machine is a virtio-serial port: one pair of
// byte pipes that is never closed and cannot be dialled again. A [Session] at
// each end divides it into streams, which behave like TCP connections: either end
// opens them, each direction ends by itself, and a reader that does not read stops its own
// writer (by a window of credit) and nobody else. That last property is why this
// is more than a tag before each chunk: a test that prints 100 MB to a stopped
// terminal must not delay the answers to the watchdog.
//
// frame.go has the wire format. A session trusts its peer's good will but not its
// correctness: any frame that breaks the rules ends the session with
// [ErrProtocol], and the memory a peer can claim is bounded.
package mux

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	maxStreams = 1024 // live streams in a session
	backlog    = 64   // opened by the peer and not yet accepted
)

// ErrClosed is the error of using a session or stream after its Close.
var ErrClosed = errors.New("lab channel: closed")

// Side tells the two ends apart, which take their stream numbers from the odd
// and the even ones.
type Side uint32

// The two ends of a session.
const (
	Host  Side = 1
	Guest Side = 2
)

// A Session is one end of a connection that carries streams. Its methods may be
// called from any goroutine.
type Session struct {
	conn io.ReadWriteCloser
	peer Side

	write sync.Mutex // held while a frame goes out; guards out
	out   []byte

	mu      sync.Mutex // guards all below; taken after write, never before
	streams map[uint32]*Stream
	next    uint32
	last    uint32 // highest number the peer opened
	err     error

	accept chan *Stream
	done   chan struct{}
}

// New starts a session on a connection, which it owns from now on.
func New(conn io.ReadWriteCloser, side Side) *Session {
	s := &Session{
		conn:    conn,
		peer:    3 - side,
		out:     make([]byte, 0, headerSize+maxPayload),
		streams: make(map[uint32]*Stream),
		next:    uint32(side),
		accept:  make(chan *Stream, backlog),
		done:    make(chan struct{}),
	}
	go s.receive()
	return s
}

// Open starts a stream. It does not wait for the peer to accept it.
func (s *Session) Open() (*Stream, error) {
	// Held from the choice of the number on: the peer wants them in ascending order.
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	if len(s.streams) >= maxStreams {
		s.mu.Unlock()
		return nil, fmt.Errorf("lab channel: %d streams open already", maxStreams)
	}
	st := newStream(s, s.next)
	s.streams[st.id] = st
	s.next += 2
	s.mu.Unlock()
	if err := s.sendLocked(kindOpen, st.id, nil); err != nil {
		return nil, err
	}
	return st, nil
}

// Accept waits for the next stream that the peer opened.
func (s *Session) Accept() (*Stream, error) {
	select {
	case st := <-s.accept:
		return st, nil
	case <-s.done:
		return nil, s.Err()
	}
}

// Done is closed when the session has ended, for whatever reason.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err tells why the session ended: nil while it has not, [ErrClosed] after Close,
// io.EOF when the peer went away between two frames.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session and all of its streams.
func (s *Session) Close() error {
	s.fail(ErrClosed)
	return nil
}

// fail ends the session once; the first error stays.
func (s *Session) fail(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	streams := s.streams
	s.streams = map[uint32]*Stream{}
	s.mu.Unlock()
	close(s.done)
	s.conn.Close()
	for _, st := range streams {
		st.fail(err)
	}
}

// send writes one frame.
func (s *Session) send(kind byte, stream uint32, payload []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.sendLocked(kind, stream, payload)
}

// sendLocked is send for who holds s.write.
func (s *Session) sendLocked(kind byte, stream uint32, payload []byte) error {
	s.out = header{kind, stream, uint32(len(payload))}.append(s.out[:0])
	s.out = append(s.out, payload...)
	if _, err := s.conn.Write(s.out); err != nil {
		s.fail(fmt.Errorf("lab channel: writing: %w", err))
		return s.Err()
	}
	return nil
}

// forget removes a stream that neither end will use again.
func (s *Session) forget(id uint32) {
	s.mu.Lock()
	delete(s.streams, id)
	s.mu.Unlock()
}

// receive reads frames until the connection or the rules are broken.
func (s *Session) receive() {
	r := bufio.NewReaderSize(s.conn, 64<<10)
	for {
		h, err := readHeader(r)
		if err == nil {
			err = s.handle(h, r)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *Session) handle(h header, r io.Reader) error {
	if h.kind == kindOpen {
		return s.opened(h.stream)
	}
	s.mu.Lock()
	st := s.streams[h.stream]
	known := st != nil || h.stream <= s.last || h.stream < s.next
	s.mu.Unlock()
	if !known {
		return fmt.Errorf("%w: frame for stream %d, which was never opened", ErrProtocol, h.stream)
	}
	switch h.kind {
	case kindData:
		if st == nil { // closed here; the peer does not know yet
			_, err := io.CopyN(io.Discard, r, int64(h.length))
			return err
		}
		return st.received(r, int(h.length))
	case kindWindow:
		var b [4]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		if st != nil {
			return st.credited(binary.BigEndian.Uint32(b[:]))
		}
	case kindEnd:
		if st != nil {
			st.ended()
		}
	case kindReset:
		if st != nil {
			s.forget(st.id)
			st.fail(fmt.Errorf("%w by the other end", ErrClosed))
		}
	}
	return nil
}

// opened takes note of a stream that the peer starts.
func (s *Session) opened(id uint32) error {
	s.mu.Lock()
	if id%2 != uint32(s.peer)%2 || id <= s.last {
		s.mu.Unlock()
		return fmt.Errorf("%w: stream %d opened out of turn", ErrProtocol, id)
	}
	if len(s.streams) >= maxStreams {
		s.mu.Unlock()
		return fmt.Errorf("%w: more than %d streams", ErrProtocol, maxStreams)
	}
	s.last = id
	st := newStream(s, id)
	s.streams[id] = st
	s.mu.Unlock()
	select {
	case s.accept <- st:
		return nil
	default:
		return fmt.Errorf("%w: %d streams wait to be accepted", ErrProtocol, backlog)
	}
}
