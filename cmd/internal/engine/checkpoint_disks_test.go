package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/vmm"
)

// TestDisksGoWithACheckpoint: what a container writes to is copied, twice; what is read-only stays where it is.
func TestDisksGoWithACheckpoint(t *testing.T) {
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path, content string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("%s: %q, %v, want %q", path, b, err, content)
		}
	}
	place := t.TempDir()
	ours, readOnly := filepath.Join(place, "ours"), filepath.Join(place, "read-only")
	write(ours, "saved")
	write(readOnly, "same")
	disks := []Disk{{Path: readOnly, ReadOnly: true}, {Path: ours, Direct: true}}
	f, err := os.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The name is another file's by then.
	if err := os.Rename(ours, ours+".moved"); err != nil {
		t.Fatal(err)
	}
	write(ours, "others")
	saved := &checkpoint{dir: t.TempDir(), Container: Record{Config: Config{Disks: disks}}}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r := &run{ownDisks: []vmm.File{{}, {FD: int(f.Fd())}}}
	if err := r.saveDisks(saved.dir, &vmProcess{process: self}, disks); err != nil {
		t.Fatal(err)
	}
	want(filepath.Join(saved.dir, savedDisk(1)), "saved")

	e := &Engine{}
	e.store.dirs.Data = t.TempDir()
	c := &Container{engine: e, record: &Record{ID: newID()}}
	if err := os.MkdirAll(c.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(c.dir(), "."+savedDisk(1)), "half of a copy whose maker was killed")
	for range 2 { // it goes back to the checkpoint
		taken, err := c.takeDisks(saved)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(c.dir(), savedDisk(1))
		if len(taken) != 2 || taken[0] != disks[0] || taken[1] != (Disk{Path: own, Direct: true}) {
			t.Fatalf("it has %+v", taken)
		}
		want(own, "saved")
		write(own, "the container's")
	}
	want(filepath.Join(saved.dir, savedDisk(1)), "saved")
	want(ours, "others")
	if entries, err := os.ReadDir(c.dir()); err != nil || len(entries) != 1 {
		t.Errorf("there are %v, %v", entries, err)
	}
}
