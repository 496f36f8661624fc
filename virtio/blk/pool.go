package blk

import (
	"sync"
	"sync/atomic"
)

// poolSize is how many requests of one disk wait for the host's storage at once. Each is a thread while it waits.
const poolSize = 32

// pool carries out requests that wait, on goroutines that are started when they are needed and then kept.
type pool struct {
	work    chan *request
	idle    atomic.Int32 // goroutines that wait for work
	started atomic.Int32
	wg      sync.WaitGroup
}

// newPool makes a pool for up to n requests at a time.
func newPool(n int) *pool { return &pool{work: make(chan *request, n)} }

// submit hands r over. It does not block.
func (p *pool) submit(r *request) {
	if int(p.idle.Load()) <= len(p.work) && p.started.Load() < poolSize {
		p.started.Add(1)
		p.wg.Go(p.run)
	}
	p.work <- r
}

func (p *pool) run() {
	for {
		p.idle.Add(1)
		r, ok := <-p.work
		p.idle.Add(-1)
		if !ok {
			return
		}
		r.carryOut(0)
		r.server.completed(r)
	}
}

// close ends the goroutines. Nothing is submitted any more.
func (p *pool) close() {
	close(p.work)
	p.wg.Wait()
}
