package virtio

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Rate is how much a device may do: bytes, or operations. The zero value is no limit.
type Rate struct {
	// PerSecond is the rate in the long run, at least 1.
	PerSecond uint64 `json:"per_second"`
	// Interval, in milliseconds, is what PerSecond is counted in if not seconds; 0 means 1000.
	Interval uint64 `json:"interval,omitempty"`
	// Burst is how much may be done at once after a pause; 0 means as much as one tenth of a second gives.
	Burst uint64 `json:"burst,omitempty"`
	// Once is how much may be done besides, before all else and never again.
	Once uint64 `json:"once,omitempty"`
}

// Validate reports a burst, or anything else, without a rate.
func (r Rate) Validate() error {
	if r.PerSecond == 0 && r != (Rate{}) {
		return fmt.Errorf("rate: a burst of %d without a rate per second", r.Burst+r.Once)
	}
	return nil
}

// Limiter holds work back to a Rate: a token bucket that may go into debt, so that a single piece of work
// larger than the burst is late, not impossible. It may be shared by workers. A nil Limiter sets no limit.
type Limiter struct {
	rate  float64       // tokens in a nanosecond
	burst time.Duration // what a full bucket is worth
	now   func() time.Duration
	waits *Waits // nil: nobody adds them up

	mu   sync.Mutex
	once uint64 // what is left of Rate.Once
	// paid is when all that has been taken is paid for: in the future while the bucket is in debt.
	paid time.Duration
}

// maxDebt bounds how far paid goes into the future, far from where a Duration wraps.
const maxDebt = time.Duration(1 << 61)

// NewLimiter makes a full bucket, or returns nil for the zero Rate.
func NewLimiter(r Rate) *Limiter {
	if r.PerSecond == 0 {
		return nil
	}
	start := time.Now()
	interval := time.Second
	if r.Interval != 0 {
		interval = time.Duration(min(r.Interval, uint64(maxDebt/time.Millisecond))) * time.Millisecond
	}
	l := &Limiter{rate: float64(r.PerSecond) / float64(interval), once: r.Once, now: func() time.Duration { return time.Since(start) }}
	l.burst = time.Second / 10
	if r.Burst != 0 {
		l.burst = l.worth(r.Burst)
	}
	l.paid = -l.burst
	return l
}

// Note has what Throttle waits because of l added to w, and returns l, which may be nil.
func (l *Limiter) Note(w *Waits) *Limiter {
	if l != nil {
		l.waits = w
	}
	return l
}

// worth is the time in which n tokens come.
func (l *Limiter) worth(n uint64) time.Duration {
	return time.Duration(math.Min(float64(n)/l.rate, float64(maxDebt)))
}

// Take takes n tokens and returns how long to wait before doing what they are for.
func (l *Limiter) Take(n uint64) time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	free := min(n, l.once)
	l.once -= free
	if n -= free; n == 0 && free > 0 {
		return 0
	}
	now := l.now()
	l.paid = min(max(l.paid, now-l.burst)+l.worth(n), now+maxDebt)
	return max(l.paid-now, 0)
}

// Give gives n tokens back that were taken for work that was not done.
func (l *Limiter) Give(n uint64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paid -= l.worth(n)
}

// Cost is a number of tokens of one Limiter.
type Cost struct {
	Limiter *Limiter
	Tokens  uint64
}

// Throttle takes what a piece of work costs and waits until it may be done. It returns false, having taken
// nothing, when w is to stop first: the chain goes back with Unpop.
func (w *Worker) Throttle(costs ...Cost) bool {
	var wait time.Duration
	var waits *Waits
	for _, c := range costs {
		if d := c.Limiter.Take(c.Tokens); d > wait {
			wait, waits = d, c.Limiter.waits
		}
	}
	if wait == 0 {
		return true
	}
	if waits != nil {
		defer waits.Since(time.Now())
	}
	// What is done is seen now, not after the wait.
	w.q.Publish()
	w.q.Signal()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.stopping:
		for _, c := range costs {
			c.Limiter.Give(c.Tokens)
		}
		return false
	}
}
