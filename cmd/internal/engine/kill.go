package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"path/filepath"

	"github.com/hullvm/hull/guestinit/proto"
)

// ErrNotRunning says that something needs a running container.
var ErrNotRunning = errors.New("is not running")

// killPatience is how long the agent may take to carry out a signal before
// SIGKILL is turned on the VM itself.
const killPatience = 2 * time.Second

// Kill sends a signal to the main process of a running container.
func (e *Engine) Kill(ctx context.Context, ref string, signal unix.Signal) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if r.State.Status != StatusRunning {
		return fmt.Errorf("cannot kill container %s: container %s %w", ref, r.ID, ErrNotRunning)
	}
	err = e.signal(ctx, r, signal)
	var refused *proto.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Code == proto.CodeNoProcess:
		return fmt.Errorf("cannot kill container %s: container %s %w", ref, r.ID, ErrNotRunning)
	case signal != unix.SIGKILL:
		return fmt.Errorf("cannot kill container %s: %w", ref, err)
	}
	// An agent that is stuck or gone must not save the workload.
	if err := e.killVM(ctx, r); err != nil {
		return fmt.Errorf("cannot kill container %s: %w", ref, err)
	}
	return nil
}

func (e *Engine) signal(ctx context.Context, r *Record, signal unix.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	socket := filepath.Join(e.store.runDir(r.ID), socketName)
	conn, err := dialGuest(ctx, socket, proto.PortControl)
	if err != nil {
		return err
	}
	client, err := proto.Dial(ctx, conn, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Signal(ctx, proto.InitProcess, int(signal))
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
