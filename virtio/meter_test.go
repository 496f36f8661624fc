package virtio

import (
	"testing"
	"time"
)

// TestHistogram: each piece of work is counted once, below the bound that it did not exceed.
func TestHistogram(t *testing.T) {
	var h Histogram
	last := len(LatencyBounds) - 1
	for _, d := range []time.Duration{0, LatencyBounds[0], LatencyBounds[0] + 1, LatencyBounds[last], LatencyBounds[last] + 1} {
		h.Add(d)
	}
	want := Latency{Sum: 2*LatencyBounds[0] + 1 + 2*LatencyBounds[last] + 1}
	want.Counts[0], want.Counts[1], want.Counts[last], want.Counts[last+1] = 2, 1, 1, 1
	if got := h.Latency(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := testing.AllocsPerRun(100, func() { h.Add(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
