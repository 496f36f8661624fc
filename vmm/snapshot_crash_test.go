package vmm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm/snapshot"
	"github.com/hullvm/hull/vmm/testguest"
)

// ballast is a part of RAM that the guest State leaves alone.
const ballastStart, ballastSize = 8 << 20, 4 << 20

// setBallast fills the ballast with pages that all hold the same number, so that pages of two snapshots cannot pass for one.
func setBallast(t testing.TB, m *Machine, number uint64) {
	t.Helper()
	if _, err := m.mem.WriteAt(ballastOf(number), ballastStart); err != nil {
		t.Fatal(err)
	}
}

func ballastOf(number uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, number), ballastSize/8)
}

// checkWhole restores the snapshot in dir, wants its ballast to be all of one number, and the guest to get on. It returns the number.
func checkWhole(t testing.TB, dir string, cfg Config) uint64 {
	t.Helper()
	cfg.Restore, cfg.Memory, cfg.Platform = files(dir), 16<<20, PlatformNone
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := m.mem.Slice(ballastStart, ballastSize)
	if err != nil {
		t.Fatal(err)
	}
	number := binary.LittleEndian.Uint64(b)
	if !bytes.Equal(b, ballastOf(number)) {
		t.Fatalf("the memory of %s is of several snapshots", dir)
	}
	was := stateCounts(t, m)
	start(t, m)
	runUntil(t, m, func(n counts) bool { return n.loops > was.loops })
	return number
}

// TestNoRoomForASnapshot fills a file system so that a snapshot ends at one point after the other for want of room. The one that
// was there before stays whole, nothing else is left, and the machine goes on.
func TestNoRoomForASnapshot(t *testing.T) {
	needKVM(t)
	place := t.TempDir()
	const room = 4 * ballastSize
	if err := unix.Mount("none", place, "tmpfs", 0, fmt.Sprintf("size=%d", room)); err != nil {
		t.Skipf("needs a file system of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(place, 0); err != nil {
			t.Error(err)
		}
	})
	dir, full := filepath.Join(place, "snapshot"), filepath.Join(place, "full")
	cfg := Config{CPUs: 1, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: stateDisk(t)}}}}
	m, _, _ := bareConfig(t, testguest.State, cfg)
	start(t, m)
	runUntil(t, m, func(n counts) bool { return n.requests > 1 })
	setBallast(t, m, 1)
	if err := m.Snapshot(dir, SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for free := int64(0); ; free = max(2*free, 1) {
		var st unix.Statfs_t
		if err := unix.Statfs(place, &st); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(full)
		if err != nil {
			t.Fatal(err)
		}
		used := (int64(st.Bavail) - free) * st.Bsize
		if used > 0 {
			err = unix.Fallocate(int(f.Fd()), 0, 0, used)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		setBallast(t, m, uint64(2+free))
		err = m.Snapshot(dir, SnapshotOptions{})
		if left, readErr := filepath.Glob(dir + "?*"); readErr != nil || len(left) > 0 {
			t.Fatalf("%d free pages: left behind: %v, %v", free, left, readErr)
		}
		want := uint64(1)
		if err == nil {
			want = uint64(2 + free)
		} else if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("%d free pages: %v", free, err)
		}
		if got := checkWhole(t, dir, cfg); got != want {
			t.Fatalf("%d free pages: the snapshot is number %d, want %d (%v)", free, got, want, err)
		}
		if removeErr := os.Remove(full); removeErr != nil {
			t.Fatal(removeErr)
		}
		was := stateCounts(t, m)
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
		runUntil(t, m, func(n counts) bool { return n.loops > was.loops })
		if err == nil {
			break
		}
		failed++
	}
	if failed < 5 {
		t.Errorf("only %d snapshots had too little room", failed)
	}
}

// saverEnv has this test program be the saver of TestKilledWhileSaving, with the snapshot's directory and its disk's file.
const saverEnv = "HULL_TEST_SAVER"

// TestKilledWhileSaving kills processes that save a machine again and again, at moments they do not know: what is there under the
// snapshot's name is always a whole one, no older than the last that was reported.
func TestKilledWhileSaving(t *testing.T) {
	if where := os.Getenv(saverEnv); where != "" {
		saveForEver(t, where)
	}
	needKVM(t)
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	disk := stateDisk(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "snapshot")
	cfg := Config{CPUs: 1, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: disk}}}}
	last, unreported, incomplete := uint64(0), 0, 0
	for round := range rounds {
		reported := killSaver(t, dir+":"+disk, time.Duration(rand.IntN(20000))*time.Microsecond)
		left, err := filepath.Glob(dir + "?*")
		if err != nil || len(left) > 1 {
			t.Fatalf("round %d: left behind: %v, %v", round, left, err)
		}
		incomplete += len(left)
		got := checkWhole(t, dir, cfg)
		if got < reported || reported < last {
			t.Fatalf("round %d: number %d was saved after %d, and %d is there", round, reported, last, got)
		}
		if got > reported {
			unreported++
		}
		last = got
	}
	t.Logf("%d kills, %d snapshots; %d kills left an incomplete directory, %d came before the report", rounds, last, incomplete, unreported)
	d, err := snapshot.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Abort(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 1 {
		t.Errorf("there are %v, %v", left, err)
	}
}

// killSaver runs a saver until it has reported one snapshot, and a while longer. It returns the last number that was reported.
func killSaver(t *testing.T, where string, while time.Duration) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileSaving$")
	cmd.Env = append(os.Environ(), saverEnv+"="+where, "TMPDIR="+t.TempDir()) // it removes nothing
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	var lines []string
	for s := bufio.NewScanner(out); s.Scan(); {
		if lines = append(lines, s.Text()); len(lines) == 1 {
			time.AfterFunc(while, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // it was killed
	if len(lines) == 0 {
		t.Fatal("the saver has saved nothing")
	}
	number, err := strconv.ParseUint(lines[len(lines)-1], 10, 64)
	if err != nil {
		t.Fatalf("the saver says %q", lines)
	}
	return number
}

// saveForEver goes on from the snapshot if there is one, saves the machine under the same name again and again, each time with a
// higher number in its ballast, and reports the number of what is complete.
func saveForEver(t *testing.T, where string) {
	dir, disk, _ := strings.Cut(where, ":")
	cfg := Config{CPUs: 1, Disks: []Disk{{ID: "d", ReadOnly: true, File: &File{Path: disk}}}}
	if _, err := os.Lstat(dir); err == nil {
		cfg.Restore = files(dir)
	}
	m, _, _ := bareConfig(t, testguest.State, cfg)
	number := uint64(0)
	if cfg.Restore != nil {
		number = binary.LittleEndian.Uint64(must(m.mem.Slice(ballastStart, 8)))
	}
	start(t, m)
	for {
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		number++
		setBallast(t, m, number)
		if err := m.Snapshot(dir, SnapshotOptions{}); err != nil {
			t.Fatal(err)
		}
		fmt.Println(number)
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
	}
}
