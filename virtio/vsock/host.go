package vsock

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
)

// firstHostPort is where the ports of connections from the host begin; guests reach the ones below by name.
const firstHostPort = 1 << 30

// maxLine is the longest "CONNECT port\n" that is understood, in bytes.
const maxLine = 32

// interestIn are the events that every socket is watched for: edges, so that a socket that waits for the guest costs
// nothing.
const interestIn = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET

// accept takes connections from host programs.
func (m *mux) accept() {
	for range acceptBudget {
		if m.closing {
			return
		}
		fd, errno := accept(m.listener)
		switch errno {
		case 0:
			m.accepting(fd)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED:
		default:
			// Out of file descriptors or memory: the listener would report itself without end.
			_ = unix.EpollCtl(m.ep, unix.EPOLL_CTL_DEL, m.listener, nil)
			m.acceptAgain = m.now() + int64(retryAccept)
			return
		}
	}
}

func (m *mux) resumeAccept() {
	m.acceptAgain = 0
	if m.watch(m.listener, aboutListener, 0, unix.EPOLLIN) != nil {
		m.acceptAgain = m.now() + int64(retryAccept)
	}
}

// accepting starts a connection from the host.
func (m *mux) accepting(fd int) {
	if m.count >= maxConns {
		unix.Close(fd)
		return
	}
	c := m.newConn(fd, stateLine)
	if m.watchSocket(c) != nil {
		m.drop(c)
		return
	}
	m.arm(c, &m.patience)
}

// watchSocket adds c's new socket to the epoll instance.
func (m *mux) watchSocket(c *conn) error {
	// The kernel's buffer goes with the credit: a stream that may be fast should not have to stop, and thousands that
	// nobody reads should not take the kernel's memory. It gives twice as much, within limits of its own.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, int(c.grant))
	c.interest = interestIn
	return m.watch(c.fd, int32(c.slot), c.gen, c.interest)
}

// socketEvent takes an edge of c's socket.
func (m *mux) socketEvent(c *conn, events uint32) {
	if events&^unix.EPOLLOUT != 0 {
		c.readable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.ended = true
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.hungUp = true
	}
	switch c.state {
	case stateLine:
		m.readLine(c)
	case stateOpen:
		if c.out.n > 0 && (events&unix.EPOLLOUT != 0 || c.hungUp) {
			m.flush(c)
		}
		if c.hostEOF && c.hungUp && !c.hostDeaf {
			c.hostDeaf = true
			m.settle(c)
		}
		m.checkStall(c)
		m.enlist(c)
	case stateDrain:
		m.flush(c)
	}
}

// readLine reads "CONNECT port\n" and not a byte more: what follows is the guest's.
func (m *mux) readLine(c *conn) {
	for {
		room := c.line[c.lineLen:]
		n, errno := recv(c.fd, room, unix.MSG_PEEK)
		if errno == unix.EAGAIN {
			return
		}
		if n == 0 || errno != 0 {
			m.drop(c)
			return
		}
		end := bytes.IndexByte(room[:n], '\n')
		if end >= 0 {
			n = end + 1
		}
		if n, errno = recv(c.fd, room[:n], 0); errno != 0 {
			m.drop(c)
			return
		}
		c.lineLen += n
		if end >= 0 {
			break
		}
		if c.lineLen == maxLine {
			m.drop(c)
			return
		}
	}
	port, ok := parseConnect(c.line[:c.lineLen])
	if !ok {
		m.drop(c)
		return
	}
	c.guestPort = port
	c.hostPort = m.allocPort(port)
	c.state = stateRequest
	m.know(c)
	m.arm(c, &m.patience)
	m.post(c, sendRequest)
}

// parseConnect reads "CONNECT port" with as much white space as there may be.
func parseConnect(line []byte) (port uint32, ok bool) {
	words := bytes.Fields(line)
	if len(words) != 2 || !bytes.EqualFold(words[0], []byte("connect")) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(words[1]), 10, 32)
	return uint32(n), err == nil
}

// allocPort returns a port on the host's side that has no connection to guestPort yet. There are far more of them than
// there can be connections.
func (m *mux) allocPort(guestPort uint32) uint32 {
	for {
		port := m.nextPort
		if m.nextPort++; m.nextPort == 1<<32-1 {
			m.nextPort = firstHostPort
		}
		if m.byPorts[key(port, guestPort)] == nil {
			return port
		}
	}
}

// accepted tells the host program that the guest has accepted.
func (m *mux) accepted(c *conn) {
	m.disarm(c)
	c.state = stateOpen
	line := append(c.line[:0], "OK "...)
	line = append(strconv.AppendUint(line, uint64(c.hostPort), 10), '\n')
	if n, _ := send(c.fd, line); n != len(line) {
		// A socket that was never written to has room, so nobody reads. What was written before may still be of use.
		c.hostDeaf = true
		m.settle(c)
	}
}

// requested takes the guest's REQUEST for a port of the host.
func (m *mux) requested(h *header) {
	if m.count >= maxGuestConns {
		m.refuse(h)
		return
	}
	fd, errno := m.dial(h.dstPort)
	if errno != 0 && errno != unix.EAGAIN {
		m.refuse(h)
		return
	}
	c := m.newConn(fd, stateDial)
	c.hostPort, c.guestPort = h.dstPort, h.srcPort
	c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	m.know(c)
	if errno == 0 {
		m.dialled(c)
		return
	}
	c.attempts = int(patience / retryDial)
	m.arm(c, &m.retry)
}

// dialAgain tries once more to reach a host program whose backlog was full.
func (m *mux) dialAgain(c *conn) {
	fd, errno := m.dial(c.hostPort)
	c.attempts--
	switch {
	case errno == 0:
		c.fd = fd
		m.dialled(c)
	case errno == unix.EAGAIN && c.attempts > 0:
		m.arm(c, &m.retry)
	default:
		m.reset(c)
	}
}

// dialled opens a connection that was requested by the guest.
func (m *mux) dialled(c *conn) {
	c.state = stateOpen
	if m.watchSocket(c) != nil {
		m.reset(c)
		return
	}
	m.post(c, sendResponse)
}

// dial connects to the host program that listens on port. EAGAIN means that it is there and busy.
func (m *mux) dial(port uint32) (int, unix.Errno) {
	return connect(m.path + "_" + strconv.FormatUint(uint64(port), 10))
}

// forward sends n bytes of data to the host program and keeps what it does not take.
func (m *mux) forward(c *conn, data *virtio.Buffers, n int) {
	left := n
	for _, p := range data.Pieces() {
		p = p[:min(len(p), left)]
		if len(p) == 0 || !m.vec.add(p) {
			break
		}
		left -= len(p)
	}
	sent, errno := m.vec.send(c.fd)
	m.vec.reset()
	if errno != 0 && errno != unix.EAGAIN {
		// EPIPE or ECONNRESET: it does not read any more. What it has written is read on.
		c.hostDeaf = true
		c.fwdCnt += uint32(n)
		m.settle(c)
		return
	}
	c.fwdCnt += uint32(sent)
	if sent < n {
		data.Skip(sent)
		c.out.fill(data, n-sent)
		m.setInterest(c, interestIn|unix.EPOLLOUT)
	}
}

// flush sends what c.out holds as far as the host program takes it.
func (m *mux) flush(c *conn) {
	for c.out.n > 0 {
		c.out.pieces(&m.vec)
		asked := m.vec.bytes
		n, errno := m.vec.send(c.fd)
		m.vec.reset()
		if errno != 0 && errno != unix.EAGAIN {
			c.hostDeaf = true
			m.settle(c)
			return
		}
		c.out.drop(n)
		c.fwdCnt += uint32(n)
		if m.closing && n > 0 {
			m.deadline = min(m.now()+int64(lingerIdle), m.latest)
		}
		if n < asked {
			break
		}
	}
	if c.out.n == 0 && c.state != stateDrain {
		m.setInterest(c, interestIn)
	}
	m.checkCredit(c)
	m.settle(c)
}

// hangup reports whether the host program has closed its socket. The event that says so may still be on its way, and
// one SHUTDOWN is better than two.
func hangup(fd int) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds[:], 0)
	return n == 1 && err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// setInterest changes the events that c's socket is watched for, which reports at once those that hold already.
func (m *mux) setInterest(c *conn, events uint32) {
	if c.interest == events {
		return
	}
	c.interest = events
	// Fails only for what is not watched.
	_ = unix.EpollCtl(m.ep, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.slot), Pad: int32(c.gen)})
}

// quiet takes what the host program has sent and nobody wants, so that closing the socket gives it an end of file and not
// ECONNRESET (unix(7)).
func (m *mux) quiet(c *conn) {
	if c.fd < 0 {
		return
	}
	unix.Shutdown(c.fd, unix.SHUT_RD) // and nothing more comes
	scrap := m.chunks.get()
	for {
		if n, errno := recv(c.fd, scrap[:], 0); n == 0 || errno != 0 {
			break
		}
	}
	m.chunks.put(scrap)
}

// closeSocket closes c's socket, which also takes it out of the epoll instance.
func (m *mux) closeSocket(c *conn) {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}
