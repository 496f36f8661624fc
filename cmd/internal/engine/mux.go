package engine

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// What a piece on a muxConn belongs to.
const (
	muxStdin = iota // an empty piece is its end
	muxStdout
	muxStderr
)

const (
	muxHeader = 5 // what it belongs to, and its length in 4 bytes, big endian
	// muxMost is the longest piece, in bytes.
	muxMost = pumpBuffer
)

// errBadMux says that the other end does not speak as it should.
var errBadMux = errors.New("not a stream of an attached container")

// muxConn carries several streams over one connection, in pieces.
type muxConn struct {
	conn net.Conn
	in   *bufio.Reader

	mu  sync.Mutex // held while a piece is sent
	out []byte
}

func newMuxConn(conn net.Conn) *muxConn {
	return &muxConn{conn: conn, in: bufio.NewReaderSize(conn, pumpBuffer)}
}

// send sends bytes of a stream, as one piece or several.
func (m *muxConn) send(kind byte, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), muxMost)
		m.out = append(m.out[:0], kind)
		m.out = binary.BigEndian.AppendUint32(m.out, uint32(n))
		m.out = append(m.out, p[:n]...)
		if _, err := m.conn.Write(m.out); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// receive reads one piece into buf, which has room for muxMost bytes.
func (m *muxConn) receive(buf []byte) (kind byte, p []byte, err error) {
	var head [muxHeader]byte
	if _, err := io.ReadFull(m.in, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > muxMost || head[0] > muxStderr {
		return 0, nil, fmt.Errorf("%w: a piece of %d bytes for stream %d", errBadMux, n, head[0])
	}
	p = buf[:n]
	_, err = io.ReadFull(m.in, p)
	return head[0], p, err
}
