package vsock

import "golang.org/x/sys/unix"

// state is how far a connection has come.
type state uint8

const (
	// stateLine: a host program has connected and has not said where to yet. The guest knows nothing.
	stateLine state = iota
	// stateRequest: REQUEST is on its way to the guest, or sent.
	stateRequest
	// stateDial: the guest has sent REQUEST, and the host program's backlog is full.
	stateDial
	// stateOpen: bytes flow, in one direction at least, or SHUTDOWN and RST are awaited.
	stateOpen
	// stateDead: nothing but RST has to be sent to the guest.
	stateDead
	// stateDrain: the guest has forgotten the connection; the host program has not read everything yet.
	stateDrain
)

// Packets that a connection has to send, besides data.
const (
	sendRequest = 1 << iota
	sendResponse
	sendCreditUpdate
	sendCreditRequest
	sendShutdown // after the data
	sendRST      // last
)

// conn is one connection.
type conn struct {
	state state
	slot  uint32 // in mux.slots
	gen   uint32 // tells it from earlier users of the slot

	hostPort, guestPort uint32
	known               bool // it is in mux.byPorts

	// The Unix socket.
	fd       int    // -1 when closed
	interest uint32 // events that epoll looks for
	readable bool   // there may be something to read
	ended    bool   // nothing comes after what is to be read now
	hungUp   bool   // the host program has closed its socket: nothing can be sent either
	out      fifo   // from the guest, not taken by the host program yet

	// The end of each direction.
	hostEOF   bool   // all that the host program has sent was read, or is unwanted
	hostDeaf  bool   // the host program does not read any more
	guestShut uint32 // flags of the guest's SHUTDOWN
	toldShut  uint32 // flags of ours
	saidEOF   bool   // shutdown(SHUT_WR) was done

	// Credit of the guest's data (5.10.6.3): counters wrap.
	grant   uint32 // our buf_alloc
	rxCnt   uint32 // bytes received from the guest
	fwdCnt  uint32 // of which the host program has got
	toldFwd uint32 // fwdCnt as the guest knows it
	// Credit of the host's data.
	txCnt     uint32 // bytes sent to the guest
	peerAlloc uint32 // the guest's buf_alloc
	peerFwd   uint32 // and its fwd_cnt
	asked     bool   // CREDIT_REQUEST was sent in this stall

	pend     uint32 // send… bits
	burst    int    // receive buffers to fill with one system call
	attempts int    // to connect that are left, in stateDial

	ready  link // in mux.ready
	timer  link // in a list of timers
	timers *timers
	due    int64 // ns, mux.now

	line    [maxLine]byte // "CONNECT port\n" as far as it has come
	lineLen int
}

// key is what finds a connection by its ports.
func key(hostPort, guestPort uint32) uint64 { return uint64(hostPort)<<32 | uint64(guestPort) }

// credit returns how many bytes the guest can take. It never trusts the guest's counters to make sense: one that
// claims to have forwarded more than was sent, or that shrinks its buffer, has no room.
func (c *conn) credit() int {
	inFlight := c.txCnt - c.peerFwd
	if inFlight > c.peerAlloc {
		return 0
	}
	return int(c.peerAlloc - inFlight)
}

// hasData reports whether the socket should be read now.
func (c *conn) hasData() bool {
	return c.state == stateOpen && c.readable && !c.hostEOF && c.credit() > 0
}

// newConn makes a connection around fd, which it owns from now on. The caller has checked that there are not too many.
func (m *mux) newConn(fd int, s state) *conn {
	var slot uint32
	if n := len(m.free); n > 0 {
		slot = m.free[n-1]
		m.free = m.free[:n-1]
	} else {
		slot = uint32(len(m.slots))
		m.slots = append(m.slots, nil)
	}
	m.generation++
	c := &conn{state: s, slot: slot, gen: m.generation, fd: fd, burst: 1, out: fifo{pool: &m.chunks}}
	c.ready.c, c.timer.c = c, c
	// 16 KiB for each one that there may be are set aside, the rest goes to the first who come.
	c.grant = minGrant
	if m.granted+maxGrant <= grantBudget {
		c.grant = maxGrant
	}
	m.granted += int(c.grant)
	m.slots[slot] = c
	m.count++
	return c
}

// drop forgets c for good and closes its socket.
func (m *mux) drop(c *conn) {
	m.closeSocket(c)
	c.out.drop(c.out.n)
	m.unknow(c)
	m.ready.remove(&c.ready)
	m.disarm(c)
	m.granted -= int(c.grant)
	m.slots[c.slot] = nil
	m.free = append(m.free, c.slot)
	m.count--
}

// know makes c the connection of its ports.
func (m *mux) know(c *conn) {
	c.known = true
	m.byPorts[key(c.hostPort, c.guestPort)] = c
}

func (m *mux) unknow(c *conn) {
	if c.known {
		c.known = false
		delete(m.byPorts, key(c.hostPort, c.guestPort))
	}
}

// post has packets sent to the guest when there is room.
func (m *mux) post(c *conn, bits uint32) {
	c.pend |= bits
	m.enlist(c)
}

// enlist puts c on the list of those that have something for the guest, if it has.
func (m *mux) enlist(c *conn) {
	if c.pend != 0 || c.hasData() {
		m.ready.add(&c.ready)
	}
}

// reset ends c at once: RST is sent to the guest, and the socket closed.
func (m *mux) reset(c *conn) {
	m.closeSocket(c)
	c.out.drop(c.out.n)
	m.disarm(c)
	c.state = stateDead
	c.pend = 0
	m.post(c, sendRST)
}

// forgotten ends c after the guest has sent RST or was reset. What it had sent before still goes to the host program.
func (m *mux) forgotten(c *conn) {
	if c.fd < 0 || c.out.n == 0 {
		m.drop(c)
		return
	}
	m.unknow(c)
	m.ready.remove(&c.ready)
	m.disarm(c)
	c.state = stateDrain
	c.pend = 0
}

// settle does what the ends of c's directions call for. It is called whenever one of them, or c.out, has changed.
func (m *mux) settle(c *conn) {
	if c.state == stateDrain && (c.out.n == 0 || c.hostDeaf) {
		m.drop(c)
		return
	}
	if c.state != stateOpen {
		return
	}
	if c.hostDeaf && c.out.n > 0 {
		c.fwdCnt += uint32(c.out.n)
		c.out.drop(c.out.n)
		m.checkCredit(c)
	}
	delivered := c.hostDeaf || c.guestShut&shutdownSend != 0 && c.out.n == 0
	if c.guestShut == shutdownBoth && delivered {
		// A clean disconnect, which the guest waits for (5.10.6.5).
		m.quiet(c)
		m.reset(c)
		return
	}
	if delivered && !c.hostDeaf && !c.saidEOF && c.fd >= 0 {
		c.saidEOF = true
		unix.Shutdown(c.fd, unix.SHUT_WR)
	}
	var tell uint32
	if c.hostEOF && c.guestShut&shutdownRecv == 0 {
		tell |= shutdownSend
	}
	if c.hostDeaf && c.guestShut&shutdownSend == 0 {
		tell |= shutdownRecv
	}
	if delivered && c.hostEOF {
		// Both directions have ended: the socket has done its duty, and the guest owes an RST.
		tell = shutdownBoth
		if c.fd >= 0 {
			m.quiet(c)
			m.closeSocket(c)
			m.arm(c, &m.patience)
		}
	}
	if tell&^c.toldShut != 0 {
		c.toldShut |= tell
		m.post(c, sendShutdown)
	}
}

// checkCredit has CREDIT_UPDATE sent when the guest would soon believe that it has to wait although it has not.
func (m *mux) checkCredit(c *conn) {
	if c.rxCnt-c.toldFwd > c.grant/2 && c.fwdCnt != c.toldFwd && c.state == stateOpen {
		m.post(c, sendCreditUpdate)
	}
}
