package blk

import (
	"sync"
	"time"

	"github.com/hullvm/hull/virtio"
)

// A write to the page cache that took longer than slowWrite was made to wait for the disk below; for as long as
// slowPause later ones are expected to be.
const (
	slowWrite = time.Millisecond
	slowPause = 100 * time.Millisecond
)

// server serves one queue. What can be done without waiting (most of what is in the host's page cache) is done at
// once by the queue's worker; the rest goes to the device's pool, and any number of requests may be there.
type server struct {
	d      *Device
	q      *virtio.Queue
	pool   *pool
	worker *virtio.Worker // for stop only: serve may run before it is set

	free   []*request // not in use
	flying int        // in the pool

	mu   sync.Mutex
	back []*request // out of the pool, to be returned to the driver
	// some gets a value when back is no longer empty.
	some chan struct{}
	// spare is the room that back will use next.
	spare []*request
}

// serve answers all requests there are.
func (s *server) serve(w *virtio.Worker) error {
	for {
		s.reap()
		if w.Stopping() {
			return nil
		}
		c, err := s.q.Pop()
		if c == nil || err != nil {
			return err
		}
		r := s.request(c)
		if !s.admit(w, r) {
			s.q.Unpop(c)
			s.release(r)
			return nil
		}
		if s.try(r) {
			s.finish(r)
			continue
		}
		s.flying++
		s.pool.submit(r)
	}
}

// request takes what a chain asks for.
func (s *server) request(c *virtio.Chain) *request {
	var r *request
	if n := len(s.free); n > 0 {
		r, s.free = s.free[n-1], s.free[:n-1]
	} else {
		r = &request{server: s}
	}
	r.began = time.Now()
	r.load(c)
	return r
}

func (s *server) release(r *request) {
	r.v.Clear()
	r.chain, r.status = nil, nil
	s.free = append(s.free, r)
}

// admit waits until the disk's limits let r pass. It returns false, as if r had never been, when the worker is to
// stop first.
func (s *server) admit(w *virtio.Worker, r *request) bool {
	bytes, ops := s.d.limiters(r)
	wait := max(bytes.Take(r.n), ops.Take(1))
	if wait == 0 {
		return true
	}
	defer s.d.waits.Since(time.Now())
	s.q.Signal() // what is done is seen now, not after the wait
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return true
		case <-s.some:
			s.reap()
			s.q.Signal()
		case <-w.Stopped():
			bytes.Give(r.n)
			ops.Give(1)
			return false
		}
	}
}

// try carries r out if that is possible without waiting for the host's storage, and reports whether it was.
func (s *server) try(r *request) bool {
	switch {
	case r.code != pending:
		return true
	case r.kind == tIn:
		return r.carryOut(NoWait)
	case r.kind == tOut && s.d.slow.Load() == 0:
		begin := time.Now()
		done := r.carryOut(NoWait)
		if time.Since(begin) > slowWrite && s.d.slow.CompareAndSwap(0, 1) {
			time.AfterFunc(slowPause, func() { s.d.slow.Store(0) })
		}
		return done
	}
	return false
}

// finish returns r to the driver.
func (s *server) finish(r *request) {
	s.d.count(r)
	s.q.Push(r.chain, r.answer())
	s.release(r)
}

// completed takes r out of the pool; it is called by the pool's goroutines.
func (s *server) completed(r *request) {
	s.mu.Lock()
	s.back = append(s.back, r)
	first := len(s.back) == 1
	s.mu.Unlock()
	if first {
		select {
		case s.some <- struct{}{}:
		default:
		}
		s.q.Kick().Notify()
	}
}

// reap returns to the driver what has come out of the pool.
func (s *server) reap() {
	if s.flying == 0 {
		return
	}
	s.mu.Lock()
	back := s.back
	s.back = s.spare[:0]
	s.mu.Unlock()
	for i, r := range back {
		s.flying--
		s.finish(r)
		back[i] = nil
	}
	s.spare = back
}

// stop ends the worker and returns when nothing is in the pool.
func (s *server) stop() {
	s.worker.Stop()
	for s.flying > 0 {
		s.reap()
		if s.flying > 0 {
			<-s.some
		}
	}
	s.q.Signal()
}
