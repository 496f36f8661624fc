package vmm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/vmm/snapshot"
	"github.com/hullvm/hull/vmm/testguest"
)

// stateDisk makes the disk that the guest State reads.
func stateDisk(t testing.TB) string {
	t.Helper()
	b := make([]byte, testguest.StateSectors*512)
	for i := range testguest.StateSectors {
		word := uint32(testguest.StateSalt + i)
		binary.LittleEndian.PutUint32(b[i*512:], word)
		binary.LittleEndian.PutUint32(b[i*512+508:], word)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// counts are what the guest State has counted.
type counts struct{ loops, ticks, requests, done, failed uint64 }

// stateCounts reads them from a machine that is paused.
func stateCounts(t testing.TB, m *Machine) counts {
	t.Helper()
	b, err := m.mem.Slice(testguest.StateCounts, 48)
	if err != nil {
		t.Fatal(err)
	}
	n := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	return counts{n(0), n(1), n(2), n(4), n(5)}
}

// files of the snapshot in dir, for Config.Restore.
func files(dir string) *Snapshot {
	return &Snapshot{
		State:  File{Path: filepath.Join(dir, snapshot.StateFile)},
		Memory: File{Path: filepath.Join(dir, snapshot.MemoryFile)},
	}
}

// TestCyclesOfSnapshotAndRestore has a guest that checks all of its state go
// through many machines, stopped at moments it does not know.
func TestCyclesOfSnapshotAndRestore(t *testing.T) {
	cycles := 1000
	if testing.Short() {
		cycles = 60
	}
	dir, cfg := filepath.Join(t.TempDir(), "snapshot"), Config{CPUs: 1, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: stateDisk(t)}}}}
	m, port, _ := bareConfig(t, testguest.State, cfg)
	var last counts
	for i := range cycles {
		start(t, m)
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		if err := m.Pause(); err != nil {
			t.Fatalf("cycle %d: %v", i, err)
		}
		now := stateCounts(t, m)
		if now.failed != 0 || now.loops < last.loops || now.ticks < last.ticks || now.requests < last.requests {
			t.Fatalf("cycle %d: the guest counts %+v, before it were %+v, and found wrong %#x", i, now, last, now.failed)
		}
		last = now
		select {
		case a := <-port.accesses:
			t.Fatalf("cycle %d: the guest reports %#x", i, a.value)
		default:
		}
		if err := m.Snapshot(dir, SnapshotOptions{}); err != nil {
			t.Fatalf("cycle %d: %v", i, err)
		}
		if err := m.Close(); err != nil {
			t.Fatalf("cycle %d: %v", i, err)
		}
		cfg.Restore = files(dir)
		m, port, _ = bareConfig(t, testguest.State, cfg)
	}
	t.Logf("after %d cycles: %+v", cycles, last)
	if last.loops == 0 || last.ticks == 0 || last.requests < 2 {
		t.Errorf("the guest did not get on: %+v", last)
	}
}

// runUntil pauses a machine that runs the guest State once it has counted enough.
func runUntil(t testing.TB, m *Machine, enough func(counts) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		n := stateCounts(t, m)
		switch {
		case n.failed != 0:
			t.Fatalf("the guest found wrong %#x", n.failed)
		case enough(n):
			return
		case time.Now().After(deadline):
			t.Fatalf("the guest does not get on: %+v", n)
		}
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// saveOne makes a snapshot of a machine that runs the guest State.
func saveOne(t testing.TB) (dir string, cfg Config) {
	t.Helper()
	dir, cfg = filepath.Join(t.TempDir(), "snapshot"), Config{CPUs: 1, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: stateDisk(t)}}}}
	m, _, _ := bareConfig(t, testguest.State, cfg)
	start(t, m)
	runUntil(t, m, func(n counts) bool { return n.requests > 1 && n.ticks > 0 })
	if err := m.Snapshot(dir, SnapshotOptions{Sync: true}); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Memory, cfg.Platform, cfg.Restore = 16<<20, PlatformNone, files(dir)
	return dir, cfg
}

// refused restores a machine, which must fail with an error that wraps one of these.
func refused(t *testing.T, what string, cfg Config, wants ...error) {
	t.Helper()
	m, err := New(cfg)
	if err == nil {
		m.Close()
		t.Fatalf("%s: was restored", what)
	}
	for _, want := range wants {
		if errors.Is(err, want) {
			return
		}
	}
	t.Errorf("%s: %v, want one of %v", what, err, wants)
}

func TestDamagedSnapshotsAreRefused(t *testing.T) {
	dir, cfg := saveOne(t)
	statePath, memoryPath := filepath.Join(dir, snapshot.StateFile), filepath.Join(dir, snapshot.MemoryFile)
	state, err := os.ReadFile(statePath)
	if err != nil {
		t.Fatal(err)
	}
	with := func(b []byte) Config {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := cfg
		c.Restore = &Snapshot{State: File{Path: path}, Memory: File{Path: memoryPath}}
		return c
	}
	t.Run("every byte", func(t *testing.T) {
		for i := range state {
			b := slices.Clone(state)
			b[i] ^= 1 << (i % 8)
			if _, err := snapshot.Read(bytes.NewReader(b)); err == nil {
				t.Fatalf("a state with bit %d of byte %d turned over is read", i%8, i)
			}
		}
		for _, i := range []int{0, 8, 12, 16, 24, len(state) / 2, len(state) - 1} {
			b := slices.Clone(state)
			b[i] ^= 0x80
			refused(t, "a bit turned over", with(b), snapshot.ErrFormat, snapshot.ErrVersion)
		}
	})
	for _, n := range []int{0, 1, 24, len(state) / 2, len(state) - 1} {
		refused(t, "a state that was cut", with(state[:n]), snapshot.ErrFormat)
	}
	refused(t, "bytes behind the state", with(append(slices.Clone(state), 0)), snapshot.ErrFormat)

	other, otherCfg := saveOne(t)
	mixed := cfg
	mixed.Restore = &Snapshot{State: cfg.Restore.State, Memory: otherCfg.Restore.Memory}
	refused(t, "another snapshot's memory", mixed, snapshot.ErrFormat)
	for _, size := range []int64{0, 4096, 16 << 20, 16<<20 + 8192} {
		if err := os.Truncate(filepath.Join(other, snapshot.MemoryFile), size); err != nil {
			t.Fatal(err)
		}
		refused(t, "memory of another size", otherCfg, snapshot.ErrFormat)
	}

	for what, change := range map[string]func(*Config){
		"more vCPUs":      func(c *Config) { c.CPUs = 2 },
		"more memory":     func(c *Config) { c.Memory *= 2 },
		"another machine": func(c *Config) { c.PIT = true },
		"no disk":         func(c *Config) { c.Disks = nil },
		"another device": func(c *Config) {
			c.Disks = append(slices.Clone(c.Disks), Disk{ID: "e", ReadOnly: true, File: c.Disks[0].File})
		},
	} {
		c := cfg
		change(&c)
		refused(t, what, c, ErrMismatch)
	}
	c := cfg
	c.Disks, c.RNG = nil, true
	refused(t, "a device of another kind", c, virtio.ErrState)
}

// TestStatesThatMakeNoSense has well-formed files with other contents: each of
// them is refused, by hull or by KVM.
func TestStatesThatMakeNoSense(t *testing.T) {
	dir, cfg := saveOne(t)
	for what, change := range map[string]func(*snapshot.State){
		"no registers":        func(s *snapshot.State) { s.CPUs[0].Regs = nil },
		"short segments":      func(s *snapshot.State) { s.CPUs[0].Sregs = s.CPUs[0].Sregs[1:] },
		"impossible mode":     func(s *snapshot.State) { binary.LittleEndian.PutUint64(s.CPUs[0].Sregs[sregsCR4:], ^uint64(0)) },
		"short FPU":           func(s *snapshot.State) { s.CPUs[0].XSave = s.CPUs[0].XSave[:512] },
		"an MSR there is not": func(s *snapshot.State) { s.CPUs[0].MSRs = []snapshot.MSR{{Index: 0xdeadbeef, Data: 1}} },
		"CPUID cut":           func(s *snapshot.State) { s.CPUs[0].CPUID = s.CPUs[0].CPUID[:39] },
		"too much CPUID":      func(s *snapshot.State) { s.CPUs[0].CPUID = make([]byte, 40*300) },
		"no interrupt chip":   func(s *snapshot.State) { s.Chips.IOAPIC = nil },
		"no clock":            func(s *snapshot.State) { s.Chips.Clock = []byte{1} },
		"a differential one":  func(s *snapshot.State) { s.Base = snapshot.ID{1} },
		"a strange extent":    func(s *snapshot.State) { s.Memory.Extents = []snapshot.Extent{{Offset: 1 << 40, Length: 4096}} },
		"overlapping extents": func(s *snapshot.State) {
			s.Memory.Extents = []snapshot.Extent{{Offset: 0, Length: 8192}, {Offset: 4096, Length: 4096}}
		},
		"a queue out of RAM":   func(s *snapshot.State) { editQueue(t, s, func(q *virtio.QueueState) { q.Desc = 1 << 40 }) },
		"positions that lie":   func(s *snapshot.State) { editQueue(t, s, func(q *virtio.QueueState) { q.NextUsed++ }) },
		"a queue of odd size":  func(s *snapshot.State) { editQueue(t, s, func(q *virtio.QueueState) { q.Size = 3 }) },
		"a transport of noise": func(s *snapshot.State) { s.Devices[0].State = []byte(`{"queues":7}`) },
		"state of its own":     func(s *snapshot.State) { editState(t, s, func(d *virtio.State) { d.Device = make([]byte, 1<<16) }) },
	} {
		t.Run(what, func(t *testing.T) {
			f, err := os.Open(filepath.Join(dir, snapshot.StateFile))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s, err := snapshot.Read(f)
			if err != nil {
				t.Fatal(err)
			}
			change(s)
			path := filepath.Join(t.TempDir(), "state")
			out, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(snapshot.Write(out, s), out.Close()); err != nil {
				t.Fatal(err)
			}
			c := cfg
			c.Restore = &Snapshot{State: File{Path: path}, Memory: cfg.Restore.Memory}
			if m, err := New(c); err == nil {
				m.Close()
				t.Error("was restored")
			}
		})
	}
}

// TestAnotherProcessor has a snapshot of a machine whose processor could do more than this host's: what is missing is named.
func TestAnotherProcessor(t *testing.T) {
	dir, cfg := saveOne(t)
	f, err := os.Open(filepath.Join(dir, snapshot.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := snapshot.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := cpuidLeaves(s.CPUs[0].CPUID)
	if err != nil {
		t.Fatal(err)
	}
	s.CPUs[0].CPUID = nil
	for _, e := range leaves {
		if e.Function == 0x80000001 {
			e.ECX |= 1<<11 | 1<<16 // XOP and FMA4, which no processor has had since 2017
		}
		s.CPUs[0].CPUID = append(s.CPUs[0].CPUID, kvm.Bytes(&e)...)
	}
	path := filepath.Join(t.TempDir(), "state")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snapshot.Write(out, s), out.Close()); err != nil {
		t.Fatal(err)
	}
	cfg.Restore = &Snapshot{State: File{Path: path}, Memory: cfg.Restore.Memory}
	m, err := New(cfg)
	if err == nil {
		m.Close()
		t.Fatal("was restored")
	}
	if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "its processor lacks xop (CPUID leaf 0x80000001.0 ECX bit 11), fma4 (") {
		t.Errorf("%v: does not name what is missing", err)
	}
}

// sregsCR4 is where struct kvm_sregs has CR4: behind 8 segments, 2 tables, CR0, CR2 and CR3.
const sregsCR4 = 8*24 + 2*16 + 3*8

// editQueue changes the first queue of the first device.
func editQueue(t *testing.T, s *snapshot.State, change func(*virtio.QueueState)) {
	t.Helper()
	editState(t, s, func(d *virtio.State) { change(&d.Queues[0]) })
}

// editState changes the first device.
func editState(t *testing.T, s *snapshot.State, change func(*virtio.State)) {
	t.Helper()
	var state virtio.State
	if err := json.Unmarshal(s.Devices[0].State, &state); err != nil {
		t.Fatal(err)
	}
	change(&state)
	var err error
	if s.Devices[0].State, err = json.Marshal(state); err != nil {
		t.Fatal(err)
	}
}

// TestSnapshotNeedsAPausedMachine, and leaves nothing behind when it fails.
func TestSnapshotNeedsAPausedMachine(t *testing.T) {
	m, _, _ := bare(t, testguest.Spin, 1)
	start(t, m)
	parent := t.TempDir()
	if err := m.Snapshot(filepath.Join(parent, "s"), SnapshotOptions{}); !errors.Is(err, ErrState) {
		t.Errorf("a snapshot of a running machine: %v", err)
	}
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := m.Snapshot(filepath.Join(parent, "none", "s"), SnapshotOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a snapshot in no directory: %v", err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestForksOfOneSnapshot run at once and do not see one another.
func TestForksOfOneSnapshot(t *testing.T) {
	dir, cfg := saveOne(t)
	var all []*Machine
	for range 8 {
		m, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		start(t, m)
		all = append(all, m)
	}
	for _, m := range all {
		runUntil(t, m, func(n counts) bool { return n.ticks > 6 && n.requests > 6 })
	}
	before, err := os.ReadFile(filepath.Join(dir, snapshot.MemoryFile))
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n := binary.LittleEndian.Uint64(before[testguest.StateCounts:])
	if got := binary.LittleEndian.Uint64(must(m.mem.Slice(testguest.StateCounts, 8))); got != n {
		t.Errorf("a further fork begins with %d loops, the snapshot has %d", got, n)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestDifferentialSnapshots merges one after the other into the first, and goes on from the result.
func TestDifferentialSnapshots(t *testing.T) {
	parent := t.TempDir()
	at := func(name string) string { return filepath.Join(parent, name) }
	cfg := Config{CPUs: 1, TrackDirty: true, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: stateDisk(t)}}}}
	m, _, _ := bareConfig(t, testguest.State, cfg)
	start(t, m)
	last := counts{}
	further := func(n counts) bool { return n.requests > last.requests+1 && n.ticks > last.ticks }
	next := func() {
		t.Helper()
		runUntil(t, m, further)
		last = stateCounts(t, m)
	}
	next()
	if err := m.Snapshot(at("early"), SnapshotOptions{Diff: true}); err == nil {
		t.Error("a differential snapshot of a machine that has no other")
	}
	if err := m.Snapshot(at("base"), SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	for i, base := range []string{"base", "merged0", "merged1"} {
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
		next()
		if err := m.Snapshot(at("diff"), SnapshotOptions{Diff: true}); err != nil {
			t.Fatal(err)
		}
		merged := fmt.Sprint("merged", i)
		if err := MergeSnapshots(at(base), at("diff"), at(merged)); err != nil {
			t.Fatal(err)
		}
		whole := make([]byte, m.mem.Size())
		if _, err := m.mem.ReadAt(whole, 0); err != nil {
			t.Fatal(err)
		}
		saved, err := os.ReadFile(filepath.Join(at(merged), snapshot.MemoryFile))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(whole, saved[:len(whole)]) {
			t.Fatalf("%s: the memory is another than the machine's", merged)
		}
	}
	if info, err := os.Stat(filepath.Join(at("diff"), snapshot.MemoryFile)); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
		t.Errorf("a differential snapshot takes %d bytes, %v", info.Sys().(*syscall.Stat_t).Blocks*512, err)
	}
	if err := MergeSnapshots(at("base"), at("diff"), at("wrong")); !errors.Is(err, snapshot.ErrBase) {
		t.Errorf("merged into a snapshot that it is not based on: %v", err)
	}
	cfg.Memory, cfg.Platform, cfg.Restore = 16<<20, PlatformNone, files(at("diff"))
	refused(t, "a differential snapshot by itself", cfg, ErrMismatch)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Restore = files(at("merged2"))
	m, _, _ = bareConfig(t, testguest.State, cfg)
	start(t, m)
	next()

	// What was restored is a base as well.
	if err := m.Snapshot(at("onward"), SnapshotOptions{Diff: true}); err != nil {
		t.Fatal(err)
	}
	if err := MergeSnapshots(at("merged2"), at("onward"), at("last")); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Restore = files(at("last"))
	m, _, _ = bareConfig(t, testguest.State, cfg)
	start(t, m)
	next()
}
