package virtio

import (
	"runtime"
	"time"
)

// Turns is for a goroutine that stays on its thread for long, making one system call after the other.
//
// The Go scheduler gives a goroutine 10 ms, counted from when it was last chosen to run. One that is found in a system call
// after that loses its place to others, gets it back when the call returns, and still has not been chosen: it loses it
// again 20 µs later, and for as long as it goes on the runtime's monitor looks that often. This costs up to a fifth
// of a CPU. A goroutine that lets itself be chosen anew in time is left alone (docs/decisions/0012).
type Turns struct{ last time.Time }

// turn is how long a goroutine goes on before it lets itself be chosen anew: less than 10 ms, by as much as a few system
// calls may take.
const turn = 5 * time.Millisecond

// Take is called before a system call. What it costs when nothing is due is a look at the clock.
func (t *Turns) Take() {
	if time.Since(t.last) > turn {
		runtime.Gosched()
		t.last = time.Now()
	}
}
