package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// running runs a container that waits, until the test ends.
func running(t *testing.T, e *Engine, c Config) *Record {
	t.Helper()
	c.Image, c.Args, c.AutoRemove = "test", []string{"sleep", "1000"}, true
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = container.Run(ctx, Attach{}, nil) // canceled
		if err := container.Release(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		r, err := e.Get(t.Context(), container.ID())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", r, err)
		}
		if r.State.Status == StatusRunning {
			return r
		}
	}
}

// ended makes a container that has run.
func ended(t *testing.T, e *Engine, c Config) *Record {
	t.Helper()
	c.Image, c.Args = "test", []string{"true"}
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := container.Run(t.Context(), Attach{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := container.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := e.Get(t.Context(), container.ID())
	if err != nil || r.State.Status != StatusExited {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

func TestExec(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{Env: []string{"MINE=1"}})
	in, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, test := range []struct {
		exec   Exec
		stdout string
		code   int
		err    int // exit code of the error
	}{
		{exec: Exec{Args: []string{"sh", "-c", "echo $MINE $IMAGE $X; cat; exit 7"}, Env: []string{"X=2"}}, stdout: "1 yes 2\n", code: 7},
		{exec: Exec{Args: []string{"sh", "-c", "kill -TERM $$"}}, code: 143},
		{exec: Exec{Args: []string{"no-such-program"}}, err: 127},
		{exec: Exec{Args: []string{"/etc/passwd"}}, err: 126},
		{exec: Exec{Args: []string{"sh", "-c", "exit 3"}, Detach: true}},
	} {
		var out bytes.Buffer
		exit, err := e.Exec(t.Context(), r.Name, test.exec, Attach{Stdin: in, Stdout: &out})
		if test.err != 0 {
			if err == nil || ExitCode(err) != test.err {
				t.Errorf("%q: %v, want exit code %d", test.exec.Args, err, test.err)
			}
			continue
		}
		if err != nil || exit.Code != test.code || out.String() != test.stdout {
			t.Errorf("%q: %+v, %q, %v; want %d, %q", test.exec.Args, exit, out.String(), err, test.code, test.stdout)
		}
	}
}

// Many at once do not get in each other's way.
func TestExecMany(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	const many = 20
	errs := make(chan error, many)
	for i := range many {
		go func() {
			var out bytes.Buffer
			exit, err := e.Exec(t.Context(), r.ID, Exec{Args: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}}, Attach{Stdout: &out})
			if err == nil && (exit.Code != i || out.String() != fmt.Sprintln(i)) {
				err = fmt.Errorf("%d: %+v, %q", i, exit, out.String())
			}
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestExecNotRunning(t *testing.T) {
	e := newTestEngine(t)
	r := ended(t, e, Config{})
	if _, err := e.Exec(t.Context(), r.Name, Exec{Args: []string{"true"}}, Attach{}); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), r.ID) {
		t.Errorf("got %v", err)
	}
	if _, err := e.Exec(t.Context(), "nope", Exec{Args: []string{"true"}}, Attach{}); !errors.Is(err, ErrNoContainer) {
		t.Errorf("got %v", err)
	}
}

// A container whose VM has just gone is one that does not run, whatever its record says yet.
func TestExecEnding(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	if _, err := r.State.VM.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Exec(t.Context(), r.ID, Exec{Args: []string{"true"}}, Attach{}); !errors.Is(err, ErrNotRunning) && !errors.Is(err, ErrNoContainer) {
		t.Errorf("got %v", err)
	}
}

// A command ends with its container.
func TestExecContainerEnds(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	out := writerFunc(func(p []byte) (int, error) {
		_, err := r.State.VM.Kill(unix.SIGKILL)
		return len(p), err
	})
	exit, err := e.Exec(t.Context(), r.ID, Exec{Args: []string{"sh", "-c", "echo up; exec sleep 1000"}}, Attach{Stdout: out})
	if err != nil || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// A signal to the command's front end ends that, and not the command.
func TestExecInterrupted(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	signals := make(chan os.Signal, 1)
	out := writerFunc(func(p []byte) (int, error) {
		select {
		case signals <- unix.SIGINT:
		default:
		}
		return len(p), nil
	})
	_, err := e.Exec(t.Context(), r.Name, Exec{Args: []string{"sh", "-c", "echo up; exec sleep 1000"}}, Attach{Stdout: out, Signals: signals})
	if ExitCode(err) != 130 {
		t.Errorf("got %v", err)
	}
}

func TestExecDetachKeys(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	terminal, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	defer theirs.Close()
	keys, err := ParseDetachKeys(DefaultDetachKeys)
	if err != nil {
		t.Fatal(err)
	}
	out := &typeOnWrite{terminal: terminal}
	exit, err := e.Exec(t.Context(), r.Name, Exec{Args: []string{"sh", "-c", "echo up; cat"}, Terminal: true, DetachKeys: keys}, Attach{Stdin: theirs, Stdout: out, Terminal: theirs})
	if err != nil || exit.Code != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// typeOnWrite types the keys to detach, with others before them, when the command has said something.
type typeOnWrite struct {
	terminal *os.File
	typed    bool
}

func (w *typeOnWrite) Write(p []byte) (int, error) {
	if !w.typed {
		w.typed = true
		if _, err := w.terminal.WriteString("a\x10b\x10\x11"); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

var errTest = errors.New("no room")

func TestOldAgent(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{Append: "fake=old"})
	_, exec := e.Exec(t.Context(), r.ID, Exec{Args: []string{"true"}}, Attach{})
	_, processes := e.Processes(t.Context(), r.ID)
	_, meter := e.Meter(t.Context(), r)
	for _, err := range []error{exec, processes, meter, e.Export(t.Context(), r.ID, io.Discard)} {
		if !errors.Is(err, errOldAgent) {
			t.Errorf("got %v", err)
		}
	}
}

func TestDiff(t *testing.T) {
	e := newTestEngine(t)
	collect := func(c Config) ([]FileChange, error) {
		r := running(t, e, c)
		var got []FileChange
		err := e.Diff(t.Context(), r.ID, func(c FileChange) error {
			got = append(got, c)
			return nil
		})
		return got, err
	}
	dir := t.TempDir()
	if got, err := collect(Config{Append: "files=" + dir}); err != nil || !slices.Equal(got, []FileChange{{"A", "/new"}, {"D", "/old"}}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := collect(Config{Append: "fake=garbage files=" + dir}); err == nil || len(got) != 0 {
		t.Errorf("garbage: %v, %v", got, err)
	}
}

func TestMeter(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	m, err := e.Meter(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := m.Read(t.Context())
	if err != nil || s.Guest.Memory != 5 {
		t.Errorf("%+v, %v", s, err)
	}
	list, err := e.Processes(t.Context(), r.ID)
	if err != nil || len(list.List) != 1 || list.List[0].PID != 7 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestCommitConfig(t *testing.T) {
	image := v1.Config{Env: []string{"A=1", "B=1"}, Cmd: []string{"cmd"}, Entrypoint: []string{"entry"}, User: "u", WorkingDir: "/w"}
	c := commitConfig(&Record{Config: Config{Env: []string{"B=2", "C=3", "A"}, Args: []string{"x"}, User: "v", Labels: map[string]string{"k": "v"}}}, image)
	if !slices.Equal(c.Env, []string{"B=2", "C=3"}) || !slices.Equal(c.Cmd, []string{"x"}) || !slices.Equal(c.Entrypoint, []string{"entry"}) || c.User != "v" || c.WorkingDir != "/w" || c.Labels["k"] != "v" {
		t.Errorf("%+v", c)
	}
	c = commitConfig(&Record{Config: Config{Entrypoint: []string{""}}}, image)
	if c.Entrypoint != nil || c.Cmd != nil {
		t.Errorf("without an entrypoint: %+v", c)
	}
	if !slices.Equal(image.Env, []string{"A=1", "B=1"}) {
		t.Errorf("the image's environment became %q", image.Env)
	}
}

func FuzzReadChanges(f *testing.F) {
	frame := func(v any) []byte {
		var b bytes.Buffer
		if err := proto.WriteFrame(&b, v); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(frame(proto.Change{Kind: "A", Path: "/x"}))
	f.Add(append(frame(proto.Change{Kind: "D", Path: "/x"}), frame(proto.Change{Kind: "C", Path: "y"})...))
	f.Add(frame(proto.Change{Kind: "A", Path: "/" + strings.Repeat("x", 5000)}))
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = readChanges(bytes.NewReader(raw), func(c FileChange) error {
			if !strings.HasPrefix(c.Path, "/") || len(c.Path) > maxChangedPath || !slices.Contains([]string{"A", "C", "D"}, c.Kind) {
				t.Errorf("took %q", c)
			}
			return nil
		})
	})
}
