package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine/timeline"
	"github.com/hullvm/hull/guestinit/proto"
)

// result is what came of a run.
type result struct {
	exit           Exit
	err            error
	stdout, stderr string
	id             string
}

// runTest runs a container to its end and removes it if it should go.
func runTest(t *testing.T, e *Engine, c Config, a Attach, line *timeline.Timeline) result {
	t.Helper()
	c.Image = "test"
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if a.Stdout == nil {
		a.Stdout = &stdout
	}
	if a.Stderr == nil {
		a.Stderr = &stderr
	}
	exit, err := container.Run(t.Context(), a, line)
	if releaseErr := container.Release(t.Context()); releaseErr != nil {
		t.Error(releaseErr)
	}
	return result{exit, err, stdout.String(), stderr.String(), container.ID()}
}

func sh(script string) Config {
	return Config{Args: []string{"sh", "-c", script}, AutoRemove: true}
}

func TestRun(t *testing.T) {
	e := newTestEngine(t)
	for _, test := range []struct {
		name   string
		config Config
		want   result
	}{
		{"image's command", Config{AutoRemove: true}, result{stdout: "from the image\n"}},
		{"streams apart", sh("echo out; echo err >&2"), result{stdout: "out\n", stderr: "err\n"}},
		{"status", sh("exit 7"), result{exit: Exit{Code: 7}}},
		{"kill -9", sh("kill -9 $$"), result{exit: Exit{Code: 137}}},
		{"no stdin", sh("wc -c"), result{stdout: "0\n"}},
		{"environment", Config{Args: []string{"sh", "-c", "echo $IMAGE $USERS $HOSTNAME"}, Env: []string{"USERS=mine"}, Hostname: "h1", AutoRemove: true}, result{stdout: "yes mine h1\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := runTest(t, e, test.config, Attach{}, nil)
			got.id = ""
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			mustBeEmpty(t, e)
		})
	}
}

func TestRunRefused(t *testing.T) {
	e := newTestEngine(t)
	file := t.TempDir() + "/plain"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]int{"no-such-program": 127, file: 126} {
		got := runTest(t, e, Config{Args: []string{program}, AutoRemove: true}, Attach{}, nil)
		var refused *proto.Error
		if !errors.As(got.err, &refused) || ExitCode(got.err) != want {
			t.Errorf("%s: %v with code %d, want %d", program, got.err, ExitCode(got.err), want)
		}
	}
	mustBeEmpty(t, e)
}

func TestRunBytes(t *testing.T) {
	e := newTestEngine(t)
	data := make([]byte, 20<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		w.Write(data)
		w.Close()
	}()
	hash := sha256.New()
	n := 0
	out := writerFunc(func(p []byte) (int, error) {
		n += len(p)
		return hash.Write(p)
	})
	got := runTest(t, e, Config{Args: []string{"cat"}, OpenStdin: true, AutoRemove: true}, Attach{Stdin: r, Stdout: out}, nil)
	if got.err != nil || got.exit.Code != 0 {
		t.Fatalf("%+v", got)
	}
	if want := sha256.Sum256(data); n != len(data) || !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Errorf("%d bytes came back and are not the ones that were sent", n)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The workload ends while its input is still open: nothing may wait for that.
func TestRunLeavesInput(t *testing.T) {
	e := newTestEngine(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	w.WriteString("one\n")
	got := runTest(t, e, Config{Args: []string{"head", "-n1"}, OpenStdin: true, AutoRemove: true}, Attach{Stdin: r}, nil)
	if got.err != nil || got.stdout != "one\n" {
		t.Fatalf("%+v", got)
	}
	w.WriteString("two\n")
	buf := make([]byte, 10)
	if n, err := r.Read(buf); err != nil || string(buf[:n]) != "two\n" {
		t.Errorf("what comes after the workload's end: %q, %v", buf[:n], err)
	}
}

// Nobody reads the output any more: the workload is to learn of it.
func TestRunClosedOutput(t *testing.T) {
	e := newTestEngine(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	got := runTest(t, e, Config{Args: []string{"yes"}, AutoRemove: true}, Attach{Stdout: w}, nil)
	if got.err != nil || got.exit.Code != 128+int(unix.SIGPIPE) {
		t.Errorf("%+v, want the end by SIGPIPE", got)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	got = runTest(t, e, Config{Args: []string{"echo", "lost"}, AutoRemove: true}, Attach{Stdout: full}, nil)
	if !errors.Is(got.err, unix.ENOSPC) {
		t.Errorf("lost output: %v, want ENOSPC", got.err)
	}
}

func TestRunSignals(t *testing.T) {
	e := newTestEngine(t)
	signals := make(chan os.Signal, 4)
	out := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("ready")) {
			signals <- unix.SIGUSR1
		}
		if bytes.Contains(p, []byte("usr1")) {
			signals <- unix.SIGTERM
		}
		return len(p), nil
	})
	c := sh(`trap 'echo usr1' USR1; trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done`)
	got := runTest(t, e, c, Attach{Stdout: out, Signals: signals}, nil)
	if got.err != nil || got.exit.Code != 9 {
		t.Errorf("%+v, want exit status 9", got)
	}
}

func TestRunInterruptedBoot(t *testing.T) {
	e := newTestEngine(t)
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGINT
	c := sh("true")
	c.Append = "fake=silent"
	got := runTest(t, e, c, Attach{Signals: signals}, nil)
	var interrupted *InterruptedError
	if !errors.As(got.err, &interrupted) || ExitCode(got.err) != 130 {
		t.Errorf("%v, code %d", got.err, ExitCode(got.err))
	}
	mustBeEmpty(t, e)
}

func TestRunVMFails(t *testing.T) {
	e := newTestEngine(t)
	for behave, want := range map[string][]string{
		"error":  {"not a kernel"},
		"crash":  {"status 2", "panic: oh no"},
		"panic":  {"the guest kernel panicked", "VFS"},
		"silent": {"did not answer in time within 500ms", `"first-exit"`, "console of a stopped VM"},
	} {
		t.Run(behave, func(t *testing.T) {
			c := sh("true")
			c.Append = "fake=" + behave
			if behave == "silent" {
				c.BootTimeout = 500 * time.Millisecond
			}
			got := runTest(t, e, c, Attach{}, nil)
			var vmError *VMError
			if !errors.As(got.err, &vmError) || ExitCode(got.err) != 125 {
				t.Fatalf("error %v, code %d", got.err, ExitCode(got.err))
			}
			for _, text := range want {
				if !strings.Contains(got.err.Error(), text) {
					t.Errorf("error %q does not tell of %q", got.err, text)
				}
			}
			mustBeEmpty(t, e)
		})
	}
}

func TestRunProbeFails(t *testing.T) {
	e := newTestEngine(t)
	impossible := errors.New("no hardware virtualization")
	e.probe = func() error { return impossible }
	for _, behave := range []string{"silent", "error", "crash", "none"} {
		c := sh("sleep 100")
		c.Append = "fake=" + behave
		if got := runTest(t, e, c, Attach{}, nil); !errors.Is(got.err, impossible) {
			t.Errorf("%s: error %v", behave, got.err)
		}
	}
	mustBeEmpty(t, e)
}

// The VM process is killed at work.
func TestRunVMKilled(t *testing.T) {
	e := newTestEngine(t)
	out := writerFunc(func(p []byte) (int, error) {
		all, err := e.List(context.Background())
		if err != nil || len(all) != 1 {
			t.Errorf("list: %v, %v", all, err)
			return 0, io.ErrShortWrite
		}
		if killed, err := all[0].State.VM.Kill(unix.SIGKILL); !killed || err != nil {
			t.Errorf("kill: %v, %v", killed, err)
		}
		return len(p), nil
	})
	got := runTest(t, e, sh("echo ready; sleep 100"), Attach{Stdout: out}, nil)
	if got.err == nil || !strings.Contains(got.err.Error(), "the VM ended: killed by signal 9 (SIGKILL)") || ExitCode(got.err) != 137 {
		t.Errorf("error %v, code %d", got.err, ExitCode(got.err))
	}
	mustBeEmpty(t, e)
}

func TestRunTerminal(t *testing.T) {
	e := newTestEngine(t)
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer tty.Close()
	if err := pty.Setsize(user, &pty.Winsize{Rows: 33, Cols: 101}); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	var screen strings.Builder
	resized := false
	out := writerFunc(func(p []byte) (int, error) {
		screen.Write(p)
		if strings.Contains(screen.String(), "33 101") && !resized {
			resized = true
			pty.Setsize(user, &pty.Winsize{Rows: 20, Cols: 70})
			signals <- unix.SIGWINCH
		}
		return len(p), nil
	})
	c := sh(`trap 'stty size; exit 3' WINCH; stty size; while :; do sleep 0.01; done`)
	c.Terminal, c.OpenStdin = true, true
	got := runTest(t, e, c, Attach{Stdin: tty, Terminal: tty, Stdout: out, Signals: signals}, nil)
	if got.err != nil || got.exit.Code != 3 {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(screen.String(), "20 70") {
		t.Errorf("screen: %q", screen.String())
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v", err)
	}
}

func TestRunKeeps(t *testing.T) {
	e := newTestEngine(t)
	c := sh("exit 4")
	c.AutoRemove = false
	got := runTest(t, e, c, Attach{}, nil)
	all, err := e.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	r := all[0]
	if r.ID != got.id || r.State.Status != StatusExited || r.State.ExitCode != 4 || r.State.Started.IsZero() || r.State.Finished.IsZero() {
		t.Errorf("record: %+v", r)
	}
	if _, err := os.Stat(e.store.dir(r.ID) + "/" + scratchName); err != nil {
		t.Error(err)
	}
	if err := e.Remove(t.Context(), got.id[:6], false); err != nil {
		t.Error(err)
	}
	mustBeEmpty(t, e)

	c.Args = []string{"no-such-program"}
	got = runTest(t, e, c, Attach{}, nil)
	r, err = e.Get(t.Context(), got.id)
	if err != nil || r.State.Status != StatusCreated || r.State.ExitCode != 127 || r.State.Error == "" {
		t.Errorf("record %+v, %v", r, err)
	}
}

func TestRunTimeline(t *testing.T) {
	e := newTestEngine(t)
	var line timeline.Timeline
	runTest(t, e, sh("true"), Attach{}, &line)
	var stages []string
	for _, m := range line.Marks() {
		stages = append(stages, m.Stage)
	}
	for _, want := range []string{timeline.Prepared, timeline.Process, timeline.KVM, timeline.Memory, timeline.Run, timeline.Entry,
		timeline.Init, timeline.Agent, timeline.Hello, timeline.Workload, timeline.Ended, timeline.Exit} {
		if !slices.Contains(stages, want) {
			t.Errorf("no stage %q in %q", want, stages)
		}
	}
}
