package virtio

import "time"

// NewQueue gives tests of this package's API a queue without a transport.
var NewQueue = newQueue

// MaxPieces is the limit on the descriptors of a chain.
const MaxPieces = maxPieces

// What a Worker's time to look for more is made of.
const (
	LookMin = lookMin
	LookMax = lookMax
)

// StartLookingWorker is StartWorker for a worker that looks that long before it sleeps.
func StartLookingWorker(q *Queue, irq Interrupter, look time.Duration, serve func(w *Worker) error) *Worker {
	w := newWorker(q, irq, serve)
	w.look = look
	go w.run()
	return w
}

// Slept is how long a worker looks after it has looked for look and there has been nothing to do for d.
func Slept(look, d time.Duration) time.Duration {
	w := Worker{look: look}
	w.slept(d)
	return w.look
}
