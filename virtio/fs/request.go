package fs

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/hullvm/hull/virtio"
)

// session is what lies between INIT and DESTROY, which is as long as the guest has the file system mounted.
type session struct {
	fs          FileSystem
	readDirPlus bool
	broken      func(error) // tells the driver that the device has given up

	// mu is held for reading while a request is served: INIT and DESTROY, which change everything, wait for those
	// under way.
	mu     sync.RWMutex
	server *fuse.ProtocolServer // nil outside of a session
	init   []byte               // the request that the session began with
}

// begin starts a session with an INIT.
func (s *session) begin(init []byte) {
	s.init = init
	s.server = fuse.NewProtocolServer(s.fs, &fuse.MountOptions{
		MaxWrite:             MaxTransfer,
		DisableReadDirPlus:   !s.readDirPlus,
		DisabledCapabilities: fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_PASSTHROUGH,
		// KILLPRIV_V2 keeps the guest from asking for security.capability with each write.
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_HANDLE_KILLPRIV_V2,
		// What it logs is what guests do wrong. They are told.
		Logger: log.New(io.Discard, "", 0),
		PanicHandler: func(v any) fuse.Status {
			s.broken(fmt.Errorf("virtio-fs: internal error: %v", v))
			return fuse.EIO
		},
	})
}

// end ends the session, if there is one.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.init = nil, nil
	s.fs.Reset()
}

// handle carries out a request that has been checked, and returns how many bytes of out it has written.
func (s *session) handle(code uint32, in, out [][]byte) (int, syscall.Errno) {
	switch code {
	case opInit:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fs.Reset() // a session before this one ends
		s.begin(slices.Concat(in...))
	case opDestroy:
		s.end()
		return 0, 0
	default:
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.server == nil {
			return 0, syscall.EIO
		}
	}
	n, status := s.server.HandleRequest(in, out)
	return n, syscall.Errno(status)
}

// requests serves one queue. Its buffers are used again for each request.
type requests struct {
	s      *session
	buf    []byte   // the request, but for the data of a WRITE
	in     [][]byte // buf and the data
	answer [outHeaderSize]byte
}

// serve answers all requests there are.
func (r *requests) serve(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		q.Push(c, r.request(c))
	}
	return nil
}

// request answers one request and returns how many bytes it wrote. What has no header cannot be answered: it goes
// back as it came.
func (r *requests) request(c *virtio.Chain) int {
	n := c.Readable.Len()
	if n < inHeaderSize {
		return 0
	}
	r.buf = r.buf[:0]
	r.take(&c.Readable, inHeaderSize)
	code := binary.LittleEndian.Uint32(r.buf[atOpcode:])
	op, errno := lookUp(r.buf, n)
	if errno == 0 {
		if op.rest == data {
			r.take(&c.Readable, op.in-inHeaderSize)
		} else {
			r.take(&c.Readable, n-inHeaderSize)
		}
		errno = op.check(r.buf, n, c.Writable.Len())
	}
	if errno == 0 && code == opInit {
		errno = checkVersion(r.buf)
	}
	wrote := 0
	if errno == 0 {
		setNodeBit(r.buf)
		r.in = append(append(r.in[:0], r.buf), c.Readable.Pieces()...)
		wrote, errno = r.s.handle(code, r.in, c.Writable.Pieces())
		clear(r.in) // no pointer to guest memory stays behind
	}
	if wrote > 0 || op != nil && op.out == 0 {
		return wrote
	}
	return r.reply(&c.Writable, errno)
}

// take appends the next n bytes of the request to r.buf.
func (r *requests) take(from *virtio.Buffers, n int) {
	at := len(r.buf)
	r.buf = slices.Grow(r.buf, n)[:at+n]
	from.Read(r.buf[at:])
}

// reply answers with an error, or with nothing but a header when errno is 0.
func (r *requests) reply(to *virtio.Buffers, errno syscall.Errno) int {
	if to.Len() < outHeaderSize {
		return 0
	}
	le := binary.LittleEndian
	le.PutUint32(r.answer[0:], outHeaderSize)
	le.PutUint32(r.answer[4:], uint32(-int32(errno)))
	le.PutUint64(r.answer[8:], le.Uint64(r.buf[atUnique:]))
	return to.Write(r.answer[:])
}
