package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
	"github.com/hullvm/hull/vmm/testguest"
)

// fastest is the shortest of n runs of a program: noise only ever adds.
func fastest(t *testing.T, n int, programs ...string) []time.Duration {
	t.Helper()
	best := make([]time.Duration, len(programs))
	for range n {
		for i, p := range programs {
			begin := time.Now()
			_ = exec.Command(p).Run() // hull-vmm complains that it was started by hand
			if d := time.Since(begin); best[i] == 0 || d < best[i] {
				best[i] = d
			}
		}
	}
	return best
}

// TestStartBudget holds the way to main to 2 ms more than that of an empty Go
// program, in the same run.
func TestStartBudget(t *testing.T) {
	dir := t.TempDir()
	source, empty := filepath.Join(dir, "main.go"), filepath.Join(dir, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", empty, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	best := fastest(t, 40, empty, program)
	t.Logf("empty program %v, hull-vmm %v", best[0], best[1])
	if more := best[1] - best[0]; more > 2*time.Millisecond {
		t.Errorf("hull-vmm takes %v more than an empty program, at most 2 ms are allowed", more)
	}
}

// maxPrivate is how much memory of its own an idle VM process may have beyond
// what its guest touched, in bytes.
const maxPrivate = 8 << 20

func TestIdleMemoryBudget(t *testing.T) {
	needKVM(t)
	const guestMemory = 128 << 20
	p := launch(t, config(t, testguest.Idle, func(c *vmm.Config) { c.Memory = guestMemory }))
	p.until(t, "stage", vmm.StageEntry)
	private, err := privateBytes(p.cmd.Process.Pid, guestMemory)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KiB private", private>>10)
	if private > maxPrivate {
		t.Errorf("an idle VM process has %d KiB of its own, at most %d are allowed", private>>10, maxPrivate>>10)
	}
}

// privateBytes adds up the private memory of a process, but for mappings at
// least as large as the guest's memory.
func privateBytes(pid, guest int) (sum int, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		var kib int
		if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%d kB", &kib); err != nil {
			continue
		}
		switch name {
		case "Size":
			size = kib << 10
		case "Private_Clean", "Private_Dirty":
			if size < guest/2 {
				sum += kib << 10
			}
		}
	}
	return sum, nil
}

// BenchmarkJail shows what it costs a VM process to confine itself: from its start to its guest's first exit, and memory of
// its own then.
func BenchmarkJail(b *testing.B) {
	needKVM(b)
	const guestMemory = 128 << 20
	unusable := jail.Host().Users
	for _, how := range []struct {
		name, mode string
		user       uint32
	}{{"open", jail.Off, 0}, {"confined", "", 0}, {"user of its own", "", jail.FirstUser}} {
		b.Run(how.name, func(b *testing.B) {
			if how.user != 0 && unusable != nil {
				b.Skip(unusable)
			}
			b.Setenv(jail.Env, how.mode)
			fastest, least := time.Duration(math.MaxInt64), math.MaxInt
			for range b.N {
				began := vmm.Monotonic()
				p := launch(b, config(b, testguest.Idle, func(c *vmm.Config) { c.Memory, c.User = guestMemory, how.user }))
				took := time.Duration(p.until(b, "stage", vmm.StageEntry).Time - began)
				private, err := privateBytes(p.cmd.Process.Pid, guestMemory)
				if err != nil {
					b.Fatal(err)
				}
				fastest, least = min(fastest, took), min(least, private)
				p.cmd.Process.Kill()
				p.cmd.Wait()
			}
			b.ReportMetric(float64(fastest.Microseconds()), "µs/start")
			b.ReportMetric(float64(least>>10), "KiB")
		})
	}
}
