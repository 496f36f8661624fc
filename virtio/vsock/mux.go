package vsock

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
)

// Bounds on what one guest can make the host hold.
const (
	// maxConns is the number of connections, those included that are being set up or ended.
	maxConns = 4096
	// maxGuestConns leaves some for connections that come from the host.
	maxGuestConns = maxConns - 256
	// maxRefusals is how many RSTs to nobody's packets wait for receive buffers before transmission stops.
	maxRefusals = 256

	// Credit for one connection in bytes, and for all of those that get the most. In all some 110 MiB when thousands of
	// host programs read nothing.
	maxGrant    = 256 << 10
	minGrant    = 16 << 10
	grantBudget = 48 << 20
)

// Bounds on what is done before others have their turn.
const (
	txBudget     = 16 // packets from the guest
	rxBudget     = 64 // turns of connections with something for the guest
	acceptBudget = 64
)

// Times.
const (
	patience    = 10 * time.Second      // for "CONNECT port", RESPONSE, and RST after SHUTDOWN
	retryDial   = 5 * time.Millisecond  // while a host program's backlog is full
	stallTime   = 50 * time.Millisecond // without credit, before it is asked for
	retryAccept = 100 * time.Millisecond
	// After stop, host programs are waited for as long as they read, within reason.
	lingerIdle = 300 * time.Millisecond
	lingerMax  = 5 * time.Second
)

// What an epoll event is about, besides connections.
const (
	aboutWake     = -1
	aboutListener = -2
	aboutQueue    = -8 // + index
)

// mux is the state of a device. It belongs to the goroutine of run.
type mux struct {
	cid   uint64
	path  string
	calls <-chan func()
	acks  chan<- struct{}
	wake  *virtio.Kick // rung after something was put into calls

	ep       int
	events   [64]unix.EpollEvent
	listener int
	socketID fileID
	epoch    time.Time

	// While a driver is there.
	queues   []*virtio.Queue
	rx       *virtio.Queue
	tx       *virtio.Queue
	event    *virtio.Queue
	irq      virtio.Interrupter
	watched  []int // eventfds in ep
	txWork   bool  // the transmit queue has to be looked at
	txHeld   bool  // it is not, until there is room for refusals
	rxStarve bool  // the receive queue is empty, and the driver will kick
	again    bool  // a budget has run out: do not sleep
	rounds   int   // of the loop; an idle device makes none
	put      int   // rounds for which timers that are due have been put off
	turns    virtio.Turns

	slots      []*conn
	free       []uint32
	generation uint32
	count      int
	granted    int
	byPorts    map[uint64]*conn
	nextPort   uint32

	ready    list // have something for the guest
	refusals refusals
	tellGone bool // TRANSPORT_RESET has to be sent
	// hears is until when the guest has time to take notice of that, ns; 0 when it is not waited for.
	hears int64

	patience, retry, stall timers
	acceptAgain            int64 // when accept(2) is to be tried again after it has failed

	closing  bool
	deadline int64 // of closing, ns; moves while host programs read
	latest   int64 // that it can become
	closeErr error

	chunks chunks
	vec    vector
}

func newMux(cfg Config, calls <-chan func(), acks chan<- struct{}) (_ *mux, err error) {
	m := &mux{
		cid: uint64(cfg.GuestCID), path: cfg.Path, calls: calls, acks: acks,
		ep: -1, listener: -1, epoch: time.Now(),
		byPorts: map[uint64]*conn{}, nextPort: firstHostPort,
		patience: timers{after: patience}, retry: timers{after: retryDial}, stall: timers{after: stallTime},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.release())
		}
	}()
	if m.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		m.ep = -1
		return nil, fmt.Errorf("create an epoll instance: %w", os.NewSyscallError("epoll_create1", err))
	}
	if m.wake, err = virtio.NewKick(); err != nil {
		return nil, err
	}
	if err := m.watch(m.wake.FD(), aboutWake, 0, unix.EPOLLIN); err != nil {
		return nil, err
	}
	if m.listener, m.socketID, err = listen(cfg.Path); err != nil {
		return nil, err
	}
	if err := m.watch(m.listener, aboutListener, 0, unix.EPOLLIN); err != nil {
		return nil, err
	}
	return m, nil
}

// watch adds fd to the epoll instance.
func (m *mux) watch(fd int, about int32, gen uint32, events uint32) error {
	err := unix.EpollCtl(m.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: about, Pad: int32(gen)})
	if err != nil {
		return fmt.Errorf("watch a file descriptor: %w", os.NewSyscallError("epoll_ctl", err))
	}
	return nil
}

// run is the loop. It ends after stop.
func (m *mux) run() {
	for !m.finished() {
		m.turns.Take()
		began := m.now()
		n, err := unix.EpollWait(m.ep, m.events[:], m.timeout())
		if err != nil {
			n = 0 // EINTR; nothing else is possible
		}
		m.again = false
		m.rounds++
		for i := range m.events[:n] {
			m.handle(&m.events[i])
		}
		if m.active() {
			m.serve()
		}
		if m.judges(n < len(m.events)) {
			m.expire(began)
			if m.active() {
				m.serve()
			}
		}
	}
	m.closeErr = errors.Join(m.closeErr, m.release())
}

// handle takes one event. Those about connections that have ended since epoll_wait are recognised by their generation.
func (m *mux) handle(e *unix.EpollEvent) {
	switch {
	case e.Fd >= 0:
		if c := m.slots[e.Fd]; c != nil && c.gen == uint32(e.Pad) {
			m.socketEvent(c, e.Events)
		}
	case e.Fd == aboutWake:
		_ = m.wake.Wait() // does not block: it has been rung, and nobody else waits
		select {
		case f := <-m.calls:
			f()
			m.acks <- struct{}{}
		default:
		}
	case e.Fd == aboutListener:
		m.accept()
	default:
		m.doorbell(int(e.Fd - aboutQueue))
	}
}

// doorbell takes a kick of queue i. The bell is stopped before the queue is looked at, so that none is missed.
func (m *mux) doorbell(i int) {
	if i >= len(m.queues) || m.queues[i] == nil {
		return // Deactivate was in the same round of events
	}
	_ = m.queues[i].Kick().Wait() // does not block, as above
	switch i {
	case rxQueue:
		m.rxStarve = false
	case txQueue:
		m.txWork = true
	case eventQueue:
		if m.hears != 0 && m.event != nil && m.event.EnableNotify() {
			m.hears = 0
		}
	}
}

// active reports whether there is a driver to talk to.
func (m *mux) active() bool { return m.irq != nil }

func (m *mux) activate(env virtio.Env) error {
	m.queues = env.Queues
	for i, q := range m.queues {
		if q == nil {
			continue
		}
		fd := q.Kick().FD()
		if err := m.watch(fd, aboutQueue+int32(i), 0, unix.EPOLLIN); err != nil {
			m.unwatch()
			m.queues = nil
			return err
		}
		m.watched = append(m.watched, fd)
	}
	m.rx, m.tx, m.event = env.Queue(rxQueue), env.Queue(txQueue), env.Queue(eventQueue)
	m.irq = env.Interrupt
	if m.rx != nil {
		m.rx.DisableNotify() // until it runs dry
	}
	m.txWork, m.txHeld, m.rxStarve = true, false, false
	return nil // the loop goes on with serve
}

func (m *mux) unwatch() {
	for _, fd := range m.watched {
		_ = unix.EpollCtl(m.ep, unix.EPOLL_CTL_DEL, fd, nil) // fails only for what is not watched
	}
	m.watched = m.watched[:0]
}

func (m *mux) deactivate() []*virtio.Queue {
	if m.active() {
		m.lastWords()
	}
	m.unwatch()
	queues := m.queues
	m.queues, m.rx, m.tx, m.event, m.irq = nil, nil, nil, nil, nil
	return queues
}

// lastWords takes what the guest has already made available for transmission, no more than the queue holds.
func (m *mux) lastWords() {
	if m.tx == nil {
		return
	}
	m.txWork = true
	for range m.tx.Size()/txBudget + 1 {
		if m.serve(); !m.txWork || m.tx == nil {
			return
		}
	}
}

// fail gives up on the driver until it resets the device. Host programs see an end now rather than then.
func (m *mux) fail(err error) {
	m.irq.NeedsReset(err)
	m.rx, m.tx, m.event = nil, nil, nil
	m.txWork, m.txHeld = false, false
	m.forget()
}

// serve does all that can be done with the queues now, up to the budgets.
func (m *mux) serve() {
	if m.tellGone && m.event != nil {
		m.serveEvent()
	}
	if m.hears != 0 {
		if m.now() < m.hears {
			return
		}
		m.hears = 0
	}
	if m.txWork && m.tx != nil {
		m.serveTx()
	}
	if m.rx != nil && !m.rxStarve && (m.refusals.n > 0 || m.ready.head != nil) {
		m.serveRx()
	}
	if m.txHeld && m.refusals.n < maxRefusals {
		m.again = true
	}
}

// forget ends all connections that the guest knows of.
func (m *mux) forget() {
	for _, c := range m.slots {
		if c == nil || c.state == stateLine || c.state == stateDrain || c.pend&sendRequest != 0 {
			continue
		}
		m.forgotten(c)
	}
	m.refusals.clear()
	m.tellGone, m.hears = false, 0
}

func (m *mux) resetTransport() {
	m.forget()
	m.tellGone = true
}

// stop ends everything; the loop ends when the host programs have read what is left for them, or do not.
func (m *mux) stop() {
	if m.active() {
		m.queues = m.deactivate() // for Deactivate, which comes later
	}
	m.closeErr = unlisten(m.path, m.listener, m.socketID)
	m.listener, m.acceptAgain = -1, 0
	for _, c := range m.slots {
		if c != nil && c.state != stateDrain {
			m.forgotten(c)
		}
	}
	m.closing = true
	m.latest = m.now() + int64(lingerMax)
	m.deadline = m.now() + int64(lingerIdle)
}

// finished reports whether the loop has nothing more to do.
func (m *mux) finished() bool {
	return m.closing && (m.count == 0 || m.now() >= m.deadline)
}

// release closes everything.
func (m *mux) release() error {
	for _, c := range m.slots {
		if c != nil {
			m.drop(c)
		}
	}
	var errs []error
	if m.listener >= 0 {
		errs = append(errs, unlisten(m.path, m.listener, m.socketID))
	}
	if m.wake != nil {
		errs = append(errs, m.wake.Close())
	}
	if m.ep >= 0 {
		errs = append(errs, os.NewSyscallError("close", unix.Close(m.ep)))
	}
	return errors.Join(errs...)
}
