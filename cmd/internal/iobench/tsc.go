package main

import "time"

// rdtsc reads the processor's time stamp counter, which the guest reads too: a
// clock that costs it no exit.
func rdtsc() uint64

// clock knows how fast the counter runs, from what it and CLOCK_MONOTONIC read
// at two moments.
type clock struct {
	began time.Time
	ticks uint64
}

func newClock() *clock { return &clock{began: time.Now(), ticks: rdtsc()} }

// duration is how long ticks of the counter take, by all that has passed since
// newClock.
func (c *clock) duration(ticks float64) time.Duration {
	return time.Duration(ticks * float64(time.Since(c.began)) / float64(rdtsc()-c.ticks))
}
