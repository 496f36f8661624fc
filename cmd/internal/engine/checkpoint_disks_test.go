package engine

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/vmm"
)

// TestDisksGoWithACheckpoint: what a container writes to is copied into it, and belongs to who goes on from it; what is read-only
// stays where it is.
func TestDisksGoWithACheckpoint(t *testing.T) {
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, diskOf(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path, content string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, diskOf(content)) {
			t.Errorf("%s: %.20q, %v, want %q", path, b, err, content)
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
	r := &run{ownDisks: []vmm.Disk{{}, {File: &vmm.File{FD: int(f.Fd())}}}}
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
	own := filepath.Join(c.dir(), savedDisk(1))
	for range 2 { // it goes back to the checkpoint
		taken, err := c.takeDisks(saved)
		if err != nil {
			t.Fatal(err)
		}
		if len(taken) != 2 || taken[0] != disks[0] || taken[1] != (Disk{Path: own, Direct: true, Own: true}) {
			t.Fatalf("it has %+v", taken)
		}
		if got := readDisk(t, own); !bytes.Equal(got, diskOf("saved")) {
			t.Fatalf("it has %.20q", got)
		}
		writeDisk(t, own, 0, []byte("the container's"))
		if got := readDisk(t, own); !bytes.Equal(got, diskOf("the container's")) {
			t.Fatalf("it has %.20q", got)
		}
	}
	want(filepath.Join(saved.dir, savedDisk(1)), "saved")
	want(ours, "others")
	if entries, err := os.ReadDir(c.dir()); err != nil || len(entries) != 1 {
		t.Errorf("there are %v, %v", entries, err)
	}
}
