package vsock

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
)

// maxBurst is the number of receive buffers that one system call fills. Linux has buffers of a page; a call each would
// cost more than the copying.
const maxBurst = 16

// serveRx sends what there is for the guest as far as it has receive buffers: refusals first, then connections in turn.
func (m *mux) serveRx() {
	q := m.rx
	q.DisableNotify()
	for budget := rxBudget; m.refusals.n > 0 || m.ready.head != nil; budget-- {
		if budget == 0 {
			m.again = true
			break
		}
		var served bool
		var err error
		if m.refusals.n > 0 {
			served, err = m.sendRefusal(q)
		} else {
			served, err = m.turn(q, m.ready.head.c)
		}
		if err != nil {
			m.fail(err)
			return
		}
		if !served && !q.EnableNotify() {
			m.rxStarve = true
			break
		}
	}
	q.Signal()
}

// popRx takes a receive buffer that has room for a header and need bytes. Others are given back empty.
func (m *mux) popRx(q *virtio.Queue, need int) (*virtio.Chain, error) {
	for range q.Size() {
		c, err := q.Pop()
		if c == nil || err != nil || c.Writable.Len() >= headerSize+need {
			return c, err
		}
		q.Push(c, 0)
	}
	m.again = true // a guest that keeps offering useless ones does not keep the mux
	return nil, nil
}

// sendRefusal sends the oldest refusal. served is false when there is no receive buffer.
func (m *mux) sendRefusal(q *virtio.Queue) (served bool, err error) {
	chain, err := m.popRx(q, 0)
	if chain == nil || err != nil {
		return false, err
	}
	r := &m.refusals.ring[m.refusals.head]
	h := header{srcCID: r.dstCID, srcPort: r.dstPort, dstPort: r.srcPort, typ: r.typ, op: opRST}
	m.refusals.drop()
	m.push(q, chain, &h)
	return true, nil
}

// push sends a packet whose data is already in place.
func (m *mux) push(q *virtio.Queue, chain *virtio.Chain, h *header) {
	var raw [headerSize]byte
	h.dstCID = m.cid
	h.encode(&raw)
	chain.Writable.Write(raw[:])
	q.Push(chain, headerSize+int(h.len))
}

// pushOf sends a packet of c.
func (m *mux) pushOf(q *virtio.Queue, chain *virtio.Chain, c *conn, op uint16, flags, n uint32) {
	c.toldFwd = c.fwdCnt
	c.pend &^= sendCreditUpdate // this one is
	m.push(q, chain, &header{
		srcCID: hostCID, srcPort: c.hostPort, dstPort: c.guestPort,
		typ: typeStream, op: op, flags: flags, len: n, bufAlloc: c.grant, fwdCnt: c.fwdCnt,
	})
}

// turn sends one packet of c, or one burst of data, and puts c at the end of the list if there is more. served is
// false when there is no receive buffer.
func (m *mux) turn(q *virtio.Queue, c *conn) (served bool, err error) {
	// Data carries credit too. SHUTDOWN can go before data: the flag that must not is set after the last byte only.
	switch {
	case c.pend&^sendCreditUpdate != 0, c.pend != 0 && !c.hasData():
		served, err = m.sendControl(q, c)
	case c.hasData():
		served, err = m.sendData(q, c)
	default:
		served = true
	}
	if !served || err != nil {
		return served, err
	}
	m.ready.remove(&c.ready)
	if m.slots[c.slot] == c {
		m.enlist(c)
	}
	return true, nil
}

// sendControl sends the first of the packets that c has to send.
func (m *mux) sendControl(q *virtio.Queue, c *conn) (served bool, err error) {
	chain, err := m.popRx(q, 0)
	if chain == nil || err != nil {
		return false, err
	}
	// The lowest bit is the most urgent one.
	bit := c.pend & -c.pend
	c.pend &^= bit
	switch bit {
	case sendRequest:
		m.pushOf(q, chain, c, opRequest, 0, 0)
	case sendResponse:
		m.pushOf(q, chain, c, opResponse, 0, 0)
	case sendCreditUpdate:
		m.pushOf(q, chain, c, opCreditUpdate, 0, 0)
	case sendCreditRequest:
		m.pushOf(q, chain, c, opCreditRequest, 0, 0)
	case sendShutdown:
		m.pushOf(q, chain, c, opShutdown, c.toldShut, 0)
	default:
		m.pushOf(q, chain, c, opRST, 0, 0)
		m.drop(c)
	}
	return true, nil
}

// sendData reads from c's socket into receive buffers. served is false when there are none.
func (m *mux) sendData(q *virtio.Queue, c *conn) (served bool, err error) {
	var chains [maxBurst]*virtio.Chain
	var sizes [maxBurst]int
	n := 0
	credit := c.credit()
	chain, err := m.popRx(q, 1)
	for chain != nil {
		if sizes[n] = m.addPayload(chain, credit-m.vec.bytes); sizes[n] == 0 {
			q.Unpop(chain)
			break
		}
		chains[n] = chain
		if n++; n == c.burst {
			break
		}
		chain, err = q.Pop()
	}
	if n == 0 || err != nil {
		m.vec.reset()
		return false, err
	}
	asked := m.vec.bytes
	got, cut, errno := m.vec.receive(c.fd)
	m.vec.reset()
	left, used := got, 0
	for ; used < n && left > 0; used++ {
		k := min(left, sizes[used])
		left -= k
		c.txCnt += uint32(k)
		m.pushOf(q, chains[used], c, opRW, 0, uint32(k))
	}
	for i := n - 1; i >= used; i-- {
		q.Unpop(chains[i])
	}
	switch {
	case errno == unix.EAGAIN:
		c.readable = false
	case errno != 0 || got == 0:
		// ECONNRESET is the end too: what had been sent was read before it.
		c.hostEOF = true
		c.hostDeaf = c.hostDeaf || errno != 0 || c.hungUp || hangup(c.fd)
		m.settle(c)
	case got < asked:
		// A stream socket that gives less than asked for is empty, and says so when it is not any more, unless the end
		// has been announced already (epoll(7)).
		c.readable = c.ended || cut
		c.burst = 1
	default:
		c.burst = min(2*c.burst, maxBurst)
		m.checkStall(c)
	}
	return true, nil
}

// addPayload adds the part of chain behind the header to the vector, up to limit bytes, and returns its size.
func (m *mux) addPayload(chain *virtio.Chain, limit int) int {
	skip, size := headerSize, 0
	for _, p := range chain.Writable.Pieces() {
		if skip >= len(p) {
			skip -= len(p)
			continue
		}
		p = p[skip:]
		skip = 0
		p = p[:min(len(p), limit-size)]
		if len(p) == 0 || !m.vec.add(p) {
			break
		}
		size += len(p)
	}
	return size
}

// hearing is how long a driver may take to handle TRANSPORT_RESET before the device goes on without knowing that it has.
const hearing = time.Second

// serveEvent sends TRANSPORT_RESET when there is a buffer for it (5.10.6.7). Until the driver has handled it, nothing else is
// served: the guest would take the end of an old connection for news, make a new one at once, and lose that to the event. A driver
// gives buffers back when it has looked at them, so all are used, empty but the first; the next it offers is the sign.
func (m *mux) serveEvent() {
	q := m.event
	q.DisableNotify()
	for range q.Size() + 1 {
		c, err := q.Pop()
		if err != nil {
			m.fail(err)
			return
		}
		if c == nil {
			if !q.EnableNotify() {
				break
			}
			if m.tellGone {
				continue
			}
			m.hears = 0
			break
		}
		var id [4]byte
		binary.LittleEndian.PutUint32(id[:], eventTransportReset)
		if !m.tellGone || c.Writable.Len() < len(id) {
			q.Push(c, 0)
			continue
		}
		q.Push(c, c.Writable.Write(id[:]))
		m.tellGone, m.hears = false, m.now()+int64(hearing)
	}
	q.Signal()
}
