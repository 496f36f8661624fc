package virtio

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Worker serves one queue on a goroutine of its own, which sleeps on the queue's doorbell while there is nothing
// to do.
//
// A driver that waits for one answer before it asks again finds the worker asleep each time: a notification (an exit of
// the guest) and the wake-up of an idle CPU for each request cost more than many a request. So a worker looks at
// the queue for a while before it sleeps, if requests have lately come in less than that: as long as it does, the
// driver need not notify. Requests that come more seldom are not waited for.
//
// A queue whose buffers are for what comes from outside is full while nothing comes: its worker waits for that (Await), on
// the same goroutine and in the same way.
type Worker struct {
	q     *Queue
	irq   Interrupter
	serve func(*Worker) error
	stop  atomic.Bool

	source int           // what there will be more of: chains, nothing, or what a descriptor brings
	idle   time.Time     // since when there has been nothing to do
	look   time.Duration // how long to look for more before sleeping
	turns  Turns
	asked  uint // how often serve has asked whether to stop

	stopping chan struct{} // closed by the first Stop
	done     chan struct{}
}

// StartWorker starts a worker for q. serve is called at once and then after each kick. It should take chains off
// the queue until Pop returns nil, look at Stopping between two of them, and leave nothing in flight. It need
// not touch the notification flags, nor Publish or Signal at the end. An error ends the service and is reported to the driver
// with NeedsReset.
func StartWorker(q *Queue, irq Interrupter, serve func(w *Worker) error) *Worker {
	w := newWorker(q, irq, serve)
	go w.run()
	return w
}

func newWorker(q *Queue, irq Interrupter, serve func(w *Worker) error) *Worker {
	return &Worker{q: q, irq: irq, serve: serve, stopping: make(chan struct{}), done: make(chan struct{})}
}

// Queue returns the queue that w serves.
func (w *Worker) Queue() *Queue { return w.q }

// turnsEvery is after how many chains a worker that has no rest looks whether its turn is over: seldom enough to cost
// nothing, and often enough for chains that take half a millisecond.
const turnsEvery = 16

// Stopping reports whether Stop has been called: serve should return soon. It is for serve.
func (w *Worker) Stopping() bool {
	if w.asked++; w.asked%turnsEvery == 0 {
		w.turns.Take()
	}
	return w.stop.Load()
}

// Stopped returns a channel that is closed when Stop is called.
func (w *Worker) Stopped() <-chan struct{} { return w.stopping }

// What a worker waits for, if not for a descriptor.
const (
	chains  = -1
	nothing = -2
)

// Await is for a serve that returns though Pop would not return nil. This once w does not wait for the driver but for fd to
// be readable, and calls serve again then or after a kick. fd must stay open until then, or until w has stopped.
func (w *Worker) Await(fd int) { w.source = fd }

// AwaitWake is Await for a kick only.
func (w *Worker) AwaitWake() { w.source = nothing }

// Wake makes w call serve once more, as if the driver had kicked.
func (w *Worker) Wake() { w.q.kick.Notify() }

// Stop ends w and returns when its goroutine has ended. It may be called more than once, and on nil.
func (w *Worker) Stop() {
	if w == nil {
		return
	}
	if w.stop.CompareAndSwap(false, true) {
		close(w.stopping)
	}
	w.q.kick.Notify()
	<-w.done
}

// What Worker.look may be, but for 0. The longest is what a wake-up takes where that is slow; looking is the cheaper way
// for requests that come within it.
const (
	lookMin = 4 * time.Microsecond
	lookMax = 32 * time.Microsecond
)

func (w *Worker) run() {
	defer close(w.done)
	for !w.stop.Load() {
		if err := w.drain(); err != nil {
			w.irq.NeedsReset(err)
			return
		}
		if w.stop.Load() || w.sleep() != nil {
			return
		}
		w.slept(time.Since(w.idle))
	}
}

// sleep waits for what w waits for.
func (w *Worker) sleep() error {
	if w.source >= 0 {
		return w.q.kick.WaitOr(w.source)
	}
	return w.q.kick.Wait()
}

// slept decides how long to look next time, after there has been nothing to do for d. A request that came a little too
// late is worth looking longer for; one that nobody would have waited for is not. With one CPU, looking would keep
// the driver from asking.
func (w *Worker) slept(d time.Duration) {
	if d > 2*lookMax || runtime.NumCPU() == 1 {
		w.look = 0
		return
	}
	w.look = min(max(2*w.look, lookMin), lookMax)
}

// more looks for a while whether there is more to do. The driver has not been asked to notify. Whoever else rings ends
// that, and is heard when the worker goes to sleep.
func (w *Worker) more() bool {
	w.turns.Take()
	w.idle = time.Now()
	for w.look > 0 && w.source != nothing && !w.q.kick.rung.Load() {
		if w.source == chains && w.q.more() || w.source >= 0 && readable(w.source) {
			return true
		}
		pause()
		if time.Since(w.idle) > w.look {
			break
		}
	}
	return false
}

// drain serves the queue until there is nothing to do and whoever brings more is going to tell.
func (w *Worker) drain() error {
	for {
		w.q.DisableNotify()
		w.source = chains
		err := w.serve(w)
		w.q.Publish()
		w.q.Signal()
		if err != nil {
			return err
		}
		if w.stop.Load() || !w.more() && (w.source != chains || !w.q.EnableNotify()) {
			return w.q.Err()
		}
	}
}
