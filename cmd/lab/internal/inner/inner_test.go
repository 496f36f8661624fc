package inner

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/tool": 0o644, "b/tool": 0o755, "b/data": 0o644} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=/none", "X=y", "PATH=" + dir + "/a:" + dir + ":" + dir + "/b"}
	if got, err := lookPath("tool", env); got != dir+"/b/tool" || err != nil {
		t.Errorf("tool: %q, %v", got, err)
	}
	if got, err := lookPath("./x", env); got != "./x" || err != nil {
		t.Errorf("a path: %q, %v", got, err)
	}
	for name, status := range map[string]int{"data": 126, "missing": 127, "a": 127} {
		_, err := lookPath(name, env)
		if exit := failed(name, err); exit.Status != status || exit.Error == "" {
			t.Errorf("%s: %+v from %v, want status %d", name, exit, err, status)
		}
	}
	if exit := failed("x", &fs.PathError{Op: "fork/exec", Path: "/x", Err: errors.New("exec format error")}); exit.Status != 126 || exit.Error != "x: exec format error" {
		t.Errorf("%+v", exit)
	}
}

// TestPumpStopsAtEmpty: what a command wrote before it ended arrives, though a
// process it left behind keeps the pipe open.
func TestPumpStopsAtEmpty(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 4096) // all that a pipe holds
	var sent bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		pump(r, &sent, wire.KindErrors)
	}()
	for range 20 {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	stopAtEmpty(r)
	<-done
	hash := sha256.New()
	total := 0
	for {
		kind, payload, err := wire.Read(&sent)
		if err != nil {
			break
		}
		if kind != wire.KindErrors {
			t.Fatalf("kind %d", kind)
		}
		hash.Write(payload)
		total += len(payload)
	}
	want := sha256.Sum256(bytes.Repeat(data, 20))
	if !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Errorf("%d bytes arrived of %d", total, 20*len(data))
	}
}

func TestPumpEndsWithFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Write([]byte("x"))
	w.Close()
	var sent bytes.Buffer
	pump(r, &sent, wire.KindOutput)
	if _, payload, err := wire.Read(&sent); err != nil || string(payload) != "x" {
		t.Errorf("%q, %v", payload, err)
	}
}

func TestWatchCPUs(t *testing.T) {
	w, err := watchCPUs()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	for range 4 {
		go func() { w.visit(); done <- struct{}{} }()
	}
	for range 4 {
		<-done
	}
}

func TestOnTerminal(t *testing.T) {
	if _, err := readSize([]byte("{")); err == nil {
		t.Error("a malformed size was read")
	}
	size, err := readSize([]byte(`{"Rows":50,"Cols":132}`))
	if err != nil || size.Rows != 50 || size.Cols != 132 {
		t.Errorf("%+v, %v", size, err)
	}
}
