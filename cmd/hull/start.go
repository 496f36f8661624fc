package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newStart(a *app) *cobra.Command {
	var attach, interactive bool
	var detachKeys, checkpoint, checkpointDir string
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start containers that do not run",
		Long: `Start containers that were created or have ended. With --attach the output of one
is shown until it ends, and the exit status is the container's.`,
		Example: `  hull start web db
  hull start -a job
  hull start -ai shell`,
		Args:              minArgs(1),
		ValidArgsFunction: completeStopped(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := engine.ParseDetachKeys(detachKeys)
			if err != nil {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if checkpoint != "" {
				if len(args) > 1 {
					return errors.New("you cannot restore multiple containers at once")
				}
				if err := useCheckpoint(cmd.Context(), e, args[0], checkpointDir, checkpoint); err != nil {
					return err
				}
			}
			if attach || interactive {
				if len(args) > 1 {
					return errors.New("you cannot start and attach multiple containers at once")
				}
				return a.startAttached(cmd.Context(), e, args[0], interactive, keys)
			}
			return each(a, cmd, args, func(ref string) error {
				if err := startContainer(cmd.Context(), e, ref, engine.StartOptions{}); err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, ref)
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "Show the container's output and pass signals on")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "Pass standard input to the container")
	cmd.Flags().StringVar(&checkpoint, "checkpoint", "", "Go on from the checkpoint of this `name`")
	cmd.Flags().StringVar(&checkpointDir, "checkpoint-dir", "", checkpointDirHelp)
	cmd.Flags().StringVar(&detachKeys, "detach-keys", engine.DefaultDetachKeys, detachKeysHelp)
	return cmd
}

// useCheckpoint has the next start of a container go on from a checkpoint.
func useCheckpoint(ctx context.Context, e *engine.Engine, ref, dir, name string) error {
	c, err := e.Hold(ctx, ref)
	if err != nil {
		return err
	}
	return errors.Join(c.UseCheckpoint(dir, name), c.Release(ctx))
}

// startContainer starts a container in the background; one that runs is left as it is.
func startContainer(ctx context.Context, e *engine.Engine, ref string, o engine.StartOptions) error {
	c, err := e.Hold(ctx, ref)
	if errors.Is(err, engine.ErrAlreadyRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = c.Start(ctx, o)
	return errors.Join(err, c.Release(ctx))
}

func (a *app) startAttached(ctx context.Context, e *engine.Engine, ref string, stdin bool, keys []byte) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if r.Config.Terminal && stdin && !isTerminal(a.stdin) {
		return errNoTTY
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, engine.Forwardable()...)
	signal.Ignore(unix.SIGPIPE)
	defer signal.Stop(signals)
	ends := a.attach("hull start", signals, stdin && r.Config.OpenStdin, r.Config.Terminal)
	c, err := e.Hold(ctx, ref)
	if errors.Is(err, engine.ErrAlreadyRunning) {
		return endOf(e.Attach(ctx, ref, engine.AttachOptions{Attach: ends, DetachKeys: keys}))
	}
	if err != nil {
		return err
	}
	exit, err := c.Start(ctx, engine.StartOptions{Attach: &ends, DetachKeys: keys})
	if releaseErr := c.Release(ctx); err == nil {
		err = releaseErr
	}
	return endOf(exit, err)
}

// endOf makes a command end as the container that it was attached to.
func endOf(exit engine.Exit, err error) error {
	switch {
	case errors.Is(err, engine.ErrDetached):
		return nil
	case err != nil:
		return &statusError{engine.ExitCode(err), err}
	case exit.Code != 0:
		return &statusError{status: exit.Code}
	}
	return nil
}
