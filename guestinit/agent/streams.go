package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hullvm/hull/guestinit/proto"
)

const (
	// streamTimeout bounds the wait for the streams that a start or exec names.
	streamTimeout = 10 * time.Second
	// headerTimeout bounds the wait for a stream connection's header.
	headerTimeout = 10 * time.Second
	// unclaimedTimeout is how long a stream waits for the request that names it.
	unclaimedTimeout = 30 * time.Second
	// maxUnclaimed is how many streams may wait at once: three for each of a few hundred execs at the same time.
	maxUnclaimed = 1024
	// copyBuffer is the size of the buffer of one direction of a stream, in bytes.
	copyBuffer = 64 << 10
)

// streams brings stream connections and the requests that name them together, whichever comes first.
type streams struct {
	started func(process string) bool

	mu      sync.Mutex
	waiting map[proto.StreamHeader]Conn
	changed chan struct{}                  // closed and replaced when a connection has come
	live    map[proto.StreamHeader]*stream // not at their ends
	// detaching: the host has said that it lets go of all streams. A connection that is only seen now is one of those.
	detaching bool
}

// newStreams takes what tells whether a process has been started.
func newStreams(started func(process string) bool) *streams {
	return &streams{
		started: started,
		waiting: make(map[proto.StreamHeader]Conn), changed: make(chan struct{}), live: make(map[proto.StreamHeader]*stream),
	}
}

// serve takes connections until the listener is closed.
func (s *streams) serve(l Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go s.greet(conn)
	}
}

// greet reads the header of a connection and keeps it for who claims it.
func (s *streams) greet(conn Conn) {
	late := time.AfterFunc(headerTimeout, func() { conn.Close() })
	var h proto.StreamHeader
	err := proto.ReadFrame(conn, &h)
	if !late.Stop() || err != nil || !s.offer(h, conn) {
		conn.Close()
	}
}

func (s *streams) offer(h proto.StreamHeader, conn Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.live[h]; l != nil {
		return l.attach(conn, s.detaching)
	}
	if s.started(h.Process) {
		return false // this stream of it is at its end
	}
	if s.waiting[h] != nil || len(s.waiting) >= maxUnclaimed {
		return false
	}
	s.waiting[h] = conn
	close(s.changed)
	s.changed = make(chan struct{})
	time.AfterFunc(unclaimedTimeout, func() { s.expire(h, conn) })
	return true
}

func (s *streams) expire(h proto.StreamHeader, conn Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[h] == conn {
		delete(s.waiting, h)
		conn.Close()
	}
}

// claim waits for the named streams of a process and hands them over.
func (s *streams) claim(process string, names []string) (map[string]Conn, error) {
	timeout := time.NewTimer(streamTimeout)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return s.waiting[proto.StreamHeader{Process: process, Stream: name}] != nil
		})
		changed := s.changed
		if len(missing) == 0 {
			conns := make(map[string]Conn, len(names))
			for _, name := range names {
				h := proto.StreamHeader{Process: process, Stream: name}
				conns[name] = s.waiting[h]
				delete(s.waiting, h)
			}
			s.mu.Unlock()
			return conns, nil
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			return nil, fmt.Errorf("the host has not connected %s within %v", strings.Join(missing, ", "), streamTimeout)
		}
	}
}

// carry runs a stream over its first connection.
func (s *streams) carry(l *stream, conn Conn) {
	l.over = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.live[l.header] == l {
			delete(s.live, l.header)
		}
	}
	s.mu.Lock()
	s.live[l.header] = l
	s.mu.Unlock()
	go l.run(conn)
}

// all returns the streams that are not at their ends.
func (s *streams) all() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.live))
}

// detach has all streams let go of their connections, and of those that come, until setDetaching(false).
func (s *streams) detach() {
	s.setDetaching(true)
	for _, l := range s.all() {
		l.detach()
	}
}

func (s *streams) setDetaching(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detaching = on
}

// parked waits until no stream has a connection, and returns which can get one again.
func (s *streams) parked(timeout time.Duration) ([]proto.StreamHeader, error) {
	late := time.After(timeout)
	for _, l := range s.all() {
		if !l.waitParked(late) {
			return nil, &proto.Error{Code: proto.CodeBusy, Message: fmt.Sprintf(
				"the host has not let go of %s of process %q within %v", l.header.Stream, l.header.Process, timeout)}
		}
	}
	var list []proto.StreamHeader
	for _, l := range s.all() {
		list = append(list, l.header)
	}
	slices.SortFunc(list, func(x, y proto.StreamHeader) int {
		return cmp.Or(cmp.Compare(x.Process, y.Process), cmp.Compare(x.Stream, y.Stream))
	})
	return list, nil
}

// forget gives up the streams of a process.
func (s *streams) forget(process string) {
	for _, l := range s.all() {
		if l.header.Process == process {
			l.hangUp()
		}
	}
}

// checkStreams tells whether a process can have streams of these names.
func checkStreams(names []string, terminal bool) error {
	allowed := []string{proto.StreamStdin, proto.StreamStdout, proto.StreamStderr}
	if terminal {
		allowed = []string{proto.StreamTerminal}
	}
	for i, name := range names {
		if !slices.Contains(allowed, name) || slices.Contains(names[:i], name) {
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("streams %q: there are %q, once each", names, allowed)}
		}
	}
	return nil
}

// linger closes a connection when the host has closed its end. Closing earlier
// could lose what is still on the way, and how long that takes is for the host to say.
func linger(conn Conn) {
	buf := make([]byte, 512)
	for {
		if _, err := conn.Read(buf); err != nil {
			conn.Close()
			return
		}
	}
}

// onlyReader and onlyWriter hide ReadFrom and WriteTo, which would not use our buffer.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

var errNoTerminal = errors.New("the process has no terminal")
