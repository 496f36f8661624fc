package vmm

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm/testguest"
)

// silence is a MemoryBackend that brings nothing.
type silence struct {
	lost   chan error
	faults int // a descriptor of its own
	ranges []MemoryRange
	closed int
}

func (s *silence) Serve(faults int, ranges []MemoryRange) (_ <-chan error, err error) {
	s.ranges = ranges
	s.faults, err = unix.Dup(faults)
	return s.lost, err
}

// await waits until somebody stands in a fault.
func (s *silence) await(t *testing.T) {
	t.Helper()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.faults), Events: unix.POLLIN}}, 30_000); n != 1 {
		t.Fatalf("nobody has touched the memory: %v", err)
	}
}

func (s *silence) Close() error {
	s.closed++
	return unix.Close(s.faults)
}

// silent makes a machine that goes on from a snapshot of a guest which counts, with memory that nobody brings.
func silent(t *testing.T, patience time.Duration) (*Machine, *silence, error) {
	t.Helper()
	needKVM(t)
	m, _, _ := bareConfig(t, testguest.Spin, Config{CPUs: 1})
	if err := errors.Join(m.Start(), m.Pause()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "snapshot")
	if err := m.Snapshot(dir, SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	cfg := m.cfg
	cfg.Restore = &Snapshot{State: files(dir).State}
	cfg.Kernel, cfg.CommandLine = File{}, ""
	s := &silence{lost: make(chan error, 1)}
	n, err := New(cfg, WithMemoryBackend(s, patience))
	return n, s, err
}

// TestSilentMemory: a machine whose memory nobody brings is made, paused, saved and ended in bounded time all the same.
func TestSilentMemory(t *testing.T) {
	m, s, err := silent(t, 50*time.Millisecond)
	if err == nil {
		if len(s.ranges) != 1 || s.ranges[0].Size != m.cfg.Memory || s.ranges[0].Address == 0 || s.ranges[0].Offset != 0 {
			t.Errorf("%+v", s.ranges)
		}
		if err = m.Start(); err == nil {
			s.await(t)
			err = m.Pause()
		}
		if err == nil { // this host's kernel lets a vCPU out of a fault
			err = m.Snapshot(filepath.Join(t.TempDir(), "snapshot"), SnapshotOptions{})
		}
		err = errors.Join(err, m.Close())
	}
	if !errors.Is(err, ErrMemoryLost) || !strings.Contains(err.Error(), "has not answered for 50ms while the machine is") {
		t.Errorf("%v", err)
	}
	if s.closed != 1 {
		t.Errorf("the backend was closed %d times", s.closed)
	}
}

// TestMemoryIsLost: a machine ends when its backend goes, though a vCPU waits for memory.
func TestMemoryIsLost(t *testing.T) {
	m, s, err := silent(t, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	s.await(t)
	s.lost <- errors.New("gone")
	if r := m.Wait(); r.Reason != ReasonFailure || !strings.Contains(r.Message, "gone") {
		t.Errorf("%+v", r)
	}
}

// TestStopWithoutMemory: who stops a machine does not wait for its memory.
func TestStopWithoutMemory(t *testing.T) {
	m, s, err := silent(t, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	s.await(t)
	m.Stop("asked")
	if r := m.Wait(); r.Message != "asked" {
		t.Errorf("%+v", r)
	}
}
