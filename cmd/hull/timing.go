package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/cmd/internal/engine/timeline"
)

// startTimeline begins the timeline of this process with its execution and with
// now, which is the beginning of main.
func startTimeline() *timeline.Timeline {
	var line timeline.Timeline
	now := nanoseconds(unix.CLOCK_MONOTONIC)
	line.Mark(timeline.Exec, min(executed(now), now))
	line.Mark(timeline.Main, now)
	return &line
}

func nanoseconds(clock int32) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0
	}
	return t.Nano()
}

// executed estimates when this process began. The kernel tells to a clock tick
// only, which is 10 ms; but what a process has done until main is to run, so the
// CPU time that it has used is how long ago it began, within that tick.
func executed(now int64) int64 {
	began := now - nanoseconds(unix.CLOCK_PROCESS_CPUTIME_ID)
	self, err := engine.ProcessOf(os.Getpid())
	if err != nil {
		return began
	}
	// CLOCK_MONOTONIC and the time since boot differ by what the host slept.
	first := int64(self.Start)*tickLength - (nanoseconds(unix.CLOCK_BOOTTIME) - now)
	return max(first, min(began, first+tickLength))
}

// tickLength is one clock tick of /proc, in ns: USER_HZ is 100 on every Linux.
const tickLength = 10_000_000

// showTiming draws the timeline: on standard error, and into a file if to names
// one.
func (a *app) showTiming(to, title string) error {
	marks := a.line.Marks()
	if err := timeline.WriteText(a.stderr, marks, width(a.stderr), a.color(a.stderr)); err != nil {
		return fmt.Errorf("writing the timing: %w", err)
	}
	if to == timingText {
		return nil
	}
	f, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("writing the timing: %w", err)
	}
	err = timeline.WriteSVG(f, title, marks)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("writing the timing: %w", err)
	}
	return nil
}
