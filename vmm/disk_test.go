package vmm

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/blk"
	"github.com/hullvm/hull/vmm/testguest"
)

// diskFile makes a sparse file of n bytes.
func diskFile(t testing.TB, n int64) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
	return &File{Path: path}
}

// sectors is the capacity that the guest is told.
func sectors(t testing.TB, m *Machine, id string) uint64 {
	t.Helper()
	d, err := m.findDisk(id)
	if err != nil {
		t.Fatal(err)
	}
	var p [8]byte
	d.device.ReadConfig(0, p[:])
	return binary.LittleEndian.Uint64(p[:])
}

func TestDisksChangeWhileTheGuestRuns(t *testing.T) {
	file, layer := diskFile(t, 1<<20), diskFile(t, 8192)
	m, _, _ := bareConfig(t, testguest.Spin, Config{CPUs: 1, Disks: []Disk{
		{ID: "data", File: file}, {ID: "layers", Layers: []File{*layer}}, {ID: "cow", File: layer, Overlay: diskFile(t, 0)},
	}})
	start(t, m)
	if n := sectors(t, m, "data"); n != 2048 {
		t.Errorf("%d sectors", n)
	}
	if err := os.Truncate(file.Path, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := m.ResizeDisk("data"); err != nil || sectors(t, m, "data") != 4096 {
		t.Errorf("%v, %d sectors", err, sectors(t, m, "data"))
	}
	other := diskFile(t, 3<<20)
	if err := m.ReplaceDisk("data", Disk{File: other}); err != nil || sectors(t, m, "data") != 6144 {
		t.Errorf("%v, %d sectors", err, sectors(t, m, "data"))
	}
	// The first file is free again, the other one is not.
	for _, c := range []struct {
		path string
		free bool
	}{{file.Path, true}, {other.Path, false}, {layer.Path, false}} {
		f, err := os.Open(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); (err == nil) != c.free {
			t.Errorf("%s: free %v, want %v", c.path, err == nil, c.free)
		}
		f.Close()
	}
	if err := m.ReplaceDisk("layers", Disk{Layers: []File{*layer, *layer}}); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"no such disk":     m.ResizeDisk("nope"),
		"layers":           m.ResizeDisk("layers"),
		"overlay":          m.ResizeDisk("cow"),
		"read-only":        m.ReplaceDisk("data", Disk{File: file, ReadOnly: true}),
		"nothing":          m.ReplaceDisk("data", Disk{}),
		"a missing file":   m.ReplaceDisk("data", Disk{File: &File{Path: "/nope"}}),
		"one that is used": m.ReplaceDisk("data", Disk{File: other}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.ResizeDisk("data"); !errors.Is(err, ErrState) {
		t.Errorf("after Close: %v", err)
	}
}

func TestDiskConfigurations(t *testing.T) {
	file := File{Path: "/dev/null"}
	for want, d := range map[string]Disk{
		"either a file or layers": {File: &file, Layers: []File{file}},
		"20 bytes":                {File: &file, ID: "a name of too many letters"},
		"direct I/O":              {Layers: []File{file}, Direct: true},
		"overlay":                 {File: &file, Overlay: &file, ReadOnly: true},
		"17 queues":               {File: &file, Queues: 17},
		"burst":                   {File: &file, Limits: blk.Limits{ReadOps: virtio.Rate{Burst: 1}}},
	} {
		c := Config{CPUs: 1, Memory: 1 << 20, Disks: []Disk{d}}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
