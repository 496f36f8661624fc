package vmm

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm/testguest"
)

// apart is how much more a paused machine's clock shows than its counter, in nanoseconds.
func apart(t *testing.T, m *Machine, khz int) int64 {
	t.Helper()
	var tsc uint64
	if err := m.cpus[0].Do(func(v *kvm.VCPU) (err error) { tsc, err = readTSC(v); return err }); err != nil {
		t.Fatal(err)
	}
	clock, since, err := m.clockSince(tsc, khz)
	if err != nil {
		t.Fatal(err)
	}
	return int64(clock.Clock) - int64(ticksToNanoseconds(tsc, khz)+since)
}

// TestClockStaysInStep: the time that passes between saving the counter and the clock, and between restoring them, is none to
// the guest. A host that is busy at the wrong moment may spoil one restore, not all.
func TestClockStaysInStep(t *testing.T) {
	dir, cfg := saveOne(t)
	cfg.Restore = files(dir)
	best := int64(math.MaxInt64)
	for range 20 {
		m, _, _ := bareConfig(t, testguest.State, cfg)
		khz := m.saved.TSCKHz
		if khz == 0 {
			t.Skip("this host's KVM does not know how fast a counter runs")
		}
		before := apart(t, m, khz)
		next := filepath.Join(t.TempDir(), "snapshot")
		start(t, m)
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := m.Snapshot(next, SnapshotOptions{}); err != nil {
			t.Fatal(err)
		}
		again := cfg
		again.Restore = files(next)
		restored, _, _ := bareConfig(t, testguest.State, again)
		moved := apart(t, restored, khz) - before
		t.Logf("%d ns", moved)
		best = min(best, max(moved, -moved))
	}
	if best > 2*clockWindow {
		t.Errorf("the clock is off its counter by %d ns at the best", best)
	}
}

// TestCountersStayTogether: the vCPUs' counters are saved and restored one after the other, and show the same time for all that.
func TestCountersStayTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snapshot")
	cfg := Config{CPUs: 4, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: stateDisk(t)}}}}
	m, _, _ := bareConfig(t, testguest.State, cfg)
	start(t, m)
	runUntil(t, m, func(n counts) bool { return n.requests > 0 })
	if err := m.Snapshot(dir, SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	m.Close()
	cfg.Memory, cfg.Platform, cfg.Restore = 16<<20, PlatformNone, files(dir)
	m, _, _ = bareConfig(t, testguest.State, cfg)
	for i := 1; i < len(m.cpus); i++ {
		best, off := uint64(math.MaxUint64), int64(0)
		for range 50 {
			var at [3]uint64
			for j, cpu := range []int{0, i, 0} {
				if err := m.cpus[cpu].Do(func(v *kvm.VCPU) (err error) { at[j], err = readTSC(v); return err }); err != nil {
					t.Fatal(err)
				}
			}
			if window := at[2] - at[0]; window < best {
				best, off = window, int64(at[1]-at[0]-window/2)
			}
		}
		if uint64(max(off, -off)) > best/2 {
			t.Errorf("vCPU %d is %d ticks off the first, give or take %d", i, off, best/2)
		}
	}
}
