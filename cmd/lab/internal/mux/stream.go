package mux

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// A Stream is a byte stream in both directions. One goroutine may read while
// others write; writes are not interleaved within a call.
type Stream struct {
	session *Session
	id      uint32

	writing sync.Mutex // one Write at a time

	mu       sync.Mutex
	changed  *sync.Cond // on mu: any of the fields below
	buffer   []byte     // received and not yet read: at most window
	consumed uint32     // read, but not yet given back to the peer as credit
	credit   uint32     // bytes the peer is ready to take
	eof      bool       // the peer has ended its direction
	finished bool       // this end has
	err      error
}

func newStream(s *Session, id uint32) *Stream {
	st := &Stream{session: s, id: id, credit: window}
	st.changed = sync.NewCond(&st.mu)
	return st
}

// Read returns io.EOF after the peer's CloseWrite and all data before it.
func (st *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	st.mu.Lock()
	for len(st.buffer) == 0 && !st.eof && st.err == nil {
		st.changed.Wait()
	}
	if len(st.buffer) == 0 {
		defer st.mu.Unlock()
		if st.err != nil && !st.eof {
			return 0, st.err
		}
		return 0, io.EOF
	}
	n := copy(p, st.buffer)
	st.buffer = st.buffer[n:]
	if len(st.buffer) == 0 {
		st.buffer = nil
	}
	// Credit goes back in large pieces: a frame for each small read would cost
	// more than the data.
	var give uint32
	st.consumed += uint32(n)
	if st.consumed >= window/4 && !st.eof && st.err == nil {
		give, st.consumed = st.consumed, 0
	}
	st.mu.Unlock()
	if give > 0 {
		// An error here ends the session, and the next Read reports it.
		_ = st.session.send(kindWindow, st.id, binary.BigEndian.AppendUint32(nil, give))
	}
	return n, nil
}

// Write waits while the peer has no room.
func (st *Stream) Write(p []byte) (int, error) {
	st.writing.Lock()
	defer st.writing.Unlock()
	done := 0
	for len(p) > 0 {
		st.mu.Lock()
		for st.credit == 0 && st.err == nil && !st.finished {
			st.changed.Wait()
		}
		if err := st.writable(); err != nil {
			st.mu.Unlock()
			return done, err
		}
		n := min(len(p), maxPayload, int(st.credit))
		st.credit -= uint32(n)
		st.mu.Unlock()
		if err := st.session.send(kindData, st.id, p[:n]); err != nil {
			return done, err
		}
		done += n
		p = p[n:]
	}
	return done, nil
}

func (st *Stream) writable() error {
	if st.err != nil {
		return st.err
	}
	if st.finished {
		return fmt.Errorf("%w for writing", ErrClosed)
	}
	return nil
}

// CloseWrite ends this direction: the peer reads io.EOF after what was written.
func (st *Stream) CloseWrite() error {
	st.writing.Lock()
	defer st.writing.Unlock()
	st.mu.Lock()
	if err := st.writable(); err != nil {
		st.mu.Unlock()
		return err
	}
	st.finished = true
	st.changed.Broadcast()
	st.mu.Unlock()
	return st.session.send(kindEnd, st.id, nil)
}

// Close gives the stream up in both directions; data on its way is lost. It is
// safe to call more than once, and must be called once for each stream.
func (st *Stream) Close() error {
	st.mu.Lock()
	dead := st.err != nil
	if !dead {
		st.err = ErrClosed
	}
	st.buffer, st.eof = nil, false
	st.changed.Broadcast()
	st.mu.Unlock()
	if dead {
		return nil
	}
	st.session.forget(st.id)
	return st.session.send(kindReset, st.id, nil)
}

// fail is the end of the stream from below. Data and the end of data that came before stay readable.
func (st *Stream) fail(err error) {
	st.mu.Lock()
	if st.err == nil {
		st.err = err
	}
	st.changed.Broadcast()
	st.mu.Unlock()
}

// received takes n bytes of data from r.
func (st *Stream) received(r io.Reader, n int) error {
	st.mu.Lock()
	room := window - len(st.buffer)
	eof := st.eof
	st.mu.Unlock()
	if n > room || eof {
		return fmt.Errorf("%w: stream %d: data beyond its window or its end", ErrProtocol, st.id)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	st.mu.Lock()
	if st.err == nil {
		st.buffer = append(st.buffer, data...)
		st.changed.Broadcast()
	}
	st.mu.Unlock()
	return nil
}

// credited is the peer's promise to take n more bytes.
func (st *Stream) credited(n uint32) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n > window-st.credit {
		return fmt.Errorf("%w: stream %d: more credit than its window", ErrProtocol, st.id)
	}
	st.credit += n
	st.changed.Broadcast()
	return nil
}

// ended is the end of the peer's direction.
func (st *Stream) ended() {
	st.mu.Lock()
	st.eof = true
	st.changed.Broadcast()
	st.mu.Unlock()
}
