package logfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string, o Options) *Writer {
	t.Helper()
	w, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func add(t *testing.T, w *Writer, lines ...string) {
	t.Helper()
	if _, err := w.Append([]byte(strings.Join(lines, "\n") + "\n")); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, tail int) []string {
	t.Helper()
	var got []string
	err := Read(t.Context(), path, ReadOptions{Tail: tail}, func(line []byte) error {
		got = append(got, string(line))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func numbers(from, to int) []string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprintf("line %05d", i))
	}
	return list
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{MaxSize: 110, MaxFiles: 3}) // ten lines of 11 bytes
	add(t, w, numbers(0, 4)...)
	add(t, w, numbers(4, 36)...) // a piece that needs several files
	if got, want := read(t, path, -1), numbers(10, 36); !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	for i, want := range []int64{66, 110, 110} {
		if info, err := os.Stat(numbered(path, i)); err != nil || info.Size() != want {
			t.Errorf("file %d: %v, want %d bytes", i, info, want)
		}
	}
	if _, err := os.Stat(numbered(path, 3)); !errors.Is(err, os.ErrNotExist) {
		t.Error("one file too many")
	}
	for _, n := range []int{0, 1, 6, 7, 16, 17, 26, 27, 1000} {
		want := numbers(max(36-n, 10), 36)
		if got := read(t, path, n); !slices.Equal(got, want) {
			t.Errorf("the last %d: %q", n, got)
		}
	}
	one := filepath.Join(t.TempDir(), "one")
	w = open(t, one, Options{MaxSize: 30, MaxFiles: 1})
	add(t, w, "a line that is longer than the file may be")
	add(t, w, "short")
	if got := read(t, one, -1); !slices.Equal(got, []string{"short"}) {
		t.Errorf("with one file: %q", got)
	}
}

func TestReadWithout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	for _, tail := range []int{-1, 0, 5} {
		if got := read(t, path, tail); len(got) != 0 {
			t.Errorf("%q", got)
		}
	}
}

// TestCutShort: a crash of the host may leave a part of a line, and a reader must not stumble over long ones.
func TestCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("x", MaxLine+1)
	if err := os.WriteFile(path, []byte("one\n"+long+"\ntwo\nthr"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, -1); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("read %d lines", len(got))
	}
	w := open(t, path, Options{})
	add(t, w, "four")
	if got := read(t, path, 2); !slices.Equal(got, []string{"two", "four"}) {
		t.Errorf("%q", got)
	}
}

// TestFollow reads while files are written and rotated: each line once, in order.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const count = 20_000
	end := make(chan struct{})
	var writer sync.WaitGroup
	w := open(t, path, Options{MaxSize: 50_000, MaxFiles: 100})
	add(t, w, numbers(0, 10)...)
	writer.Go(func() {
		defer close(end)
		for i := 10; i < count; i += 10 {
			if _, err := w.Append([]byte(strings.Join(numbers(i, i+10), "\n") + "\n")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	next := 5
	err := Read(t.Context(), path, ReadOptions{Tail: 5, Follow: end}, func(line []byte) error {
		if next == 5 { // the last five of however many there were
			fmt.Sscanf(string(line), "line %d", &next)
		}
		if want := fmt.Sprintf("line %05d", next); string(line) != want {
			return fmt.Errorf("line %q, want %q", line, want)
		}
		next++
		return nil
	})
	writer.Wait()
	if err != nil || next != count {
		t.Errorf("%v after line %d", err, next)
	}
}

// TestReadWhileRotated reads, again and again, a log that is written and rotated all the time: what was there at the
// beginning comes whole and in order, and it comes to an end.
func TestReadWhileRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const perFile, files, block = 20, 10, 4
	w := open(t, path, Options{MaxSize: perFile * int64(len("line 00000\n")), MaxFiles: files})
	add(t, w, numbers(0, perFile*files)...)
	var written atomic.Int64
	written.Store(perFile * files)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := perFile * files; n+block < 100_000; n += block {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := w.Append([]byte(strings.Join(numbers(n, n+block), "\n") + "\n")); err != nil {
				t.Error(err)
				return
			}
			written.Store(int64(n + block))
		}
	})
	defer writer.Wait()
	defer close(stop)
	for round := range 1000 {
		tail := []int{-1, 1, perFile, 2*perFile + 3}[round%4]
		before := int(written.Load())
		got := read(t, path, tail)
		after := int(written.Load()) + block
		if len(got) == 0 {
			t.Fatalf("round %d: nothing", round)
		}
		var first int
		if _, err := fmt.Sscanf(got[0], "line %d", &first); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if !slices.Equal(got, numbers(first, first+len(got))) {
			t.Fatalf("round %d: %q", round, got)
		}
		end, kept := first+len(got), after-(files-1)*perFile // what was kept all the time
		if end < before || tail < 0 && first > kept || tail > 0 && (len(got) > tail || first > max(kept, end-tail)) {
			t.Fatalf("round %d: the last %d: %d to %d, when there were %d and then %d", round, tail, first, end, before, after)
		}
	}
}

// TestKilledWhileRotating: whatever a writer leaves that is killed in the middle, no line is lost or met twice.
func TestKilledWhileRotating(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	options := Options{MaxSize: 110, MaxFiles: 3}
	w := open(t, path, options)
	add(t, w, numbers(0, 20)...)
	w.Close()
	// Killed after the newest got its next number, and before there was another newest.
	for _, link := range []string{numbered(path, 2), path + ".link"} {
		if err := os.Link(numbered(path, 1), link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(numbered(path, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, numbered(path, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, -1); !slices.Equal(got, numbers(0, 20)) {
		t.Errorf("read %q", got)
	}
	if got := read(t, path, 15); !slices.Equal(got, numbers(5, 20)) {
		t.Errorf("the last 15: %q", got)
	}
	w = open(t, path, options)
	add(t, w, numbers(20, 25)...)
	if got := read(t, path, -1); !slices.Equal(got, numbers(10, 25)) && !slices.Equal(got, numbers(0, 25)) {
		t.Errorf("after one more rotation: %q", got)
	}
	add(t, w, numbers(25, 45)...)
	if got := read(t, path, -1); !slices.Equal(got, numbers(20, 45)) {
		t.Errorf("after all is well again: %q", got)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != options.MaxFiles {
		t.Errorf("files %v, %v", entries, err)
	}
}

func TestFollowEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	never := make(chan struct{})
	if err := Read(ctx, path, ReadOptions{Tail: -1, Follow: never}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	w := open(t, path, Options{})
	add(t, w, "one", "two")
	seen := 0
	err := Read(t.Context(), path, ReadOptions{Tail: -1, Follow: never}, func([]byte) error {
		seen++
		return ErrStop
	})
	if err != nil || seen != 1 {
		t.Errorf("%v after %d", err, seen)
	}
	if err := Read(t.Context(), filepath.Join(path, "no", "directory"), ReadOptions{Follow: never}, nil); err == nil {
		t.Error("follows what cannot be")
	}
}

func entries(t *testing.T, path string) []Entry {
	t.Helper()
	var list []Entry
	for _, line := range read(t, path, -1) {
		e, err := ParseEntry([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

func TestStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := NewStreams(open(t, path, Options{}))
	at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.FixedZone("X", 3600))
	s.now = func() time.Time { return at }
	s.Write("stdout", []byte("one\ntw"))
	s.Write("stderr", []byte("<err>\n"))
	s.Write("stdout", []byte("o\nthr"))
	s.End("stdout")
	s.End("stderr")
	long := strings.Repeat("é", pieceSize/2)
	s.Write("stdout", []byte("x"+long+"\n"))
	var got []string
	for _, e := range entries(t, path) {
		if !e.Time.Equal(at) {
			t.Errorf("time %v", e.Time)
		}
		if len(e.Log) > 20 {
			e.Log = fmt.Sprint(len(e.Log))
		}
		got = append(got, e.Stream+" "+e.Log)
	}
	// The long line is cut before the character that the limit falls into.
	want := []string{"stdout one\n", "stderr <err>\n", "stdout two\n", "stdout thr", fmt.Sprint("stdout ", pieceSize-1), "stdout é\n"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if raw := read(t, path, -1)[0]; raw != `{"log":"one\n","stream":"stdout","time":"2030-01-02T02:04:05.000000006Z"}` {
		t.Errorf("written as %s", raw)
	}
}

// TestFullDisk: what cannot be kept is counted, and what was kept stays whole.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, path, Options{})
	s := NewStreams(w)
	s.Write("stdout", []byte("kept\n"))
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	kept := w.file
	w.file = full
	s.Write("stdout", []byte("lost\nlost too\n"))
	w.file = kept
	full.Close()
	s.Write("stdout", []byte("kept again\n"))
	if n, err := s.Lost(); n != 2 || err == nil {
		t.Errorf("%d lost: %v", n, err)
	}
	if got := entries(t, path); len(got) != 3 || !strings.HasPrefix(got[1].Log, "hull: 2 log entries are missing here: ") || got[1].Stream != "stderr" ||
		!strings.Contains(got[1].Log, "no space left") || got[2].Log != "kept again\n" {
		t.Errorf("%v", got)
	}
	w.Close()
	s.Write("stdout", []byte("too late\n"))
	if n, _ := s.Lost(); n != 3 {
		t.Errorf("%d lost", n)
	}
}

// TestClock: a host whose clock has gone mad loses entries, and nothing else.
func TestClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := NewStreams(open(t, path, Options{}))
	s.now = func() time.Time { return time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) }
	s.Write("stdout", []byte("lost\n"))
	s.now = time.Now
	s.Write("stdout", []byte("kept\n"))
	if n, err := s.Lost(); n != 1 || err == nil || len(entries(t, path)) != 2 {
		t.Errorf("%d lost: %v", n, err)
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"log":"one\n","stream":"stdout","time":"2030-01-02T02:04:05.000000006Z"}`))
	f.Add([]byte(`{"log":1}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, line []byte) { _, _ = ParseEntry(line) })
}
