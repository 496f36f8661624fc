package vsock

import "time"

// link is a connection's place in a list.
type link struct {
	c          *conn
	next, prev *link
	on         bool
}

// list is a queue of connections without allocation. A connection is in it once.
type list struct {
	head, tail *link
}

// add appends l unless it is in the list.
func (q *list) add(l *link) {
	if l.on {
		return
	}
	l.on, l.prev, l.next = true, q.tail, nil
	if q.tail != nil {
		q.tail.next = l
	} else {
		q.head = l
	}
	q.tail = l
}

// remove takes l out if it is in the list.
func (q *list) remove(l *link) {
	if !l.on {
		return
	}
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		q.head = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	} else {
		q.tail = l.prev
	}
	l.on, l.next, l.prev = false, nil, nil
}

// timers are connections that wait for the same length of time, so that the first in the list is the first due.
type timers struct {
	list
	after time.Duration
}

// arm starts c's timer anew; it has one at most.
func (m *mux) arm(c *conn, t *timers) {
	m.disarm(c)
	c.timers = t
	c.due = m.now() + int64(t.after)
	t.add(&c.timer)
}

func (m *mux) disarm(c *conn) {
	if c.timers != nil {
		c.timers.remove(&c.timer)
		c.timers = nil
	}
}

// now is a monotonic clock in ns.
func (m *mux) now() int64 { return int64(time.Since(m.epoch)) }

// timeout is the argument of epoll_wait: ms until the next timer, rounded up, or -1.
func (m *mux) timeout() int {
	if m.again {
		return 0
	}
	next := m.acceptAgain
	if m.hears != 0 && m.active() && (next == 0 || m.hears < next) {
		next = m.hears
	}
	for _, t := range m.allTimers() {
		if t.head != nil && (next == 0 || t.head.c.due < next) {
			next = t.head.c.due
		}
	}
	if m.closing && (next == 0 || m.deadline < next) {
		next = m.deadline
	}
	if next == 0 {
		return -1
	}
	left := next - m.now()
	if left <= 0 {
		return 0
	}
	return int(min((left+999_999)/1_000_000, 1<<30))
}

func (m *mux) allTimers() [3]*timers { return [3]*timers{&m.patience, &m.retry, &m.stall} }

// maxPut bounds the rounds of the loop for which timers are put off: a guest that sends without end does not stop them.
const maxPut = 1024

// judges reports whether timers are to be looked at in this round: when nothing is left that has come already. drained says that
// there were no more events.
func (m *mux) judges(drained bool) bool {
	said := m.txWork && m.tx != nil && !m.txHeld && m.hears == 0 // by the guest, and to be looked at in the next round
	if drained && !m.again && !said || m.put == maxPut {
		m.put = 0
		return true
	}
	m.put++
	return false
}

// expire handles all timers that were due when this round of the loop began. Where this process did not run for a while (its CPU
// time was used up, it or its host was stopped) all of them are due when it goes on, and what they have waited for may have been
// there for long: it comes with the events of that round.
func (m *mux) expire(now int64) {
	if m.acceptAgain != 0 && now >= m.acceptAgain {
		m.resumeAccept()
	}
	for _, t := range m.allTimers() {
		for t.head != nil && t.head.c.due <= now {
			m.expired(t.head.c, t)
		}
	}
}

// expired handles one timer, and takes it out of its list or moves it to the end.
func (m *mux) expired(c *conn, t *timers) {
	m.disarm(c)
	switch {
	case c.state == stateLine:
		m.drop(c) // it has not said where to
	case !m.active():
		m.arm(c, t) // the guest cannot do anything about it
	case t == &m.retry:
		m.dialAgain(c)
	case t == &m.stall:
		if c.hasStalled() && !c.asked {
			c.asked = true
			m.post(c, sendCreditRequest)
		}
	case c.pend&sendRequest != 0:
		m.drop(c) // the guest has not even heard of it
	default:
		// No RESPONSE, or no RST after SHUTDOWN (5.10.6.5).
		m.reset(c)
	}
}

// checkStall has CREDIT_REQUEST sent after a while when c waits for credit. Most guests send CREDIT_UPDATE by themselves.
func (m *mux) checkStall(c *conn) {
	if c.hasStalled() && c.timers == nil && !c.asked {
		m.arm(c, &m.stall)
	}
}

// hasStalled reports whether there is data that the guest has no room for.
func (c *conn) hasStalled() bool {
	return c.state == stateOpen && c.readable && !c.hostEOF && c.credit() == 0
}
