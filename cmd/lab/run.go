package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/hullvm/hull/cmd/lab/internal/client"
	"github.com/hullvm/hull/cmd/lab/internal/keeper"
	"github.com/hullvm/hull/cmd/lab/internal/outer"
	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

const timedOut = 124 // as timeout(1)

// impatience is how many SIGINT, SIGTERM or SIGHUP end the lab itself, whatever the
// command makes of them.
const impatience = 4

// runner runs one command, in a started machine or one of its own.
type runner struct {
	config  outer.Config
	request wire.Request
	timeout time.Duration
	place   keeper.Place
	started bool // use the machine at place if there is one
}

func (r *runner) run(ctx context.Context) error {
	c := client.New(os.Stdin)
	c.Out, c.Err, c.Timeout = os.Stdout, os.Stderr, r.timeout
	ctx, signals, stop := passSignals(ctx)
	defer stop()
	c.Signals = signals
	if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
		state, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return fmt.Errorf("lab: setting the terminal: %w", err)
		}
		defer term.Restore(int(os.Stdin.Fd()), state)
		c.Terminal = os.Stdin
	}

	exit, err := r.once(ctx, c)
	if again(err) && c.CanRepeat() {
		fmt.Fprintf(os.Stderr, "lab: %v\r\nlab: starting over in a new machine\r\n", err)
		r.started = false
		exit, err = r.once(ctx, c)
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(err, client.ErrTimeout):
		fmt.Fprintf(os.Stderr, "lab: the command was ended after %v\r\n", r.timeout)
		return status(timedOut)
	case errors.As(cause, new(interrupted)):
		var i interrupted
		errors.As(cause, &i)
		return status(128 + int(i))
	case err != nil:
		return err
	}
	if exit.Error != "" {
		fmt.Fprintf(os.Stderr, "lab: %s\r\n", exit.Error)
	}
	if exit.Status != 0 {
		return status(exit.Status)
	}
	return nil
}

// again tells whether an error is one of the machine's own.
func again(err error) bool {
	return errors.Is(err, outer.ErrMachine) || errors.Is(err, client.ErrLost)
}

// once runs the command in the started machine, if there is one, else in a new one.
func (r *runner) once(ctx context.Context, c *client.Client) (wire.Exit, error) {
	if r.started {
		conn, err := r.place.Dial()
		if err == nil {
			defer conn.Close()
			return c.Run(ctx, conn, r.request)
		}
		if !errors.Is(err, keeper.ErrNone) {
			return wire.Exit{}, err
		}
	}
	machine, err := outer.Start(ctx, r.config)
	if err != nil {
		return wire.Exit{}, err
	}
	defer machine.Close()
	stream, err := machine.Open()
	if err != nil {
		return wire.Exit{}, err
	}
	defer stream.Close()
	exit, err := c.Run(ctx, stream, r.request)
	if errors.Is(err, client.ErrLost) {
		if cause := machine.Err(); cause != nil { // the machine's end explains it
			err = cause
		}
	}
	return exit, err
}

// interrupted is the cause of a context that a signal has ended.
type interrupted syscall.Signal

func (i interrupted) Error() string { return "interrupted by " + syscall.Signal(i).String() }

// passSignals returns the signals that are meant for the command. The context ends
// when the user loses patience: a machine that hangs, or is still booting, does
// not heed signals.
func passSignals(ctx context.Context) (context.Context, <-chan os.Signal, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	raw := make(chan os.Signal, 16)
	signal.Notify(raw, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	out := make(chan os.Signal)
	go func() {
		for count := 0; ; {
			var s os.Signal
			select {
			case s = <-raw:
			case <-ctx.Done():
				return
			}
			select {
			case out <- s:
			case <-time.After(time.Second): // nobody there: booting, or stuck
				count = impatience
			}
			n := s.(syscall.Signal)
			if n == syscall.SIGINT || n == syscall.SIGTERM || n == syscall.SIGHUP {
				if count++; count >= impatience {
					cancel(interrupted(n))
				}
			}
		}
	}()
	return ctx, out, func() { signal.Stop(raw); cancel(nil) }
}
