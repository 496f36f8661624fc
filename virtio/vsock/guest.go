package vsock

import (
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
)

// serveTx takes packets from the guest (5.10.6.1). Each may call for one refusal at most, so that it stops while there is
// no room for one: replies are bounded, and it is the guest that waits.
func (m *mux) serveTx() {
	q := m.tx
	q.DisableNotify()
	m.txHeld = false
	for budget := txBudget; ; budget-- {
		if m.refusals.n == maxRefusals {
			m.txHeld = true
			break
		}
		if budget == 0 {
			m.again = true
			break
		}
		c, err := q.Pop()
		if err != nil {
			m.fail(err)
			return
		}
		if c == nil {
			if q.EnableNotify() {
				q.DisableNotify()
				continue
			}
			m.txWork = false
			break
		}
		m.packet(&c.Readable)
		q.Push(c, 0)
	}
	q.Signal()
}

// packet takes one packet. data begins with its header.
func (m *mux) packet(data *virtio.Buffers) {
	var raw [headerSize]byte
	if data.Read(raw[:]) < headerSize {
		return // nobody to answer
	}
	var h header
	h.decode(&raw)
	if h.srcCID != m.cid {
		return // forged: an answer would go to someone else
	}
	if h.dstCID != hostCID || h.typ != typeStream {
		m.refuse(&h) // 5.10.6.4
		return
	}
	c := m.byPorts[key(h.dstPort, h.srcPort)]
	if int64(h.len) > int64(data.Len()) {
		// Bytes are missing: the stream is broken, if there is one.
		if c != nil && c.state != stateDead {
			m.reset(c)
		} else if c == nil {
			m.refuse(&h)
		}
		return
	}
	if c == nil {
		if h.op == opRequest {
			m.requested(&h)
		} else {
			m.refuse(&h)
		}
		return
	}
	m.packetOf(c, &h, data)
}

// packetOf takes one packet of connection c.
func (m *mux) packetOf(c *conn, h *header, data *virtio.Buffers) {
	if h.op == opRST {
		if c.state == stateRequest {
			m.quiet(c) // refused: the host program reads an end of file
		}
		m.forgotten(c)
		return
	}
	if c.state == stateDead {
		return // RST is on its way
	}
	// Every packet carries credit.
	c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	switch {
	case c.state == stateRequest && h.op == opResponse && c.pend&sendRequest == 0:
		m.accepted(c)
	case c.state != stateOpen:
		m.reset(c) // out of order
		return
	case h.op == opRW:
		m.received(c, data, h.len)
	case h.op == opShutdown:
		m.shutdown(c, h.flags)
	case h.op == opCreditUpdate:
	case h.op == opCreditRequest:
		m.post(c, sendCreditUpdate)
	default:
		m.reset(c) // unknown, or out of order
		return
	}
	// There may be room now for what the host program has sent.
	if c.state == stateOpen {
		c.asked = c.asked && c.credit() == 0
		m.checkStall(c)
		m.enlist(c)
	}
}

// received takes n bytes of data for the host program.
func (m *mux) received(c *conn, data *virtio.Buffers, n uint32) {
	if c.guestShut&shutdownSend != 0 || uint64(c.rxCnt-c.fwdCnt)+uint64(n) > uint64(c.grant) {
		m.reset(c) // 5.10.6.3: only within the credit
		return
	}
	c.rxCnt += n
	switch {
	case c.hostDeaf:
		c.fwdCnt += n
	case c.out.n > 0:
		c.out.fill(data, int(n))
	case n > 0:
		m.forward(c, data, int(n))
	}
	m.checkCredit(c)
}

// shutdown takes the guest's word that it will not send or receive any more.
func (m *mux) shutdown(c *conn, flags uint32) {
	c.guestShut |= flags & shutdownBoth
	if c.guestShut&shutdownRecv != 0 && !c.hostEOF {
		c.hostEOF = true
		if c.fd >= 0 {
			unix.Shutdown(c.fd, unix.SHUT_RD) // who writes now gets EPIPE
		}
	}
	m.settle(c)
}

// refusals is a queue of RSTs to packets that belong to no connection.
type refusals struct {
	ring    [maxRefusals]refusal
	head, n int
}

// refusal is what an RST needs of the packet that it answers.
type refusal struct {
	dstCID           uint64
	dstPort, srcPort uint32
	typ              uint16
}

// refuse has RST sent in answer to h, unless h is an RST itself.
func (m *mux) refuse(h *header) {
	if h.op == opRST {
		return
	}
	r := &m.refusals
	if r.n == maxRefusals {
		return // serveTx does not let it come to that
	}
	r.ring[(r.head+r.n)%maxRefusals] = refusal{h.dstCID, h.dstPort, h.srcPort, h.typ}
	r.n++
}

func (r *refusals) drop() {
	r.head = (r.head + 1) % maxRefusals
	r.n--
}

func (r *refusals) clear() { r.head, r.n = 0, 0 }
