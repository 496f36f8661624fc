package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotRunning says that something needs a running container.
var ErrNotRunning = errors.New("is not running")

// killPatience is how long the agent may take to carry out a signal before
// SIGKILL is turned on the VM itself.
const killPatience = 2 * time.Second

// endPatience is how long Kill waits for the end of what it has killed, as docker does.
const endPatience = 10 * time.Second

// Kill sends a signal to the main process of a running container, and after SIGKILL waits for the container's end: what comes next finds one
// that does not run. SIGKILL, and the signal that stops the container, end it
// for good: it is not started again by its restart policy.
func (e *Engine) Kill(ctx context.Context, ref string, signal unix.Signal) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !r.State.Up() {
		return fmt.Errorf("cannot kill container %s: container %s %w", ref, r.ID, ErrNotRunning)
	}
	asked, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	_, err = e.ask(asked, r.ID, request{Op: opSignal, Signal: int(signal)})
	switch {
	case err == nil:
		e.emit(r, "kill", map[string]string{"signal": strconv.Itoa(int(signal))})
		if signal == unix.SIGKILL {
			ending, cancel := context.WithTimeout(ctx, endPatience)
			defer cancel()
			_, _ = e.ask(ending, r.ID, request{Op: opWait, Next: true}) // a supervisor that does not answer has ended
		}
		return nil
	case errors.Is(err, ErrNotRunning) || signal != unix.SIGKILL:
		return fmt.Errorf("cannot kill container %s: %w", ref, err)
	}
	// An agent or a supervisor that is stuck must not save the workload.
	if err := e.killVM(ctx, r); err != nil {
		return fmt.Errorf("cannot kill container %s: %w", ref, err)
	}
	return nil
}

// killVM ends the VM process of a container that was alive a moment ago. It
// waits for one that is about to be started.
func (e *Engine) killVM(ctx context.Context, r *Record) error {
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	tick := time.NewTicker(gatePoll)
	defer tick.Stop()
	for {
		if killed, err := r.State.VM.Kill(unix.SIGKILL); killed || err != nil {
			return err
		}
		lock, err := e.store.lock(r.ID)
		if err == nil {
			return lock.Close() // it has ended by itself
		}
		if errors.Is(err, ErrNoContainer) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for its VM: %w", ctx.Err())
		}
		latest, err := e.store.load(r.ID)
		switch {
		case errors.Is(err, ErrNoContainer):
			return nil
		case err != nil:
			return err
		}
		r = latest
	}
}
