package vmm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
