package net

import (
	"sync"

	"github.com/hullvm/hull/virtio"
)

// pair is a receive queue, a transmit queue, and the backend that they lead to.
type pair struct {
	d       *Device
	index   int
	backend Backend
	tx      *virtio.Worker
	header  [HeaderSize]byte // of the frame that is being transmitted

	mu sync.Mutex // of what follows
	rx *receiver  // nil while there is none to wake
}

// queue returns the receive or transmit queue, or nil when the driver has not enabled it.
func (p *pair) queue(kind int) *virtio.Queue { return p.d.env.Queue(pairQueues*p.index + kind) }

// wake makes the receiver look at the link again.
func (p *pair) wake() {
	p.mu.Lock()
	rx := p.rx
	p.mu.Unlock()
	rx.wake()
}

// on lets frames through to the driver.
func (p *pair) on() error {
	if p.rx != nil {
		return nil
	}
	if s, ok := p.backend.(Switched); ok {
		if err := s.Attach(true); err != nil {
			return err
		}
	}
	rx := startReceiver(p)
	p.mu.Lock()
	p.rx = rx
	p.mu.Unlock()
	rx.wake() // for a link that came up before there was somebody to wake
	return nil
}

// off ends that: when it returns, no frame is given to the driver any more.
func (p *pair) off() error {
	var err error
	if s, ok := p.backend.(Switched); ok {
		err = s.Attach(false)
	}
	p.stopReceiver()
	return err
}

func (p *pair) stopReceiver() {
	p.mu.Lock()
	rx := p.rx
	p.rx = nil
	p.mu.Unlock()
	rx.stop()
}

// batch is how many frames the driver is shown at a time, while more of them pass: a driver that looks meanwhile and the
// device take the cache line with the used ring's index from one another each time that it changes.
const batch = 16

// transmit passes on all frames that the driver has queued.
func (p *pair) transmit(w *virtio.Worker) error {
	q := w.Queue()
	tx := &p.d.tx
	for i := 1; !w.Stopping(); i++ {
		if i%batch == 0 {
			q.Publish()
		}
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		n := min(max(c.Readable.Len()-HeaderSize, 0), maxFrame) // what is longer is dropped
		if !w.Throttle(virtio.Cost{Limiter: tx.byBytes, Tokens: uint64(n)}, virtio.Cost{Limiter: tx.byFrames, Tokens: 1}) {
			q.Unpop(c)
			return nil
		}
		p.send(&c.Readable)
		q.Add(c, 0)
	}
	return nil
}

func (p *pair) send(packet *virtio.Buffers) {
	d := p.d
	var h Header
	if packet.Read(p.header[:]) == HeaderSize && d.Link() {
		h.Decode(&p.header)
		if n := packet.Len(); n >= minFrame && n <= maxFrame && h.fromDriver(d.env.Features, n) {
			h.Encode(&p.header)
			p.backend.Send(&p.header, packet.Pieces())
			d.tx.passed(n)
			return
		}
	}
	d.tx.dropped.Add(1)
}
