package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeCLI runs one container in a process of its own: hull-cli BASE CONFIG.
func fakeCLI() int {
	if os.Args[1] == "supervise" { // hull-cli supervise BASE ID
		e := testEngineAt(os.Args[2])
		if err := e.Supervise(context.Background(), os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return ExitCode(err)
		}
		return 0
	}
	e := testEngineAt(os.Args[1])
	var c Config
	if err := json.Unmarshal([]byte(os.Args[2]), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	ctx := context.Background()
	container, err := e.Create(ctx, "", c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	exit, err := container.Run(ctx, Attach{Stdout: os.Stdout, Stderr: os.Stderr}, nil)
	if releaseErr := container.Release(ctx); err == nil {
		err = releaseErr
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ExitCode(err)
	}
	return exit.Code
}

// cli is a running hull-cli.
type cli struct {
	*exec.Cmd
	stdout io.ReadCloser
}

func startCLI(t *testing.T, e *Engine, c Config) *cli {
	t.Helper()
	c.Image = "test"
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Dir(e.Dirs().Data)
	cmd := exec.Command(filepath.Join(base, "hull-cli"), base, string(config))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &cli{cmd, stdout}
}

// kill ends the process without a chance to clean up.
func (c *cli) kill() {
	c.Process.Kill()
	c.Wait()
}

// only returns the one container there is.
func only(t *testing.T, e *Engine) *Record {
	t.Helper()
	all, err := e.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("containers: %v, %v; want one", all, err)
	}
	return all[0]
}

// waitGone waits until the process has ended.
func waitGone(t *testing.T, p ProcessRef) {
	t.Helper()
	fd, err := p.open()
	if err != nil {
		return
	}
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(patience); ; {
		n, err := unix.Poll(fds, 1000)
		if n > 0 {
			return
		}
		if err != nil && err != unix.EINTR || time.Now().After(end) {
			t.Fatalf("process %d is still there: %v", p.PID, err)
		}
	}
}

func TestKilledCLI(t *testing.T) {
	e := newTestEngine(t)
	for _, keep := range []bool{false, true} {
		for _, stubborn := range []bool{false, true} {
			t.Run(fmt.Sprintf("keep=%v,stubborn=%v", keep, stubborn), func(t *testing.T) {
				c := Config{Args: []string{"sh", "-c", "echo ready; exec sleep 100"}, AutoRemove: !keep}
				if stubborn {
					c.Append = "fake=stubborn" // its VM process does not notice that it is alone
				}
				cli := startCLI(t, e, c)
				if line, err := bufio.NewReader(cli.stdout).ReadString('\n'); line != "ready\n" {
					t.Fatalf("%q, %v", line, err)
				}
				waitRunning(t, e)
				r := only(t, e)
				if r.State.Supervisor.PID != cli.Process.Pid || !r.State.VM.Alive() || !r.State.Alive() {
					t.Errorf("state %+v", r.State)
				}
				if err := e.Remove(t.Context(), r.ID, false); err == nil || !strings.Contains(err.Error(), "running") {
					t.Errorf("removing a running container: %v", err)
				}
				cli.kill()
				if stubborn {
					if _, err := e.List(t.Context()); err != nil {
						t.Error(err)
					}
				}
				waitGone(t, r.State.VM)
				if keep {
					r := only(t, e)
					if r.State.Status != StatusExited || r.State.ExitCode != 137 || r.State.Error == "" {
						t.Errorf("state %+v", r.State)
					}
					if err := e.Remove(t.Context(), r.Name, false); err != nil {
						t.Error(err)
					}
				} else if all, err := e.List(t.Context()); err != nil || len(all) != 0 {
					t.Errorf("containers %v, %v", all, err)
				}
				mustBeEmpty(t, e)
			})
		}
	}
}

// Processes are killed at random moments, the VM or who started it or both.
func TestKilledAtRandom(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	e := newTestEngine(t)
	if err := e.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for round := range rounds {
		cli := startCLI(t, e, Config{Args: []string{"sh", "-c", "exec sleep 0.02"}, AutoRemove: round%2 == 0})
		cli.Stderr = nil
		timer := time.NewTimer(rand.N(60 * time.Millisecond))
		<-timer.C
		var vm ProcessRef
		if ids, err := e.store.ids(); err == nil && len(ids) == 1 {
			if r, err := e.store.load(ids[0]); err == nil {
				vm = r.State.VM
			}
		}
		if round%3 != 0 {
			vm.Kill(unix.SIGKILL)
		}
		if round%3 != 1 {
			cli.kill()
		} else {
			cli.Wait()
		}
		waitGone(t, vm)
		all, err := e.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if r.State.Alive() {
				waitGone(t, r.State.VM)
			}
			if err := e.Remove(t.Context(), r.ID, true); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if err := e.store.sweepAll(t.Context()); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		mustBeEmpty(t, e)
		if t.Failed() {
			return
		}
	}
	if got := runTest(t, e, sh("echo fine"), Attach{}, nil); got.stdout != "fine\n" {
		t.Errorf("afterwards: %+v", got)
	}
}

func TestForceRemove(t *testing.T) {
	e := newTestEngine(t)
	for _, keep := range []bool{false, true} {
		cli := startCLI(t, e, Config{Args: []string{"sh", "-c", "echo ready; exec sleep 100"}, AutoRemove: !keep})
		cli.Stderr = nil
		if line, err := bufio.NewReader(cli.stdout).ReadString('\n'); line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if err := e.Remove(t.Context(), only(t, e).Name, true); err != nil {
			t.Error(err)
		}
		cli.Wait()
		if code := cli.ProcessState.ExitCode(); code != 137 {
			t.Errorf("exit status %d, want 137", code)
		}
		mustBeEmpty(t, e)
	}
}

func TestKill(t *testing.T) {
	e := newTestEngine(t)
	for behave, signal := range map[string]unix.Signal{"none": unix.SIGTERM, "deaf": unix.SIGKILL} {
		cli := startCLI(t, e, Config{Args: []string{"sh", "-c", "echo ready; exec sleep 100"}, AutoRemove: true, Append: "fake=" + behave})
		cli.Stderr = nil
		if line, err := bufio.NewReader(cli.stdout).ReadString('\n'); line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		id := waitRunning(t, e)
		if err := e.Kill(t.Context(), id, signal); err != nil {
			t.Error(err)
		}
		cli.Wait()
		if code := cli.ProcessState.ExitCode(); code != 128+int(signal) {
			t.Errorf("exit status %d, want %d", code, 128+int(signal))
		}
		if err := e.Kill(t.Context(), id, signal); err == nil {
			t.Error("killed a container that is gone")
		}
		mustBeEmpty(t, e)
	}
}

// waitRunning waits until the record of the one container says that it runs.
func waitRunning(t *testing.T, e *Engine) string {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if r := only(t, e); r.State.Status == StatusRunning {
			return r.ID
		}
		<-tick.C
	}
}

// TestAliveInAStormOfSignals: a process that is signalled while it asks is told the truth.
func TestAliveInAStormOfSignals(t *testing.T) {
	self, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // Go's scheduler sends it whenever it likes
			}
		}
	})
	for range 50_000 {
		if !self.Alive() {
			t.Error("this process is dead")
			break
		}
	}
	close(stop)
	wg.Wait()
	if (ProcessRef{PID: os.Getpid(), Start: self.Start + 1}).Alive() {
		t.Error("a process with another start is alive")
	}
}

// A container that runs under a newer hull, whose records this one cannot read, is left alone: it is shown as broken, is
// no leftover, and is the newer one's again.
func TestRunsUnderNewerHull(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, Config{Args: []string{"sleep", "1000"}})
	other := background(t, e, Config{Args: []string{"sleep", "1000"}})
	path := filepath.Join(e.store.dir(id), recordName)
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.CreateVolume(t.Context(), Volume{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	newer := get(t, e, id)
	newer.Version, newer.Config.Mounts = recordVersion+1, []Mount{{Source: "data", Target: "/data", Volume: true}}
	if err := newer.write(e.store.dir(id)); err != nil {
		t.Fatal(err)
	}
	if err := e.store.sweepAll(t.Context()); err != nil {
		t.Error(err)
	}
	r := get(t, e, id)
	if r.State.Status != StatusDead || !strings.Contains(r.State.Error, "format version 2, this hull knows up to 1") {
		t.Errorf("state %+v", r.State)
	}
	if err := e.Remove(t.Context(), id, false); !errors.Is(err, ErrRunning) {
		t.Errorf("removing it: %v", err)
	}
	if c, err := e.Hold(t.Context(), id); err == nil {
		t.Errorf("it was taken: %v", c)
	}
	if _, _, err := e.PruneContainers(t.Context(), func(*Record) bool { return true }); err != nil {
		t.Errorf("prune: %v", err)
	}
	if _, err := e.RemoveVolume(t.Context(), "data"); !errors.Is(err, ErrVolumeInUse) {
		t.Errorf("removing its volume: %v", err)
	}
	if r := get(t, e, other); r.State.Status != StatusRunning {
		t.Errorf("the other: %+v", r.State)
	}
	if err := os.WriteFile(path, record, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := get(t, e, id); r.State.Status != StatusRunning || !r.State.Supervisor.Alive() || !r.State.VM.Alive() {
		t.Errorf("after all that: %+v", r.State)
	}
}
