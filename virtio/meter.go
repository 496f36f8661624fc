package virtio

import (
	"slices"
	"sync/atomic"
	"time"
)

// LatencyBounds are the upper bounds of a Histogram's counts but the last, which has none.
var LatencyBounds = [...]time.Duration{
	16 * time.Microsecond, 64 * time.Microsecond, 256 * time.Microsecond, time.Millisecond, 4 * time.Millisecond,
	16 * time.Millisecond, 64 * time.Millisecond, 256 * time.Millisecond, time.Second, 4 * time.Second,
}

// Latency is what a Histogram has counted.
type Latency struct {
	// Counts are of pieces of work that took up to the bound of the same index in LatencyBounds and longer than the one before; the
	// last is of those that took longer than all.
	Counts [len(LatencyBounds) + 1]uint64 `json:"counts"`
	Sum    time.Duration                  `json:"sum"` // of all of them
}

// Histogram counts how long pieces of work take. It may be used by any number of goroutines, and takes no lock.
type Histogram struct {
	counts [len(LatencyBounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

// Add counts a piece of work.
func (h *Histogram) Add(took time.Duration) {
	i, _ := slices.BinarySearch(LatencyBounds[:], took)
	h.counts[i].Add(1)
	h.sum.Add(int64(took))
}

// Latency returns what was counted so far.
func (h *Histogram) Latency() (l Latency) {
	for i := range h.counts {
		l.Counts[i] = h.counts[i].Load()
	}
	l.Sum = time.Duration(h.sum.Load())
	return l
}

// Waits adds up how long limits have kept work waiting. It may be used by any number of goroutines.
type Waits struct{ sum atomic.Int64 }

// Since adds the time that has passed since work began to wait.
func (w *Waits) Since(begin time.Time) { w.sum.Add(int64(time.Since(begin))) }

// Total is the sum so far.
func (w *Waits) Total() time.Duration { return time.Duration(w.sum.Load()) }
