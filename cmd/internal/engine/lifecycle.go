package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Hold takes a container that is not alive, to start it. It returns ErrAlreadyRunning for one that is.
func (e *Engine) Hold(ctx context.Context, ref string) (*Container, error) {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if r.State.Status == StatusDead {
		return nil, fmt.Errorf("container %s is marked for removal and cannot be started: %s", ref, r.State.Error)
	}
	lock, err := e.store.lock(r.ID)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("container %s %w", r.Name, ErrAlreadyRunning)
	}
	if err != nil {
		return nil, err
	}
	if r, err = e.store.load(r.ID); err != nil {
		lock.Close()
		return nil, err
	}
	return e.hold(r, lock), nil
}

// ErrAlreadyRunning says that a container need not be started.
var ErrAlreadyRunning = errors.New("is already running")

// StopOptions say how a container is stopped.
type StopOptions struct {
	Signal unix.Signal // 0: the container's own
	// Timeout is how long it may take before it is killed; nil: the container's own, negative: any time.
	Timeout *time.Duration
	// Host says that it is stopped because the host goes down: its restart policy starts it again with the host.
	Host bool
}

// Stop stops a container. One that does not run is left as it is.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !r.State.Alive() {
		return nil
	}
	timeout := r.stopTimeout()
	if o.Timeout != nil {
		timeout = *o.Timeout
	}
	_, err = e.ask(ctx, r.ID, request{Op: opStop, Signal: int(o.Signal), Timeout: timeout, Host: o.Host})
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return fmt.Errorf("cannot stop container: %s: %w", ref, err)
	}
	e.emit(r, "stop", nil)
	return e.awaitRelease(ctx, r)
}

// awaitRelease waits until nobody holds a container that has ended.
func (e *Engine) awaitRelease(ctx context.Context, r *Record) error {
	lock, err := waitLock(ctx, filepath.Join(e.store.dir(r.ID), lockName), 0, removePatience)
	switch {
	case errors.Is(err, errLocked):
		return fmt.Errorf("container %s has ended, but its supervisor has not let go of it: %w", r.Name, err)
	case err != nil:
		return nil // it has gone with its end
	}
	return lock.Close()
}

// Wait waits until a container has ended, and returns its exit status. One that does not run has ended.
func (e *Engine) Wait(ctx context.Context, ref string) (Exit, error) {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return Exit{}, err
	}
	if !r.State.Alive() {
		return Exit{Code: r.State.ExitCode, OOMKilled: r.State.OOMKilled}, nil
	}
	a, err := e.ask(ctx, r.ID, request{Op: opWait})
	if err == nil && a.Exit != nil {
		return *a.Exit, nil
	}
	if ctx.Err() != nil {
		return Exit{}, err
	}
	if err := e.awaitRelease(ctx, r); err != nil {
		return Exit{}, err
	}
	return e.lastExit(ctx, r.ID, err)
}

// Pause stops all of a running container where it is, Unpause lets it go on.
func (e *Engine) Pause(ctx context.Context, ref string) error { return e.askRunning(ctx, ref, opPause) }

// Unpause lets a paused container go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.askRunning(ctx, ref, opUnpause)
}

func (e *Engine) askRunning(ctx context.Context, ref, op string) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !r.State.Alive() {
		return fmt.Errorf("container %s %w", r.ID, ErrNotRunning)
	}
	_, err = e.ask(ctx, r.ID, request{Op: op})
	return err
}

// PruneContainers removes the containers that are not alive and that fit. It lists what has gone, also when it fails.
func (e *Engine) PruneContainers(ctx context.Context, fits func(*Record) bool) (removed []string, freed int64, err error) {
	all, err := e.List(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range all {
		if r.State.Alive() || !fits(r) {
			continue
		}
		size := e.Written(r.ID)
		err := e.Remove(ctx, r.ID, false)
		switch {
		case err == nil:
			removed, freed = append(removed, r.ID), freed+size
		case !errors.Is(err, ErrRunning) && !errors.Is(err, ErrNoContainer):
			return removed, freed, err
		}
	}
	return removed, freed, nil
}

// StartAfterBoot starts what should run by its restart policy and does not: what the end of the host has ended. It
// goes on after a failure, and calls report for each container.
func (e *Engine) StartAfterBoot(ctx context.Context, report func(r *Record, err error)) error {
	all, err := e.List(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		policy := r.Config.Restart.Name
		wanted := policy == RestartAlways || policy == RestartUnlessStopped && !r.State.StoppedByUser
		if !wanted || r.State.Alive() || r.State.Status == StatusDead {
			continue
		}
		c, err := e.Hold(ctx, r.ID)
		if errors.Is(err, ErrAlreadyRunning) {
			continue
		}
		if err == nil {
			_, err = c.Start(ctx, StartOptions{})
			err = errors.Join(err, c.Release(ctx))
		}
		report(r, err)
	}
	return nil
}
