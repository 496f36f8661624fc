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
	if got := entries(t, path); len(got) != 2 {
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
	if n, err := s.Lost(); n != 1 || err == nil || len(entries(t, path)) != 1 {
		t.Errorf("%d lost: %v", n, err)
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"log":"one\n","stream":"stdout","time":"2030-01-02T02:04:05.000000006Z"}`))
	f.Add([]byte(`{"log":1}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, line []byte) { _, _ = ParseEntry(line) })
}
