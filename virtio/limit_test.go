package virtio

import (
	"math"
	"testing"
	"time"
)

// clocked returns a limiter whose time the test sets.
func clocked(r Rate) (l *Limiter, now *time.Duration) {
	l, now = NewLimiter(r), new(time.Duration)
	l.now = func() time.Duration { return *now }
	return l, now
}

func TestLimiterKeepsTheRate(t *testing.T) {
	l, now := clocked(Rate{PerSecond: 1000, Burst: 50})
	for range 50 {
		if wait := l.Take(1); wait != 0 {
			t.Fatalf("waits %v within the burst", wait)
		}
	}
	done := 50
	for *now < 10*time.Second {
		*now += l.Take(1)
		done++
	}
	if want := 10*1000 + 50; done < want-1 || done > want+1 {
		t.Errorf("%d tokens in 10 s at 1000 a second and a burst of 50, want %d", done, want)
	}
	*now += time.Hour // no more than the burst is saved up
	if l.Take(50) != 0 {
		t.Error("no burst after a pause")
	}
	if l.Take(10) != 10*time.Millisecond {
		t.Error("more than the burst after a pause")
	}
}

func TestLimiterAllowsMoreThanTheBurst(t *testing.T) {
	l, _ := clocked(Rate{PerSecond: 100, Burst: 10})
	if wait := l.Take(60); wait != 500*time.Millisecond {
		t.Errorf("waits %v, want 500ms", wait)
	}
	l.Give(60)
	if wait := l.Take(10); wait != 0 {
		t.Errorf("after all was given back: waits %v", wait)
	}
}

func TestLimiterDoesNotWrap(t *testing.T) {
	l, now := clocked(Rate{PerSecond: 1, Burst: math.MaxUint64})
	for range 100 {
		if wait := l.Take(math.MaxUint64); wait < 0 || wait > maxDebt {
			t.Fatalf("waits %v", wait)
		}
		*now += time.Hour
	}
}

func TestNoLimiter(t *testing.T) {
	l := NewLimiter(Rate{})
	if l != nil || l.Take(math.MaxUint64) != 0 {
		t.Error("no rate is a limit")
	}
	l.Give(1)
	if (Rate{Burst: 1}).Validate() == nil || (Rate{}).Validate() != nil {
		t.Error("a burst needs a rate, and no rate is no limit")
	}
}

func TestThrottleEndsWithTheWorker(t *testing.T) {
	kick, err := NewKick()
	if err != nil {
		t.Fatal(err)
	}
	defer kick.Close()
	l, _ := clocked(Rate{PerSecond: 1, Burst: 1})
	waiting, answer := make(chan struct{}), make(chan bool, 1)
	w := StartWorker(&Queue{kick: kick, events: true}, nil, func(w *Worker) error {
		l.Take(1)
		close(waiting)
		answer <- w.Throttle(Cost{l, 3600})
		return nil
	})
	<-waiting
	w.Stop()
	if <-answer {
		t.Error("an hour of debt was let through")
	}
	if wait := l.Take(1).Round(time.Microsecond); wait != time.Second {
		t.Errorf("the tokens were not given back: the next one waits %v", wait)
	}
}

func TestThrottleNoAllocation(t *testing.T) {
	l := NewLimiter(Rate{PerSecond: 1 << 40})
	w := new(Worker)
	if n := testing.AllocsPerRun(100, func() { w.Throttle(Cost{l, 1}, Cost{nil, 1}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestLimiterOnce: what may be done once comes first, and does not come again.
func TestLimiterOnce(t *testing.T) {
	l, now := clocked(Rate{PerSecond: 100, Burst: 10, Once: 30})
	for i, c := range []struct {
		n    uint64
		want time.Duration
	}{{25, 0}, {10, 0}, {5, 0}, {1, 10 * time.Millisecond}} {
		if wait := l.Take(c.n); wait != c.want {
			t.Errorf("take %d: waits %v, want %v", i, wait, c.want)
		}
	}
	*now += time.Hour
	if l.Take(10) != 0 || l.Take(10) != 100*time.Millisecond {
		t.Error("it came again")
	}
}

// TestLimiterInterval: rates need not be of whole numbers a second.
func TestLimiterInterval(t *testing.T) {
	for _, c := range []struct {
		r    Rate
		want time.Duration
	}{
		{Rate{PerSecond: 2, Interval: 60_000, Burst: 1}, 30 * time.Second},
		{Rate{PerSecond: 1000, Interval: 100, Burst: 1}, 100 * time.Microsecond},
		{Rate{PerSecond: 1, Interval: math.MaxUint64, Burst: 1}, maxDebt},
	} {
		l, _ := clocked(c.r)
		l.Take(1)
		if wait := l.Take(1); wait > c.want || wait < c.want-c.want/100 {
			t.Errorf("%+v: waits %v, want %v", c.r, wait, c.want)
		}
	}
	for _, r := range []Rate{{Burst: 1}, {Once: 1}, {Interval: 1}} {
		if r.Validate() == nil {
			t.Errorf("%+v: no error", r)
		}
	}
}
