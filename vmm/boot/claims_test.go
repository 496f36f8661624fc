package boot

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestClaims(t *testing.T) {
	var c claims
	for _, tt := range []struct {
		start, size uint64
		want        error
	}{
		{0x1000, 0x1000, nil},
		{0x3000, 0x1000, nil},
		{0x2000, 0x1000, nil}, // fits between
		{0x2fff, 1, ErrOverlap},
		{0xfff, 2, ErrOverlap},
		{0, 0x10000, ErrOverlap}, // around all
		{0x1800, 0x10, ErrOverlap},
		{0x4000, 0, nil}, // nothing
		{0x1800, 0, nil},
		{math.MaxUint64, 2, ErrNoRoom},
		{math.MaxUint64 - 1, 1, nil},
		{0x4000, math.MaxUint64 - 0x4000 - 1, nil},
	} {
		if err := c.add(tt.start, tt.size, "it"); !errors.Is(err, tt.want) {
			t.Errorf("add(%#x, %#x): %v, want %v", tt.start, tt.size, err, tt.want)
		}
	}
}

// TestClaimsProperties compares with a bitmap of 64 cells.
func TestClaimsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c claims
		var taken [64]bool
		free := func(start, size uint64) bool {
			for i := start; i < start+size; i++ {
				if taken[i] {
					return false
				}
			}
			return true
		}
		for range rapid.IntRange(0, 12).Draw(t, "claims") {
			start := rapid.Uint64Range(0, 63).Draw(t, "start")
			size := rapid.Uint64Range(0, 64-start).Draw(t, "size")
			want := free(start, size)
			if err := c.add(start, size, "it"); (err == nil) != want {
				t.Fatalf("add(%d, %d): %v, free: %v", start, size, err, want)
			}
			if want {
				for i := start; i < start+size; i++ {
					taken[i] = true
				}
			}
		}
		room := span{start: rapid.Uint64Range(0, 63).Draw(t, "from")}
		room.end = rapid.Uint64Range(0, 64).Draw(t, "to")
		size := rapid.Uint64Range(1, 64).Draw(t, "n")
		align := uint64(1) << rapid.IntRange(0, 3).Draw(t, "align")
		want, found := uint64(0), false
		for at := uint64(0); at+size <= 64; at += align {
			if at >= room.start && at+size <= room.end && free(at, size) {
				want, found = at, true
			}
		}
		if got, ok := c.top(room, size, align); ok != found || (ok && got != want) {
			t.Fatalf("top(%v, %d, %d) = %d, %v, want %d, %v in %v", room, size, align, got, ok, want, found, c)
		}
	})
}
