package boot

import (
	"fmt"
	"slices"
)

// span is the guest physical addresses from start up to, not including, end.
type span struct{ start, end uint64 }

func (s span) size() uint64 { return s.end - s.start }

func (s span) contains(addr uint64) bool { return s.start <= addr && addr < s.end }

// claim is a span and what it is for, in words for an error message.
type claim struct {
	span
	what string
}

// claims is what is taken, sorted by address and without overlap.
type claims []claim

// add takes size bytes from start. Zero bytes take nothing.
func (c *claims) add(start, size uint64, what string) error {
	end := start + size
	if end < start {
		return fmt.Errorf("%s at %#x: %w: its %#x bytes wrap around", what, start, ErrNoRoom, size)
	}
	if size == 0 {
		return nil
	}
	// The first claim that ends after start is the only one that can be in the
	// way, or the one to be inserted before.
	i, _ := slices.BinarySearchFunc(*c, start, func(e claim, at uint64) int {
		if e.end <= at {
			return -1
		}
		return 1
	})
	if i < len(*c) && (*c)[i].start < end {
		other := (*c)[i]
		return fmt.Errorf("%s (%#x to %#x) and %s (%#x to %#x): %w", what, start, end-1, other.what, other.start, other.end-1, ErrOverlap)
	}
	*c = slices.Insert(*c, i, claim{span{start, end}, what})
	return nil
}

// top returns the highest start for size bytes that are free, whole within
// room, and aligned. align is a power of two.
func (c claims) top(room span, size, align uint64) (uint64, bool) {
	end := room.end
	for i := len(c); ; i-- {
		// Try the free space between claim i-1 and end.
		low := room.start
		if i > 0 {
			low = max(low, c[i-1].end)
		}
		if low <= end && size <= end-low {
			if start := (end - size) &^ (align - 1); start >= low {
				return start, true
			}
		}
		if i == 0 || c[i-1].start <= room.start {
			return 0, false
		}
		end = min(end, c[i-1].start)
	}
}
