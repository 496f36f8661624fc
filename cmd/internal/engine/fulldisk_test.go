package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk puts the engine's containers on a disk of so many bytes.
func smallDisk(t *testing.T, e *Engine, size string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := os.MkdirAll(e.store.dirs.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", e.store.dirs.Data, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(e.store.dirs.Data, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fillDisk takes all the space there is, until the file that it returns is removed.
func fillDisk(t *testing.T, e *Engine) (path string) {
	t.Helper()
	path = filepath.Join(e.store.dirs.Data, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(page)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return path
}

// A disk that is full under a container's log: the container goes on, and what is missing of its log is counted there
// when there is space again.
func TestFullDiskUnderLog(t *testing.T) {
	e := newTestEngine(t)
	smallDisk(t, e, "64m") // with space for what is still on its way to the log
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	for _, gate := range []string{one, two} {
		if err := unix.Mkfifo(gate, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// While the disk is full it writes more than there is room for on the way to the log.
	script := `echo before; head -c 8192 /dev/zero | tr '\0' x; echo; read x <` + one + `; yes "a line that is lost" | head -c 4000000; read x <` + two + `; echo after; exec sleep 1000`
	id := background(t, e, Config{Args: []string{"sh", "-c", script}})
	await := func(text string) {
		t.Helper()
		for end := time.Now().Add(patience); !strings.Contains(logText(t, e, id, LogOptions{Tail: -1}), text); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no %q in the log: %.300q", text, logText(t, e, id, LogOptions{Tail: -1}))
			}
		}
	}
	open := func(gate string) {
		t.Helper()
		if err := os.WriteFile(gate, []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	await("xxx\n")
	filler := fillDisk(t, e)
	open(one)
	open(two) // nearly all has come to the log when it reads this
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	// The last line may have been written to the full disk as well: it is told of with the next that is kept, or at the end.
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	await("log entries are missing here: ")
	if got := logText(t, e, id, LogOptions{Tail: -1}); !strings.HasPrefix(got, "stdout:before\n") || !strings.Contains(got, "no space left on device") {
		t.Errorf("log %.300q", got)
	}
	if r := get(t, e, id); r.State.Status != StatusExited || r.State.LogLost < 1000 {
		t.Errorf("state %+v", r.State)
	}
}

// A disk that is full when a container ends, or is to be made: that one fails or is seen to have ended, the others are as
// they were, and all of them can be removed.
func TestFullDiskUnderRecords(t *testing.T) {
	e := newTestEngine(t)
	smallDisk(t, e, "4m")
	other := background(t, e, Config{Args: []string{"sleep", "1000"}})
	id := background(t, e, Config{Args: []string{"sleep", "1000"}})
	filler := fillDisk(t, e)
	if c, err := e.Create(t.Context(), "late", Config{Image: "test", Args: []string{"true"}}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("creating one: %v, %v", c, err)
	}
	if err := e.Kill(t.Context(), id, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, e, id, "ended", func(r *Record) bool { return !r.State.Alive() })
	all, err := e.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Errorf("list: %v, %v", all, err)
	}
	if r := get(t, e, id); !strings.Contains(r.State.Error, "could not be recorded") || !strings.Contains(r.State.Error, "no space left on device") {
		t.Errorf("why its status is %d: %q", r.State.ExitCode, r.State.Error)
	}
	if r := get(t, e, other); r.State.Status != StatusRunning {
		t.Errorf("the other: %+v", r.State)
	}
	for _, id := range []string{id, other} {
		if err := e.Remove(t.Context(), id, true); err != nil {
			t.Errorf("removing on a full disk: %v", err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if got := runTest(t, e, Config{Args: []string{"echo", "on"}, AutoRemove: true}, Attach{}, nil); got.err != nil || got.stdout != "on\n" {
		t.Errorf("afterwards: %+v", got)
	}
}
