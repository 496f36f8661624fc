package blk

import "sync"

// poolSize is how many requests of one disk wait for the host's storage at once. Each is a thread while it waits.
const poolSize = 32

// pool carries out requests that wait, on goroutines that are started when they are needed and then kept.
type pool struct {
	work chan *request
	wg   sync.WaitGroup

	mu      sync.Mutex
	started int // goroutines
	idle    int // of them wait for work
	queued  int // requests that none of them has taken yet
}

// newPool makes a pool for up to n requests at a time.
func newPool(n int) *pool { return &pool{work: make(chan *request, n)} }

// submit hands r over. It does not block.
func (p *pool) submit(r *request) {
	p.mu.Lock()
	p.queued++
	if p.queued > p.idle && p.started < poolSize {
		p.started++
		p.wg.Go(p.run)
	}
	p.mu.Unlock()
	p.work <- r
}

func (p *pool) run() {
	for {
		p.count(1, 0)
		r, ok := <-p.work
		p.count(-1, -1)
		if !ok {
			return
		}
		r.carryOut(0)
		r.server.completed(r)
	}
}

func (p *pool) count(idle, queued int) {
	p.mu.Lock()
	p.idle += idle
	p.queued += queued
	p.mu.Unlock()
}

// close ends the goroutines. Nothing is submitted any more.
func (p *pool) close() {
	close(p.work)
	p.wg.Wait()
}
