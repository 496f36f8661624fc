package net

import (
	"io"
	"time"

	"github.com/hullvm/hull/virtio"
)

// receiver fills the receive queue. Its worker waits for frames, or for buffers when the next frame finds none.
type receiver struct {
	d        *Device
	backend  Backend
	fd       int // the backend's
	q        *virtio.Queue
	features uint64
	worker   *virtio.Worker // for wake and stop only: serve may run before it is set

	chains []*virtio.Chain // popped and not used yet, in order
	expect int             // how long the next frame may be, by those before
	room   int             // bytes in them
	pieces [][]byte
	head   [][]byte // where the header of the frame goes
	header [HeaderSize]byte
}

func startReceiver(p *pair) *receiver {
	r := &receiver{d: p.d, backend: p.backend, fd: p.backend.FD(), q: p.queue(rxQueue), features: p.d.env.Features}
	r.worker = virtio.StartWorker(r.q, p.d.env.Interrupt, r.serve)
	return r
}

// wake makes r look again. It does nothing on nil.
func (r *receiver) wake() {
	if r != nil {
		r.worker.Wake()
	}
}

// stop ends r and returns when it has ended. It does nothing on nil.
func (r *receiver) stop() {
	if r == nil {
		return
	}
	r.worker.Stop()
	r.putBack()
}

// serve moves frames until there are none, or no buffers for the next.
func (r *receiver) serve(w *virtio.Worker) error {
	for i := 1; !w.Stopping(); i++ {
		if i%batch == 0 {
			r.q.Publish()
			r.q.Signal()
		}
		if !r.d.Link() {
			w.AwaitWake()
			return nil
		}
		// A backend may have to be asked twice for a frame that is longer than those before; but room for any frame is
		// a long list of buffers, and it would be made for each.
		if err := r.gather(w, HeaderSize+r.expect); err != nil {
			return err
		}
		if len(r.chains) == 0 {
			return nil
		}
		r.spread()
		n, err := r.backend.Receive(&r.header, r.pieces)
		switch {
		case err == io.EOF:
			w.AwaitWake()
			return nil
		case err != nil:
			return err
		case n == 0:
			w.Await(r.fd)
			return nil
		}
		r.expect = max(n, r.expect-r.expect/8)
		if n > r.room-HeaderSize {
			had := r.room
			if err := r.gather(w, HeaderSize+n); err != nil {
				return err
			}
			switch {
			case n > maxFrame || r.features&(1<<F_MRG_RXBUF) == 0:
				r.backend.Drop()
				r.d.rx.dropped.Add(1)
			case r.room == had:
				return nil
			}
			continue
		}
		var h Header
		h.Decode(&r.header)
		if !h.toDriver(r.features, n) {
			r.d.rx.dropped.Add(1)
			continue
		}
		r.throttle(w, n)
		r.deliver(h, n)
	}
	return nil
}

// throttle waits until a frame of n bytes may be delivered, or w is to stop. It is not Worker.Throttle because the frame
// is delivered either way.
func (r *receiver) throttle(w *virtio.Worker, n int) {
	wait := max(r.d.rx.byBytes.Take(uint64(n)), r.d.rx.byFrames.Take(1))
	if wait == 0 {
		return
	}
	defer r.d.rx.waits.Since(time.Now())
	// What was delivered is seen now, not after the wait.
	r.q.Publish()
	r.q.Signal()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.Stopped():
	}
}

// gather pops chains until they have room for n bytes, or there are no more. Without MRG_RXBUF a frame has one chain.
func (r *receiver) gather(w *virtio.Worker, n int) error {
	merge := r.features&(1<<F_MRG_RXBUF) != 0
	for r.room < n && (merge || len(r.chains) == 0) && !w.Stopping() {
		c, err := r.q.Pop()
		if c == nil || err != nil {
			return err
		}
		// No frame fits: it is answered, so that the driver does not wait for it. Only if it is the first: chains
		// are put back in the order in which they came.
		if len(r.chains) == 0 && c.Writable.Len() < HeaderSize+minFrame {
			r.q.Push(c, 0)
			continue
		}
		r.chains = append(r.chains, c)
		r.room += c.Writable.Len()
	}
	return nil
}

// spread splits the room of all chains into where the header goes and the rest.
func (r *receiver) spread() {
	r.head, r.pieces = r.head[:0], r.pieces[:0]
	left := HeaderSize
	for _, c := range r.chains {
		for _, p := range c.Writable.Pieces() {
			k := min(left, len(p))
			if k > 0 {
				r.head = append(r.head, p[:k])
				left -= k
			}
			if k < len(p) {
				r.pieces = append(r.pieces, p[k:])
			}
		}
	}
}

// deliver gives the driver the frame of n bytes that is in the pieces.
func (r *receiver) deliver(h Header, n int) {
	r.d.rx.passed(n)
	// All but the last buffer are filled, and they appear together (5.1.6.4.1).
	used := 0
	for left := HeaderSize + n; left > 0; used++ {
		left -= r.chains[used].Writable.Len()
	}
	h.NumBuffers = uint16(used)
	h.Encode(&r.header)
	b := r.header[:]
	for _, p := range r.head {
		b = b[copy(p, b):]
	}
	left := HeaderSize + n
	for _, c := range r.chains[:used] {
		size := c.Writable.Len()
		r.room -= size
		r.q.Add(c, min(left, size))
		left -= size
	}
	r.chains = r.chains[:copy(r.chains, r.chains[used:])]
}

// putBack returns the chains that were not needed, last first.
func (r *receiver) putBack() {
	for i := len(r.chains) - 1; i >= 0; i-- {
		r.q.Unpop(r.chains[i])
	}
	r.chains, r.room = r.chains[:0], 0
}
