package virtio

import "sync/atomic"

// Worker serves one queue on a goroutine of its own, which sleeps on the queue's doorbell while there is nothing
// to do.
type Worker struct {
	q     *Queue
	irq   Interrupter
	serve func(*Worker) error
	stop  atomic.Bool

	stopping chan struct{} // closed by the first Stop
	done     chan struct{}
}

// StartWorker starts a worker for q. serve is called at once and then after each kick. It should take chains off
// the queue until Pop returns nil, look at Stopping between two of them, and leave nothing in flight. It need
// not touch the notification flags nor Signal at the end. An error ends the service and is reported to the driver
// with NeedsReset.
func StartWorker(q *Queue, irq Interrupter, serve func(w *Worker) error) *Worker {
	w := &Worker{q: q, irq: irq, serve: serve, stopping: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Queue returns the queue that w serves.
func (w *Worker) Queue() *Queue { return w.q }

// Stopping reports whether Stop has been called: serve should return soon.
func (w *Worker) Stopping() bool { return w.stop.Load() }

// Stopped returns a channel that is closed when Stop is called.
func (w *Worker) Stopped() <-chan struct{} { return w.stopping }

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

func (w *Worker) run() {
	defer close(w.done)
	for !w.stop.Load() {
		if err := w.drain(); err != nil {
			w.irq.NeedsReset(err)
			return
		}
		if w.stop.Load() || w.q.kick.Wait() != nil {
			return
		}
	}
}

// drain serves the queue until it is empty and the driver is going to notify.
func (w *Worker) drain() error {
	for {
		w.q.DisableNotify()
		err := w.serve(w)
		w.q.Signal()
		if err != nil {
			return err
		}
		if w.stop.Load() || !w.q.EnableNotify() {
			return w.q.Err()
		}
	}
}
