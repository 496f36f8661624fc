package vsock

import (
	"errors"
	"io"
	"sync"
	"testing"
)

// stack is a guest's socket layer over a driver, in the manner of Linux': a receive buffer for each socket, credit by
// what was read, SHUTDOWN with both flags on close, RST in answer to it.
type stack struct {
	*driver
	alloc uint32 // buf_alloc of new sockets
	stop  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	sockets map[uint64]*socket
	listens map[uint32]chan *socket
	port    uint32
}

var errReset = errors.New("connection reset by the host")

// newStack starts a guest. It stops at the end of the test.
func newStack(t testing.TB, o options) *stack {
	t.Helper()
	s := &stack{
		driver: newDriver(t, o), alloc: 256 << 10,
		stop: make(chan struct{}), ended: make(chan struct{}),
		sockets: map[uint64]*socket{}, listens: map[uint32]chan *socket{}, port: 50000,
	}
	go s.run()
	t.Cleanup(s.halt)
	return s
}

// halt stops the guest, as if its vCPUs stood still.
func (s *stack) halt() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	<-s.ended
}

func (s *stack) run() {
	defer close(s.ended)
	for {
		if p, ok := s.poll(); ok {
			s.handle(p)
			continue
		}
		s.Rings[rxQueue].SetUsedEvent(s.rxSeen)
		if p, ok := s.poll(); ok {
			s.handle(p)
			continue
		}
		select {
		case <-s.bell.rx:
		case <-s.stop:
			return
		}
	}
}

// handle takes one packet from the device.
func (s *stack) handle(p packet) {
	s.mu.Lock()
	c := s.sockets[key(p.srcPort, p.dstPort)]
	accept := s.listens[p.dstPort]
	if c == nil && p.op == opRequest && accept != nil {
		c = s.socketAt(p.srcPort, p.dstPort)
		c.state = stateOpen
	}
	s.mu.Unlock()
	if c == nil {
		if p.op != opRST {
			s.send(packet{header: header{srcPort: p.dstPort, dstPort: p.srcPort, op: opRST}})
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.cond.Broadcast()
	c.peerAlloc, c.peerFwd = p.bufAlloc, p.fwdCnt
	switch p.op {
	case opRequest:
		c.reply(opResponse, 0, nil)
		accept <- c
	case opResponse:
		c.state = stateOpen
	case opRST:
		c.gone = true
		c.state = stateDead
		s.forget(c)
	case opShutdown:
		c.peerShut |= p.flags
		if c.peerShut == shutdownBoth {
			s.forget(c)
			if len(c.in) == 0 && c.state != stateDead {
				c.state = stateDead
				c.reply(opRST, 0, nil)
			}
		}
	case opRW:
		if len(c.in)+len(p.data) > int(s.alloc) {
			s.t.Errorf("the host has sent %d bytes beyond its credit", len(c.in)+len(p.data)-int(s.alloc))
		}
		if c.peerShut&shutdownSend != 0 {
			s.t.Error("data after SHUTDOWN")
		}
		c.in = append(c.in, p.data...)
	case opCreditRequest:
		c.reply(opCreditUpdate, 0, nil)
	}
}

// socketAt makes a socket. s.mu is held.
func (s *stack) socketAt(hostPort, guestPort uint32) *socket {
	c := &socket{s: s, hostPort: hostPort, guestPort: guestPort}
	c.cond = sync.NewCond(&c.mu)
	s.sockets[key(hostPort, guestPort)] = c
	return c
}

func (s *stack) forget(c *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := key(c.hostPort, c.guestPort); s.sockets[k] == c {
		delete(s.sockets, k)
	}
}

// listen accepts connections to a port of the guest.
func (s *stack) listen(port uint32) <-chan *socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan *socket, 1000)
	s.listens[port] = c
	return c
}

// dial connects to a port of the host.
func (s *stack) dial(port uint32) (*socket, error) {
	s.mu.Lock()
	s.port++
	c := s.socketAt(port, s.port)
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reply(opRequest, 0, nil)
	for c.state != stateOpen {
		if c.gone {
			return nil, errReset
		}
		c.cond.Wait()
	}
	return c, nil
}

// socket is a connection in the guest.
type socket struct {
	s                   *stack
	hostPort, guestPort uint32

	mu   sync.Mutex
	cond *sync.Cond

	state              state
	gone               bool // RST came
	in                 []byte
	fwdCnt, toldFwd    uint32
	txCnt              uint32
	peerAlloc, peerFwd uint32
	peerShut, shut     uint32
}

// reply sends a packet of c. c.mu is held.
func (c *socket) reply(op uint16, flags uint32, data []byte) {
	c.toldFwd = c.fwdCnt
	c.s.send(packet{header: header{
		srcPort: c.guestPort, dstPort: c.hostPort, op: op, flags: flags, bufAlloc: c.s.alloc, fwdCnt: c.fwdCnt,
	}, data: data})
}

// Read implements io.Reader.
func (c *socket) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) == 0 {
		if c.gone || c.peerShut&shutdownSend != 0 || c.shut&shutdownRecv != 0 {
			return 0, io.EOF
		}
		c.cond.Wait()
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	c.fwdCnt += uint32(n)
	if free := c.s.alloc - (c.fwdCnt - c.toldFwd); (free < 64<<10 || len(c.in) == 0) && c.state == stateOpen {
		c.reply(opCreditUpdate, 0, nil)
	}
	return n, nil
}

// Write implements io.Writer.
func (c *socket) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for len(p) > 0 {
		if c.gone || c.peerShut&shutdownRecv != 0 || c.shut&shutdownSend != 0 {
			return done, io.ErrClosedPipe
		}
		room := int64(min(c.peerAlloc, c.s.alloc)) - int64(c.txCnt-c.peerFwd)
		if room <= 0 {
			c.cond.Wait()
			continue
		}
		n := min(len(p), int(room), c.s.txSize-headerSize)
		c.txCnt += uint32(n)
		c.reply(opRW, 0, p[:n])
		p = p[n:]
		done += n
	}
	return done, nil
}

// CloseWrite says that nothing more will be sent.
func (c *socket) CloseWrite() error { return c.shutdown(shutdownSend) }

func (c *socket) shutdown(how uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut |= how
	if c.state == stateOpen {
		c.reply(opShutdown, c.shut, nil)
	}
	return nil
}

// Close ends the connection as close(2) does.
func (c *socket) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen {
		return nil
	}
	c.shut = shutdownBoth
	if c.peerShut == shutdownBoth {
		c.state = stateDead
		c.reply(opRST, 0, nil)
		c.s.forget(c)
		return nil
	}
	c.reply(opShutdown, shutdownBoth, nil)
	return nil
}

// awaitReset waits until the device has ended the connection.
func (c *socket) awaitReset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.gone && c.state == stateOpen {
		c.cond.Wait()
	}
}
