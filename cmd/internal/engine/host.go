package engine

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HostMemory is how much memory this host has, in bytes.
func HostMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("asking the host for its memory: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}

// monotonic is CLOCK_MONOTONIC in ns: the clock of every event of a VM process.
func monotonic() int64 { return clock(unix.CLOCK_MONOTONIC) }

func clock(id int32) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0 // the clocks asked for here have existed since Linux 2.6.39
	}
	return t.Nano()
}
