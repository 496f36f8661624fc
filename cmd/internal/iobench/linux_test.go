package main

import (
	"strings"
	"testing"
)

// A figure that the guest does not measure would be looked for in vain, minutes later.
func TestGuestMeasuresEveryRow(t *testing.T) {
	for _, r := range linuxRows() {
		if !strings.Contains(benchScript, "\nmeasure "+r.key+" ") && !strings.Contains(benchScript+"\n", "\nstream "+r.key) {
			t.Errorf("bench.sh has nothing for %q", r.name)
		}
	}
}
