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
	"github.com/hullvm/hull/images"
)

func newRun(a *app) *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Run a command in a new container, in a microVM of its own",
		Long: `Run a command in a new container. The container is a microVM with its own kernel;
its image comes from the local store, else from its registry.

The exit status is the command's: 127 if it was not found, 126 if it could not be
executed, 128+n if signal n killed it, and 125 if hull itself failed.`,
		Example: `  hull run --rm uroot uname -r
  hull run --rm -it debian bash
  hull run -d --name web --restart always -p 8080:80 uroot sleep 1000
  echo hi | hull run --rm -i uroot cat
  hull run --rm --memory 2g --cpus 1.5 -e LEVEL=3 -w /tmp uroot sh -c 'echo $LEVEL; pwd'
  hull run --rm -v "$PWD":/src:ro -v cache:/var/cache uroot ls /src
  hull run --rm --timing=start.svg uroot true`,
		Args:              minArgs(1),
		ValidArgsFunction: completeCommand(completeImages(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := runContainer(a, cmd, &flags, args)
			if err != nil {
				var already *statusError
				if !errors.As(err, &already) {
					err = &statusError{engine.ExitCode(err), err}
				}
				return err
			}
			if status != 0 {
				return &statusError{status: status}
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows IMAGE belongs to the command
	flags.registerRun(cmd.Flags(), a.getenv)
	completeRunFlags(a, cmd)
	return cmd
}

// errNoTTY is what docker says when -it meets a pipe.
var errNoTTY = errors.New("the input device is not a TTY")

func runContainer(a *app, cmd *cobra.Command, flags *runFlags, args []string) (status int, err error) {
	config, err := flags.config(cmd, args[0], args[1:])
	if err != nil {
		return 0, &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
	}
	if flags.terminal && flags.interactive && !flags.detach && !isTerminal(a.stdin) {
		return 0, errNoTTY
	}
	keys, err := engine.ParseDetachKeys(flags.detachKeys)
	if err != nil {
		return 0, &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
	}
	config.StdinOnce = config.OpenStdin && !flags.detach
	e, err := a.engine()
	if err != nil {
		return 0, err
	}
	// The signals are the workload's; before there is one they end the run.
	signals := make(chan os.Signal, 16)
	if flags.sigProxy {
		signal.Notify(signals, engine.Forwardable()...)
	} else {
		signal.Notify(signals, unix.SIGWINCH)
	}
	signal.Ignore(unix.SIGPIPE) // a reader that went away is reported by the write
	defer signal.Stop(signals)
	ctx, container, err := createContainer(a, cmd, e, flags, config)
	if err != nil {
		return 0, err
	}
	defer func() {
		if releaseErr := container.Release(ctx); err == nil {
			err = releaseErr
		}
	}()
	if flags.detach {
		if _, err := container.Start(ctx, engine.StartOptions{}); err != nil {
			return 0, err
		}
		fmt.Fprintln(a.stdout, container.ID())
		return 0, nil
	}
	attach := a.attach("hull run", signals, flags.interactive, flags.terminal)
	var exit engine.Exit
	if canLeave := flags.terminal && flags.interactive && flags.timing == ""; canLeave || !config.Restart.None() {
		exit, err = container.Start(ctx, engine.StartOptions{Attach: &attach, Bound: true, DetachKeys: keys})
		if errors.Is(err, engine.ErrDetached) {
			return 0, nil
		}
	} else {
		exit, err = container.Run(ctx, attach, a.line)
	}
	if flags.timing != "" {
		if timingErr := a.showTiming(flags.timing, "hull run "+config.Image); err == nil {
			err = timingErr
		}
	}
	if err == nil && exit.OOMKilled && exit.Code != 0 {
		a.say("hull run: the container ran out of memory (--memory %s)", flags.memory)
	}
	return exit.Code, err
}

// attach are this process's ends of a container's streams.
func (a *app) attach(command string, signals <-chan os.Signal, stdin, terminal bool) engine.Attach {
	attach := engine.Attach{Stdout: a.stdout, Stderr: a.stderr, Signals: signals, Note: func(text string) {
		fmt.Fprintf(a.stderr, "%s: %s\r\n", command, text) // the terminal may be raw
	}}
	if stdin {
		attach.Stdin = a.stdin
	}
	if terminal {
		attach.Terminal = a.terminal()
	}
	return attach
}

// createContainer creates the container, and gets its image first if that is not
// here. An interrupt ends that.
func createContainer(a *app, cmd *cobra.Command, e *engine.Engine, flags *runFlags, config engine.Config) (context.Context, *engine.Container, error) {
	if flags.cidFile != "" {
		if _, err := os.Lstat(flags.cidFile); err == nil {
			return nil, nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", flags.cidFile)
		}
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	outlive := context.WithoutCancel(ctx)
	fetch := pullOptions{out: a.stderr, quiet: flags.quiet, platform: flags.platform}
	if flags.pull == pullAlways && config.Image != engine.BuiltinImage {
		if err := pull(ctx, a, e, config.Image, fetch); err != nil {
			return nil, nil, err
		}
	}
	container, err := e.Create(ctx, flags.name, config)
	missing := errors.Is(err, images.ErrNotFound) || errors.Is(err, engine.ErrPlatformMismatch) && flags.platform != ""
	if missing && flags.pull == pullMissing {
		a.say("Unable to find image '%s' locally", familiar(config.Image))
		if pullErr := pull(ctx, a, e, config.Image, fetch); pullErr != nil {
			return nil, nil, fmt.Errorf("image %q: not in the local store; %w", config.Image, pullErr)
		}
		container, err = e.Create(ctx, flags.name, config)
	}
	if err == nil && ctx.Err() != nil { // too late to stop it from being made
		err = errors.Join(ctx.Err(), container.Release(outlive))
	}
	if err == nil && flags.cidFile != "" {
		if err = os.WriteFile(flags.cidFile, []byte(container.ID()), 0o644); err != nil {
			err = errors.Join(fmt.Errorf("writing the container's ID: %w", err), container.Release(outlive))
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return outlive, container, nil
}

// terminal is the user's terminal: whichever standard stream is one.
func (a *app) terminal() *os.File {
	for _, f := range []*os.File{a.stdin, a.stdout, a.stderr} {
		if isTerminal(f) {
			return f
		}
	}
	return nil
}

// familiar is an image's name as docker shows it.
func familiar(ref string) string {
	if r, err := images.ParseReference(ref); err == nil {
		return r.Familiar()
	}
	return ref
}
