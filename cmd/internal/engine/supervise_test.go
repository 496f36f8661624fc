package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what should take no time, on a machine that has none.
const patience = 30 * time.Second

// background starts a container in the background and returns its ID.
func background(t *testing.T, e *Engine, c Config) string {
	t.Helper()
	c.Image = "test"
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := container.Start(t.Context(), StartOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := e.Remove(context.Background(), container.ID(), true)
		if err != nil && !errors.Is(err, ErrNoContainer) {
			t.Error(err)
		}
		if all, err := e.List(context.Background()); err != nil || len(all) == 0 { // it was the last
			mustBeEmpty(t, e)
		}
	})
	return container.ID()
}

func get(t *testing.T, e *Engine, id string) *Record {
	t.Helper()
	r, err := e.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// eventually waits until the container is in a state.
func eventually(t *testing.T, e *Engine, id, what string, is func(*Record) bool) *Record {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		r := get(t, e, id)
		if is(r) {
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("not %s: %+v", what, r.State)
		}
	}
}

func logText(t *testing.T, e *Engine, id string, o LogOptions) string {
	t.Helper()
	var b strings.Builder
	err := e.Logs(t.Context(), id, o, func(entry LogEntry) error {
		fmt.Fprintf(&b, "%s:%s", entry.Stream, entry.Log)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestBackground(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, Config{Args: []string{"sh", "-c", "echo one; echo two >&2; exec sleep 100"}})
	r := get(t, e, id)
	if r.State.Status != StatusRunning || r.State.Supervisor.PID == os.Getpid() || !r.State.Supervisor.Alive() {
		t.Errorf("state %+v", r.State)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen strings.Builder
	err := e.Logs(ctx, id, LogOptions{Tail: -1, Follow: true}, func(entry LogEntry) error {
		seen.WriteString(entry.Log)
		if strings.Contains(seen.String(), "one\n") && strings.Contains(seen.String(), "two\n") {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := e.Hold(t.Context(), id); !errors.Is(err, ErrAlreadyRunning) {
		t.Errorf("holding one that runs: %v", err)
	}
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	r = get(t, e, id)
	if r.State.Status != StatusExited || r.State.ExitCode != 128+int(unix.SIGTERM) || r.State.Supervisor.PID != 0 {
		t.Errorf("after stop: %+v", r.State)
	}
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Errorf("stopping one that has ended: %v", err)
	}
	if exit, err := e.Wait(t.Context(), id); err != nil || exit.Code != 143 {
		t.Errorf("waiting for one that has ended: %v, %v", exit, err)
	}
	// Once more, its log goes on.
	c, err := e.Hold(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(t.Context(), StartOptions{}); err != nil {
		t.Fatal(err)
	}
	waitLog(t, e, id, "one", 2)
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestStopStubborn(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, sh2("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
	waitLog(t, e, id, "ready", 1)
	timeout := 50 * time.Millisecond
	if err := e.Stop(t.Context(), id, StopOptions{Timeout: &timeout}); err != nil {
		t.Fatal(err)
	}
	if r := get(t, e, id); r.State.ExitCode != 137 || r.State.Status != StatusExited {
		t.Errorf("%+v", r.State)
	}
}

// A guest that answers nothing is stopped by force.
func TestStopDeaf(t *testing.T) {
	e := newTestEngine(t)
	c := sh2("exec sleep 100")
	c.Append = "fake=deaf"
	id := background(t, e, c)
	timeout := 10 * time.Millisecond
	if err := e.Stop(t.Context(), id, StopOptions{Timeout: &timeout}); err != nil {
		t.Fatal(err)
	}
	if r := get(t, e, id); r.State.ExitCode != 137 || r.State.Alive() {
		t.Errorf("%+v", r.State)
	}
}

// sh2 is a container that stays when it has ended.
func sh2(script string) Config { return Config{Args: []string{"sh", "-c", script}} }

// waitLog waits until a text is so many times in the log.
func waitLog(t *testing.T, e *Engine, id, text string, times int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var seen strings.Builder
	err := e.Logs(ctx, id, LogOptions{Tail: -1, Follow: true}, func(entry LogEntry) error {
		if seen.WriteString(entry.Log); strings.Count(seen.String(), text) >= times {
			cancel()
		}
		return nil
	})
	if strings.Count(seen.String(), text) < times {
		t.Fatalf("the log is %q, want %q in it %d times: %v", seen.String(), text, times, err)
	}
}

func TestBackgroundFails(t *testing.T) {
	e := newTestEngine(t)
	for behave, want := range map[string]string{"error": "not a kernel", "crash": "panic: oh no", "none": "no-such-program"} {
		t.Run(behave, func(t *testing.T) {
			c := Config{Image: "test", Args: []string{"no-such-program"}, Append: "fake=" + behave, AutoRemove: true}
			container, err := e.Create(t.Context(), "", c)
			if err != nil {
				t.Fatal(err)
			}
			_, err = container.Start(t.Context(), StartOptions{})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			if code := ExitCode(err); behave == "none" && code != 127 || behave != "none" && code != 125 {
				t.Errorf("exit code %d", code)
			}
			mustBeEmpty(t, e)
		})
	}
}

func TestRestartPolicy(t *testing.T) {
	e := newTestEngine(t)
	c := sh2("echo life; exit 3")
	c.Restart = RestartPolicy{Name: RestartOnFailure, MaxRetries: 2}
	id := background(t, e, c)
	if exit, err := e.Wait(t.Context(), id); err != nil || exit.Code != 3 {
		t.Errorf("%v, %v", exit, err)
	}
	r := eventually(t, e, id, "ended", func(r *Record) bool { return !r.State.Alive() })
	if r.State.RestartCount != 2 || r.State.Status != StatusExited || r.State.ExitCode != 3 {
		t.Errorf("%+v", r.State)
	}
	if got := strings.Count(logText(t, e, id, LogOptions{Tail: -1}), "life"); got != 3 {
		t.Errorf("%d lives, want 3", got)
	}
}

func TestRestartAlways(t *testing.T) {
	e := newTestEngine(t)
	c := sh2("echo life; sleep 0.01")
	c.Restart = RestartPolicy{Name: RestartAlways}
	id := background(t, e, c)
	eventually(t, e, id, "started again", func(r *Record) bool { return r.State.RestartCount >= 2 })
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	r := get(t, e, id)
	if r.State.Alive() || !r.State.StoppedByUser {
		t.Errorf("%+v", r.State)
	}
	// What the user has stopped comes back with the host only by the policy "always".
	var started []string
	note := func(r *Record, err error) {
		if err != nil {
			t.Error(err)
		}
		started = append(started, r.ID)
	}
	policy := RestartPolicy{Name: RestartUnlessStopped}
	if err := e.Change(t.Context(), id, Change{Restart: &policy}); err != nil {
		t.Fatal(err)
	}
	if err := e.StartAfterBoot(t.Context(), note); err != nil || len(started) != 0 {
		t.Errorf("started %v, %v", started, err)
	}
	policy = RestartPolicy{Name: RestartAlways}
	if err := e.Change(t.Context(), id, Change{Restart: &policy}); err != nil {
		t.Fatal(err)
	}
	if err := e.StartAfterBoot(t.Context(), note); err != nil || len(started) != 1 {
		t.Errorf("started %v, %v", started, err)
	}
	if err := e.Stop(t.Context(), id, StopOptions{Host: true}); err != nil {
		t.Fatal(err)
	}
	if r := get(t, e, id); r.State.StoppedByUser {
		t.Error("the end of the host counts as the user's")
	}
}

func TestPause(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, sh2("exec sleep 100"))
	if err := e.Unpause(t.Context(), id); err == nil || !strings.Contains(err.Error(), "is not paused") {
		t.Errorf("%v", err)
	}
	if err := e.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if r := get(t, e, id); r.State.Status != StatusPaused {
		t.Errorf("%+v", r.State)
	}
	if err := e.Pause(t.Context(), id); err == nil || !strings.Contains(err.Error(), "is already paused") {
		t.Errorf("%v", err)
	}
	if err := e.Unpause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := e.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil { // a paused one goes on first
		t.Fatal(err)
	}
	if r := get(t, e, id); r.State.ExitCode != 143 {
		t.Errorf("%+v", r.State)
	}
	if err := e.Pause(t.Context(), id); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
}

func TestChange(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, sh2("exec sleep 100"))
	name, memory := "another", uint64(256<<20)
	if err := e.Change(t.Context(), id, Change{Name: &name, Memory: &memory}); err != nil {
		t.Fatal(err)
	}
	if r := get(t, e, "another"); r.ID != id || r.Config.Memory != memory {
		t.Errorf("%+v", r)
	}
	asked, err := os.ReadFile(filepath.Join(e.store.vmDir(id), "balloon"))
	if err != nil || string(asked) != fmt.Sprint(256<<20) {
		t.Errorf("the balloon was asked for %q: %v", asked, err)
	}
	memory = 1 << 30
	if err := e.Change(t.Context(), id, Change{Memory: &memory}); err == nil || !strings.Contains(err.Error(), "was started with 512 MiB") {
		t.Errorf("more than it has: %v", err)
	}
	if err := e.Change(t.Context(), id, Change{Name: &name}); err == nil {
		t.Error("renamed to what it is")
	}
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	name = "third"
	if err := e.Change(t.Context(), id, Change{Name: &name, Memory: &memory}); err != nil {
		t.Fatal(err)
	}
	if r := get(t, e, "third"); r.Config.Memory != 1<<30 {
		t.Errorf("%+v", r.Config)
	}
	if _, err := e.Get(t.Context(), "another"); !errors.Is(err, ErrNoContainer) {
		t.Errorf("under its old name: %v", err)
	}
}

// A container in the foreground goes when the process goes that has run it.
func TestBound(t *testing.T) {
	e := newTestEngine(t)
	u := newTerminalUser(t)
	c := Config{Image: "test", Args: []string{"sh", "-c", "echo ready; exec sleep 100"}, Terminal: true, OpenStdin: true, AutoRemove: true}
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := container.Start(ctx, StartOptions{Attach: &Attach{Stdin: u.tty, Stdout: u.tty}, Bound: true})
		left <- err
	}()
	u.await(t, "ready")
	r := get(t, e, container.ID())
	cancel() // the connection breaks, as when the process is killed
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	waitGone(t, r.State.Supervisor)
	waitGone(t, r.State.VM)
	mustBeEmpty(t, e)
}

// The supervisor is killed: the VM goes, and the next command sees the container ended.
func TestKilledSupervisor(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, sh2("exec sleep 100"))
	r := get(t, e, id)
	if ok, err := r.State.Supervisor.Kill(unix.SIGKILL); !ok || err != nil {
		t.Fatal(ok, err)
	}
	waitGone(t, r.State.VM)
	r = eventually(t, e, id, "ended", func(r *Record) bool { return !r.State.Alive() })
	if r.State.Status != StatusExited || r.State.ExitCode != 137 {
		t.Errorf("%+v", r.State)
	}
	if _, err := e.ask(t.Context(), id, request{Op: opPause}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("asking nobody: %v", err)
	}
}

// Requests that make no sense, and people who say nothing, hurt nobody.
func TestControlGarbage(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, sh2("exec sleep 100"))
	for _, r := range []request{{Op: "dance"}, {}, {Op: opChange}, {Op: opSignal, Signal: 4711}, {Op: opSignal, Signal: -1}} {
		if _, err := e.ask(t.Context(), id, r); err == nil {
			t.Errorf("%+v was carried out", r)
		}
	}
	var silent []io.Closer
	for range 20 {
		conn, err := e.dialControl(t.Context(), id, request{Op: opAttach, Attach: &attachRequest{Stdin: true}})
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte{9, 255, 255, 255, 255})
		silent = append(silent, conn)
	}
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Error(err)
	}
	for _, c := range silent {
		c.Close()
	}
}

func TestEvents(t *testing.T) {
	e := newTestEngine(t)
	before := time.Now()
	id := background(t, e, sh2("exit 3"))
	if _, err := e.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := e.Events(t.Context(), before, time.Now(), func(event Event) error {
		if event.ID == id {
			got = append(got, event.Action+event.Attr["exitCode"])
		}
		return nil
	})
	if want := "create start die3 destroy"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestPruneContainers(t *testing.T) {
	e := newTestEngine(t)
	running := background(t, e, sh2("exec sleep 100"))
	kept, gone := background(t, e, sh2("exit 0")), background(t, e, sh2("exit 0"))
	for _, id := range []string{kept, gone} {
		if _, err := e.Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		eventually(t, e, id, "ended", func(r *Record) bool { return !r.State.Alive() })
		if err := e.awaitRelease(t.Context(), get(t, e, id)); err != nil {
			t.Fatal(err)
		}
	}
	removed, freed, err := e.PruneContainers(t.Context(), func(r *Record) bool { return r.ID != kept })
	if err != nil || len(removed) != 1 || removed[0] != gone || freed == 0 {
		t.Errorf("removed %v, %d bytes, %v; want %s alone", removed, freed, err, gone)
	}
	for _, id := range []string{running, kept} {
		get(t, e, id)
	}
}

func TestHealthAfter(t *testing.T) {
	h := Health{Status: HealthStarting}
	bad, good := HealthResult{ExitCode: 1}, HealthResult{}
	for i, step := range []struct {
		result   HealthResult
		starting bool
		status   string
		streak   int
	}{
		{bad, true, HealthStarting, 0}, {bad, false, HealthStarting, 1}, {good, false, HealthHealthy, 0}, {bad, false, HealthHealthy, 1},
		{bad, false, HealthUnhealthy, 2}, {bad, false, HealthUnhealthy, 3}, {good, false, HealthHealthy, 0},
	} {
		if h = h.after(step.result, 2, step.starting); h.Status != step.status || h.FailingStreak != step.streak {
			t.Errorf("step %d: %s, %d failures", i, h.Status, h.FailingStreak)
		}
	}
	if len(h.Log) != healthLog {
		t.Errorf("%d results kept", len(h.Log))
	}
}

func TestRestartPolicies(t *testing.T) {
	for text, want := range map[string]RestartPolicy{
		"no": {Name: RestartNo}, "always": {Name: RestartAlways}, "on-failure": {Name: RestartOnFailure}, "on-failure:5": {Name: RestartOnFailure, MaxRetries: 5},
	} {
		if got, err := ParseRestart(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"never", "always:2", "on-failure:x", "on-failure:-1"} {
		if _, err := ParseRestart(text); err == nil {
			t.Errorf("%s is a policy", text)
		}
	}
}
