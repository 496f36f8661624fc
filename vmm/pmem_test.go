package vmm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/vmm/testguest"
)

// TestPmemIsMapped: files lie behind RAM and one another, in KVM's eyes as well.
func TestPmemIsMapped(t *testing.T) {
	file, other := diskFile(t, 5<<20+1), diskFile(t, 5<<20+1)
	m, _, _ := bareConfig(t, testguest.Hello, Config{CPUs: 1, Pmems: []Pmem{{File: *file}, {File: *other, ReadOnly: true}}})
	if len(m.pmems) != 2 || m.pmemEnd != 4<<30+12<<20 {
		t.Errorf("%d files up to %#x", len(m.pmems), m.pmemEnd)
	}
	start(t, m)
	wait(t, m)

	for _, again := range []Pmem{{File: *file, ReadOnly: true}, {File: *other}} {
		_, err := New(Config{CPUs: 1, Memory: 16 << 20, Platform: PlatformNone, Kernel: m.cfg.Kernel, Pmems: []Pmem{again}})
		if err == nil || !strings.Contains(err.Error(), "in use by another VM") {
			t.Errorf("a file that another VM has: %v", err)
		}
	}

	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{empty: "1 byte", "/nope": "no such file", os.DevNull: "regular file"} {
		_, err := New(Config{CPUs: 1, Memory: 16 << 20, Platform: PlatformNone, Pmems: []Pmem{{File: File{Path: path}}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestPmemIsSavedAsDisksAre: a restored machine has the file that it is given, where the one was that it was saved with.
func TestPmemIsSavedAsDisksAre(t *testing.T) {
	dir, file := filepath.Join(t.TempDir(), "snapshot"), diskFile(t, 4<<20)
	cfg := Config{
		CPUs: 1, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: stateDisk(t)}}},
		Pmems: []Pmem{{File: *file}, {File: *diskFile(t, 1<<20), ReadOnly: true}},
	}
	m, _, _ := bareConfig(t, testguest.State, cfg)
	start(t, m)
	runUntil(t, m, func(n counts) bool { return n.requests > 1 })
	if err := m.Snapshot(dir, SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	end := m.pmemEnd
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Restore = files(dir)
	for what, other := range map[string][]Pmem{
		"longer":        {{File: *diskFile(t, 6<<20)}, cfg.Pmems[1]},
		"in turn":       {cfg.Pmems[1], cfg.Pmems[0]},
		"one too many":  {cfg.Pmems[0], cfg.Pmems[1], {File: *diskFile(t, 2<<20)}},
		"one too few":   cfg.Pmems[:1],
		"none of these": nil,
	} {
		c := cfg
		c.Memory, c.Platform, c.Pmems = 16<<20, PlatformNone, other
		refused(t, what, c, virtio.ErrState, ErrMismatch)
	}
	m, _, _ = bareConfig(t, testguest.State, cfg)
	if m.pmemEnd != end {
		t.Errorf("it ends at %#x, and ended at %#x", m.pmemEnd, end)
	}
	was := stateCounts(t, m)
	start(t, m)
	runUntil(t, m, func(n counts) bool { return n.loops > was.loops })
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}

	cfg.Restore, cfg.Pmems = nil, []Pmem{{File: *diskFile(t, 3<<20)}}
	m, _, _ = bareConfig(t, testguest.State, cfg)
	start(t, m)
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := m.Snapshot(dir, SnapshotOptions{}); err == nil || !strings.Contains(err.Error(), "in no file") {
		t.Errorf("a snapshot without what the guest may have written behind the end: %v", err)
	}
}
