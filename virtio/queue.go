package virtio

import (
	"errors"
	"fmt"
	"math/bits"
)

// What a driver can get wrong with a ring. Errors of Queue wrap one of these in a QueueError.
var (
	ErrAvailIndex = errors.New("available index is further ahead than the ring is long")
	ErrInFlight   = errors.New("descriptor chain is made available while it is in flight")
	ErrDescIndex  = errors.New("descriptor index is outside of the table")
	ErrChainLoop  = errors.New("descriptor chain has a loop")
	ErrChainLong  = errors.New("descriptor chain is too long")
	ErrDirection  = errors.New("device-readable descriptor after a device-writable one")
	ErrIndirect   = errors.New("bad indirect descriptor")
	ErrMemory     = errors.New("address is not guest memory")
	ErrQueueSize  = errors.New("bad queue size")
	ErrAlignment  = errors.New("queue address is not aligned")
	ErrState      = errors.New("bad queue state")
)

// QueueError is the first error of a queue. The queue keeps it and serves nothing until it is reset.
type QueueError struct {
	Queue int // index
	Err   error
}

func (e *QueueError) Error() string { return fmt.Sprintf("virtio queue %d: %v", e.Queue, e.Err) }
func (e *QueueError) Unwrap() error { return e.Err }

// Alignment in bytes of the areas of a split queue (2.7).
const (
	alignDesc  = 16
	alignAvail = 2
	alignUsed  = 4
)

const (
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY (2.7.10)
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.7)
)

// maxPieces bounds the descriptors of one chain. The standard lets a driver use no more than the queue's size
// (2.7.5.3.1); drivers with indirect tables are known to use more on small queues. It is also IOV_MAX, so a
// chain always fits one preadv.
const maxPieces = 1024

// Queue is the device's side of a split virtqueue (2.7).
//
// The way to serve one:
//
//	for {
//		q.DisableNotify()
//		for {
//			c, err := q.Pop()
//			if c == nil || err != nil { … }
//			… serve c …
//			q.Push(c, written)
//		}
//		q.Signal()
//		if !q.EnableNotify() { wait for the kick }
//	}
//
// Nothing here allocates once as many chains have been seen as are in flight at most.
type Queue struct {
	index  int
	state  QueueState // as configured; the positions in it are kept in the fields below
	mem    Memory
	irq    Interrupter
	kick   *Kick
	ring   ring
	size   uint16
	events bool // F_EVENT_IDX
	tables bool // F_INDIRECT_DESC

	nextAvail uint16 // position of the next chain in the available ring
	seenAvail uint16 // avail.idx when it was last read
	nextUsed  uint16 // position of the next entry in the used ring
	published uint16 // used.idx as the driver sees it
	signalled uint16 // used.idx when Signal last looked
	usedFlags uint16
	fresh     bool // nothing has been signalled yet: signalled means nothing

	inFlight int
	flying   []uint64 // one bit for each head in flight
	free     []*Chain
	err      error
}

// newQueue makes a queue over the rings that state describes. kick may be nil.
func newQueue(index int, state QueueState, features uint64, mem Memory, irq Interrupter, kick *Kick) (*Queue, error) {
	r, err := state.rings(mem)
	if err != nil {
		return nil, &QueueError{index, err}
	}
	q := &Queue{
		index: index, state: state, mem: mem, irq: irq, kick: kick, ring: r, size: state.Size,
		events:    features&(1<<F_EVENT_IDX) != 0,
		tables:    features&(1<<F_INDIRECT_DESC) != 0,
		nextAvail: state.NextAvail, seenAvail: state.NextAvail,
		nextUsed: state.NextUsed, published: state.NextUsed, signalled: state.NextUsed,
		fresh:  true,
		flying: make([]uint64, (int(state.Size)+63)/64),
	}
	return q, nil
}

// Index is the queue's number in its device.
func (q *Queue) Index() int { return q.index }

// Size is the number of entries that the driver chose.
func (q *Queue) Size() int { return int(q.size) }

// Kick returns what the driver's notifications arrive at.
func (q *Queue) Kick() *Kick { return q.kick }

// InFlight is the number of chains that have been popped and not pushed.
func (q *Queue) InFlight() int { return q.inFlight }

// Err returns the error that broke the queue, or nil.
func (q *Queue) Err() error { return q.err }

// fail breaks the queue.
func (q *Queue) fail(err error) error {
	if q.err == nil {
		q.err = &QueueError{q.index, err}
	}
	return q.err
}

// Pop takes the next chain that the driver has made available, or returns nil when there is none. An error is
// for good: the device should report it with Interrupter.NeedsReset and stop serving the queue.
func (q *Queue) Pop() (*Chain, error) {
	if q.err != nil {
		return nil, q.err
	}
	if q.seenAvail == q.nextAvail && !q.more() {
		return nil, nil
	}
	if ahead := q.seenAvail - q.nextAvail; ahead > q.size {
		return nil, q.fail(fmt.Errorf("%w: %d, size %d", ErrAvailIndex, ahead, q.size))
	}
	head := q.ring.availHead(q.nextAvail)
	if head >= q.size {
		return nil, q.fail(fmt.Errorf("%w: head %d, size %d", ErrDescIndex, head, q.size))
	}
	word, bit := &q.flying[head/64], uint64(1)<<(head%64)
	if *word&bit != 0 {
		return nil, q.fail(fmt.Errorf("%w: head %d", ErrInFlight, head))
	}
	c := q.chain()
	if err := c.load(q, head); err != nil {
		q.free = append(q.free, c)
		return nil, q.fail(err)
	}
	*word |= bit
	q.inFlight++
	q.nextAvail++
	return c, nil
}

// more reads avail.idx and reports whether it is past nextAvail.
func (q *Queue) more() bool {
	q.seenAvail = q.ring.availIdx()
	return q.seenAvail != q.nextAvail
}

// Unpop gives back the chain that was popped last, untouched: the next Pop returns it again.
func (q *Queue) Unpop(c *Chain) {
	q.release(c)
	q.nextAvail--
}

// Push returns c to the driver with the number of bytes that were written to the start of its writable
// part (2.7.8.2). The driver can see it at once; Signal tells it to look.
func (q *Queue) Push(c *Chain, written int) {
	q.Add(c, written)
	q.Publish()
}

// Add is Push without making the entry visible yet: for entries that must appear together.
func (q *Queue) Add(c *Chain, written int) {
	n := uint32(min(max(int64(written), 0), int64(c.capacity)))
	q.ring.setUsed(q.nextUsed, uint32(c.head), n)
	q.nextUsed++
	q.release(c)
}

// Publish makes visible what Add has added.
func (q *Queue) Publish() {
	if q.err != nil || q.published == q.nextUsed {
		return
	}
	q.ring.publish(q.usedFlags, q.nextUsed)
	q.published = q.nextUsed
}

// Signal sends a used buffer notification if entries were published since the last Signal and the driver
// wants to hear of them.
func (q *Queue) Signal() {
	if q.wantsSignal() {
		q.irq.Queue(q.index)
	}
}

func (q *Queue) wantsSignal() bool {
	old, now := q.signalled, q.published
	if old == now || q.err != nil {
		return false
	}
	// The store in publish was a full barrier, so what is read below is no older than the entries.
	q.signalled = now
	fresh := q.fresh
	q.fresh = false
	if !q.events {
		return q.ring.availFlags()&availNoInterrupt == 0
	}
	// 2.7.7.2, vring_need_event: has the index gone past used_event?
	return fresh || now-q.ring.usedEvent()-1 < now-old
}

// EnableNotify asks the driver for a notification with the next chain and reports whether one has come in the
// meantime: then the caller serves on, or it would wait for ever.
func (q *Queue) EnableNotify() (more bool) {
	if q.err != nil {
		return false
	}
	if q.events {
		q.ring.setAvailEvent(q.nextAvail)
	} else if q.usedFlags != 0 {
		q.usedFlags = 0
		q.ring.publish(0, q.published)
	}
	// Both stores are full barriers: either the driver sees the request or its index is seen here.
	return q.more()
}

// DisableNotify tells the driver that it need not notify: the queue is being served.
func (q *Queue) DisableNotify() {
	// With EVENT_IDX the flag must be 0 (2.7.10.1), and an avail_event that is not moved does the same.
	if q.err != nil || q.events || q.usedFlags == usedNoNotify {
		return
	}
	q.usedFlags = usedNoNotify
	q.ring.publish(usedNoNotify, q.published)
}

// State returns what a snapshot keeps of the queue. No chain may be in flight.
func (q *Queue) State() QueueState {
	s := q.state
	s.NextAvail, s.NextUsed = q.nextAvail, q.nextUsed
	return s
}

// chain returns an unused Chain.
func (q *Queue) chain() *Chain {
	if n := len(q.free); n > 0 {
		c := q.free[n-1]
		q.free = q.free[:n-1]
		return c
	}
	return new(Chain)
}

// release takes c out of flight.
func (q *Queue) release(c *Chain) {
	q.flying[c.head/64] &^= 1 << (c.head % 64)
	q.inFlight--
	c.Readable, c.Writable = Buffers{}, Buffers{}
	q.free = append(q.free, c)
}

// validQueueSize reports whether n can be the size of a split queue: a power of two up to 32768.
func validQueueSize(n uint32) bool {
	return n <= MaxQueueSize && bits.OnesCount32(n) == 1
}
