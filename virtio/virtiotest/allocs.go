package virtiotest

import "testing"

// AllocsPerRun is testing.AllocsPerRun for code whose package has goroutines of its own: these may allocate meanwhile, but
// not each time. What f allocates is in every one of several measurements, so the least is taken.
func AllocsPerRun(runs int, f func()) float64 {
	const measurements = 5
	least := testing.AllocsPerRun(runs, f)
	for i := 1; i < measurements && least > 0; i++ {
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	return least
}
