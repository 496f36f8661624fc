package engine

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWhatAKilledForkLeaves goes with the next one; what a living one has does not.
func TestWhatAKilledForkLeaves(t *testing.T) {
	parent := filepath.Join(t.TempDir(), checkpointsName)
	living, err := forkPlace(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	killed, err := forkPlace(parent)
	if err != nil {
		t.Fatal(err)
	}
	killed.Close() // as the kernel does
	if err := os.WriteFile(filepath.Join(killed.Name(), "memory"), []byte("much"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * newPatience)
	for _, f := range []*os.File{living, killed} {
		if err := os.Chtimes(f.Name(), old, old); err != nil {
			t.Fatal(err)
		}
	}
	next, err := forkPlace(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if !exists(living.Name()) || exists(killed.Name()) || !exists(next.Name()) {
		t.Errorf("living %v, killed %v, next %v", exists(living.Name()), exists(killed.Name()), exists(next.Name()))
	}
	for _, f := range []*os.File{living, next} {
		if CheckName(filepath.Base(f.Name())) == nil {
			t.Errorf("%s is listed as a checkpoint", f.Name())
		}
	}
}
