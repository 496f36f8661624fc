package agent

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// maxPending bounds the input that is kept for a process when the host detaches, in bytes. Each time that is at most what is on the way,
// some hundred kilobytes in the buffers of sockets; a process that has still not taken it after many times is waited for.
const maxPending = 16 << 20

// stream is a stream of a process as the process has it: our end of a pipe, or the terminal. It outlives the connections
// that it is copied over: the host may detach and attach again, with not a byte lost or sent twice. Meanwhile the
// process finds its pipe full, or empty.
type stream struct {
	header proto.StreamHeader
	src    *os.File // what the process writes; nil for stdin
	dst    *os.File // what it reads; nil for stdout and stderr
	over   func()   // called at its end

	// Of the one goroutine that copies output.
	buf   []byte
	kept  []byte // a part of buf: read from src and not sent yet
	ended bool   // src is at its end
	// Of the one that copies input.
	pending []byte // come from the host and not taken by the process yet

	attached chan Conn     // cap 1: the next connection
	canceled chan struct{} // closed when there will be none

	mu        sync.Mutex // guards what follows
	conn      Conn       // nil while there is none
	detaching bool       // the end of conn is the end of nothing else
	next      Conn       // has come while conn was being let go of, and is attached when that has ended
	nextGoes  bool       // next is to be let go of as well
	parked    chan struct{}
	cancel    func() // closes canceled
}

// newStream makes a stream that is going to be run over conn.
func newStream(process, name string, conn Conn) *stream {
	s := &stream{
		header: proto.StreamHeader{Process: process, Stream: name}, conn: conn,
		attached: make(chan Conn, 1), canceled: make(chan struct{}), parked: make(chan struct{}),
	}
	s.cancel = sync.OnceFunc(func() { close(s.canceled) })
	return s
}

// run copies over conn, and then over the connections that are attached later.
func (s *stream) run(conn Conn) {
	for {
		over := s.copy(conn)
		if over {
			s.over()
		}
		s.park(over)
		if over {
			return
		}
		select {
		case conn = <-s.attached:
		case <-s.canceled:
			s.over()
			select {
			case conn = <-s.attached:
				conn.Close()
			default:
			}
			s.abandon()
			return
		}
	}
}

// park says that the connection has ended, and attaches one that has come already unless the stream is over.
func (s *stream) park(over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	s.letGo(false)
	close(s.parked)
	next := s.next
	s.next = nil
	switch {
	case next == nil:
	case over:
		next.Close()
	default:
		s.take(next, s.nextGoes)
	}
}

// copy copies over conn until it is at its end, and reports whether the stream is as well.
func (s *stream) copy(conn Conn) (over bool) {
	var outOver, inOver bool
	var both sync.WaitGroup
	if s.src != nil {
		both.Go(func() { outOver = s.output(conn) })
	}
	both.Go(func() { inOver = s.input(conn) })
	both.Wait()
	conn.Close()
	if s.src == nil {
		return inOver
	}
	return outOver
}

// output copies what the process writes, and reports whether that is at its end.
func (s *stream) output(conn Conn) (over bool) {
	if s.buf == nil {
		s.buf = make([]byte, copyBuffer)
	}
	for {
		for len(s.kept) > 0 {
			n, err := conn.Write(s.kept)
			s.kept = s.kept[n:]
			if err != nil {
				return s.unwanted()
			}
		}
		if over := s.ended; over || s.isDetaching() {
			_ = conn.CloseWrite()
			return over
		}
		n, err := s.src.Read(s.buf)
		s.kept = s.buf[:max(n, 0)]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.ended = true
			s.src.Close()
		}
	}
}

// unwanted takes it that the host reads no more, and reports whether that is for good. Then whoever writes to a pipe
// learns of it; but whoever goes away from a terminal does not hang it up.
func (s *stream) unwanted() (over bool) {
	switch {
	case s.isDetaching():
		return false
	case s.ended:
	case s.dst != nil:
		go drain(s.src)
	default:
		s.src.Close()
	}
	return true
}

// input copies what the host sends, and reports whether there will be no more. It returns at the end of conn, or
// of stdin when the process does not want it.
func (s *stream) input(conn Conn) (over bool) {
	if s.dst == nil {
		ignore(conn)
		return true
	}
	buf := make([]byte, copyBuffer)
	for {
		if !s.flush() {
			if s.src != nil {
				ignore(conn)
				return true
			}
			s.dst.Close()
			return true
		}
		n, err := conn.Read(buf)
		s.pending = append(s.pending, buf[:max(n, 0)]...)
		if err == nil && (len(s.pending) <= maxPending || s.flushExcess()) {
			continue
		}
		if s.isDetaching() {
			return false
		}
		s.flush()
		if s.src == nil {
			s.dst.Close()
		}
		return true
	}
}

// ignore reads what the host sends to its end. Closing the connection earlier could lose what is still on the way out.
func ignore(conn Conn) { _, _ = io.Copy(io.Discard, onlyReader{conn}) }

// flush gives the process the input that it has not taken yet, or keeps that while the host detaches. It returns false
// when the process wants no more.
func (s *stream) flush() bool {
	for len(s.pending) > 0 {
		n, err := s.dst.Write(s.pending)
		s.pending = s.pending[n:]
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return false
		case s.isDetaching():
			return true
		}
	}
	s.pending = nil
	return true
}

// flushExcess has the process take what is more than maxPending. It returns false when the process wants no more.
func (s *stream) flushExcess() bool {
	s.mu.Lock()
	_ = s.dst.SetWriteDeadline(time.Time{})
	s.mu.Unlock()
	n, err := s.dst.Write(s.pending[:len(s.pending)-maxPending])
	s.pending = s.pending[n:]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.letGo(s.detaching)
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// abandon does without a host: what it has sent is still the process's, and what that writes goes nowhere.
func (s *stream) abandon() {
	if s.src == nil {
		s.flush()
		s.dst.Close()
		return
	}
	if s.dst != nil {
		go s.flush() // a terminal: who does not read there may wait for being read
	}
	if !s.ended {
		drain(s.src)
	}
}

// detach has the stream let go of its connection: what was read of the process is sent, and what the host has sent is
// taken, to its end.
func (s *stream) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.letGo(true)
	}
	s.nextGoes = true
}

// letGo says whether conn is to be let go of. If so, nobody waits for the process.
func (s *stream) letGo(on bool) {
	s.detaching = on
	t := time.Time{}
	if on {
		t = time.Unix(1, 0)
	}
	for _, f := range []*os.File{s.src, s.dst} {
		if f != nil {
			_ = f.SetDeadline(t) // fails for one that is closed
		}
	}
}

func (s *stream) isDetaching() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.detaching
}

// waitParked waits until there is no connection, or for timeout.
func (s *stream) waitParked(timeout <-chan time.Time) bool {
	for {
		s.mu.Lock()
		conn, parked := s.conn, s.parked
		s.mu.Unlock()
		if conn == nil {
			return true
		}
		select {
		case <-parked:
		case <-timeout:
			return false
		}
	}
}

// attach takes the next connection. It is refused while there is one that is not being let go of. The host cannot know
// when one that it has let go of has ended here: then it is the next one's turn. detaching: the host lets go of conn already.
func (s *stream) attach(conn Conn, detaching bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn == nil:
		s.take(conn, detaching)
	case s.detaching && s.next == nil:
		s.next, s.nextGoes = conn, detaching
	default:
		return false
	}
	return true
}

// take has run go on with conn.
func (s *stream) take(conn Conn, detaching bool) {
	s.conn, s.parked = conn, make(chan struct{})
	s.letGo(detaching)
	s.attached <- conn
}

// hangUp ends the stream's connection, if there is one, and takes no other.
func (s *stream) hangUp() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range []Conn{s.conn, s.next} {
		if conn != nil {
			conn.Close()
		}
	}
}

// connect starts the copying between a process's streams and the host.
func (a *Agent) connect(p *process, stdio *stdio, conns map[string]Conn) {
	if p.terminal != nil && conns[proto.StreamTerminal] == nil {
		go drain(p.terminal) // nobody listens, but the process must not block
	}
	for name, conn := range conns {
		s := newStream(p.name, name, conn)
		switch i := slices.Index([]string{proto.StreamStdin, proto.StreamStdout, proto.StreamStderr}, name); i {
		case -1:
			s.src, s.dst = p.terminal, p.terminal
		case 0:
			s.dst = stdio.ours[i]
			go func() {
				<-p.reaped
				s.hangUp()
			}()
		default:
			s.src = stdio.ours[i]
		}
		a.streams.carry(s, conn)
	}
}

// drain reads and forgets.
func drain(f *os.File) {
	buf := make([]byte, 4096)
	for {
		if _, err := f.Read(buf); err != nil && err != unix.EINTR {
			f.Close()
			return
		}
	}
}
