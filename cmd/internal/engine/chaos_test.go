package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envChaos is how long TestChaos lasts; `make chaos TIME=10m` sets it.
const envChaos = "CHAOS_TIME"

// chaosTime is how long it lasts else.
const chaosTime = 5 * time.Second

// TestChaos has four users give commands at random to a handful of containers, while supervisors and VMs are killed at
// random. No command may hang, no record may be lost or broken, and in the end everything can be removed.
func TestChaos(t *testing.T) {
	lasts := chaosTime
	if text := os.Getenv(envChaos); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", envChaos, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	e := newTestEngine(t)
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var users sync.WaitGroup
	var mu sync.Mutex
	count := make(map[string]int)
	for user := range 4 {
		users.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(user)))
			for ctx.Err() == nil {
				what, err := chaosStep(t.Context(), e, random)
				mu.Lock()
				count[what]++
				mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	users.Go(func() {
		random := rand.New(rand.NewPCG(seed, 99))
		for ctx.Err() == nil {
			time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond) // a random moment
			chaosKill(t, e, random)
		}
	})
	users.Wait()
	t.Log(count)
	all, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.State.Status == StatusDead {
			t.Errorf("container %s is broken: %s", r.ID, r.State.Error)
		}
		settled(t, e, r.ID)
		if err := e.Remove(t.Context(), r.ID, true); err != nil && !errors.Is(err, ErrNoContainer) {
			t.Error(err)
		}
	}
	noneLeft(t, filepath.Dir(e.Dirs().Data))
	if _, err := e.List(t.Context()); err != nil { // which sweeps
		t.Error(err)
	}
	mustBeEmpty(t, e)
}

// settled waits until a container is gone, has a supervisor, or is seen to have ended: the VM of one whose supervisor was
// just killed has to notice.
func settled(t *testing.T, e *Engine, id string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		r, err := e.Get(t.Context(), id)
		if errors.Is(err, ErrNoContainer) || err == nil && (!r.State.Alive() || r.State.Supervisor.Alive()) {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Errorf("container %s has no supervisor: %+v, %v", id, r, err)
			return
		}
	}
}

// chaosStep gives one command. The error is of a kind that must not be.
func chaosStep(parent context.Context, e *Engine, random *rand.Rand) (what string, err error) {
	ctx, cancel := context.WithTimeout(parent, patience)
	defer cancel()
	name := fmt.Sprintf("c%d", random.IntN(6))
	short := 20 * time.Millisecond
	steps := []struct {
		name string
		do   func() error
	}{
		{"create", func() error {
			c := sh2("echo here; sleep 0.2")
			c.Image, c.AutoRemove = "test", random.IntN(3) == 0
			if random.IntN(3) == 0 && !c.AutoRemove {
				c.Restart = RestartPolicy{Name: RestartAlways}
			}
			held, err := e.Create(ctx, name, c)
			if err != nil {
				return err
			}
			if random.IntN(2) == 0 {
				return held.Leave()
			}
			_, err = held.Start(ctx, StartOptions{})
			return errors.Join(err, held.Release(ctx))
		}},
		{"start", func() error {
			held, err := e.Hold(ctx, name)
			if err != nil {
				return err
			}
			_, err = held.Start(ctx, StartOptions{})
			return errors.Join(err, held.Release(ctx))
		}},
		{"stop", func() error { return e.Stop(ctx, name, StopOptions{Timeout: &short}) }},
		{"kill", func() error { return e.Kill(ctx, name, unix.SIGKILL) }},
		{"hang up", func() error { return e.Kill(ctx, name, unix.SIGHUP) }},
		{"remove", func() error { return e.Remove(ctx, name, false) }},
		{"force", func() error { return e.Remove(ctx, name, true) }},
		{"pause", func() error { return e.Pause(ctx, name) }},
		{"unpause", func() error { return e.Unpause(ctx, name) }},
		{"rename", func() error {
			other := fmt.Sprintf("c%d", random.IntN(6))
			return e.Change(ctx, name, Change{Name: &other})
		}},
		{"wait", func() error {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			_, err := e.Wait(ctx, name)
			return err
		}},
		{"logs", func() error {
			return e.Logs(ctx, name, LogOptions{Tail: 5}, func(LogEntry) error { return nil })
		}},
		{"list", func() error { _, err := e.List(ctx); return err }},
	}
	step := steps[random.IntN(len(steps))]
	err = step.do()
	switch {
	case err == nil:
		return step.name, nil
	case ctx.Err() != nil:
		return step.name, fmt.Errorf("it hangs: %w", err)
	case errors.Is(err, ErrBroken) || strings.Contains(err.Error(), "panic"):
		return step.name, err
	case step.name == "list":
		return step.name, err // it has nothing to complain of
	}
	return step.name + ", refused", nil
}

// chaosKill kills a supervisor, a VM, or both.
func chaosKill(t *testing.T, e *Engine, random *rand.Rand) {
	t.Helper()
	all, err := e.List(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	if len(all) == 0 {
		return
	}
	s := all[random.IntN(len(all))].State
	victims := [][]ProcessRef{{s.Supervisor}, {s.VM}, {s.Supervisor, s.VM}}[random.IntN(3)]
	for _, p := range victims {
		if p.PID != os.Getpid() {
			_, _ = p.Kill(unix.SIGKILL) // it may have just ended
		}
	}
}

// noneLeft waits until no process of programs in dir is left.
func noneLeft(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left := processesOf(dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("processes are left: %q", left)
			return
		}
	}
}

func processesOf(dir string) []string {
	entries, _ := os.ReadDir("/proc")
	var found []string
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		line, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if program, _, _ := strings.Cut(string(line), "\x00"); strings.HasPrefix(program, dir+"/") {
			found = append(found, entry.Name()+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
