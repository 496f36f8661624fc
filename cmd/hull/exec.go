package main

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newExec(a *app) *cobra.Command {
	var flags runFlags // of which these few are used
	var x engine.Exec
	var keys string
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Run a command in a running container",
		Long: `Run a further command in a running container, beside its main process. It has the
container's environment, user and working directory unless they are given.

The exit status is the command's: 127 if it was not found, 126 if it could not be
executed, 128+n if signal n killed it. If this hull is killed the command goes on.`,
		Example: `  hull exec web ps
  hull exec -it web sh
  hull exec -e LEVEL=3 -w /tmp -u nobody web sh -c 'echo $LEVEL; pwd'
  hull exec -d web sh -c 'sleep 60; touch /done'`,
		Args:              minArgs(2),
		ValidArgsFunction: completeCommand(completeRunning(a)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			x.Args, x.Terminal, x.WorkingDir, x.User = args[1:], flags.terminal, flags.workdir, flags.user
			if x.DetachKeys, err = engine.ParseDetachKeys(keys); err != nil {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
			}
			if x.Env, err = flags.environment(); err != nil {
				return err
			}
			exit, err := execCommand(a, cmd, args[0], x, flags.interactive)
			switch {
			case err != nil:
				return &statusError{execStatus(err), err}
			case exit.Code != 0:
				return &statusError{status: exit.Code}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows CONTAINER belongs to the command
	f.BoolVarP(&flags.interactive, "interactive", "i", false, "Pass standard input to the command")
	f.BoolVarP(&flags.terminal, "tty", "t", false, "Give the command a terminal")
	f.BoolVarP(&x.Detach, "detach", "d", false, "Do not wait for the command, nor show what it prints")
	f.StringArrayVarP(&flags.env, "env", "e", nil, "Set an environment `variable`: NAME=value, or NAME for this environment's value")
	f.StringArrayVar(&flags.envFiles, "env-file", nil, "Read environment variables from a `file`")
	f.StringVarP(&flags.workdir, "workdir", "w", "", "Working `directory` in the container")
	f.StringVarP(&flags.user, "user", "u", "", "`User` name or ID, with :group if wanted")
	f.BoolVar(&x.Privileged, "privileged", false, "Give the command all capabilities")
	f.StringVar(&keys, "detach-keys", engine.DefaultDetachKeys, "`Keys` that leave the command alone when typed at its terminal")
	return cmd
}

func execCommand(a *app, cmd *cobra.Command, ref string, x engine.Exec, interactive bool) (engine.Exit, error) {
	if x.Terminal && interactive && !x.Detach && !isTerminal(a.stdin) {
		return engine.Exit{}, errNoTTY
	}
	e, err := a.engine()
	if err != nil {
		return engine.Exit{}, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGWINCH)
	signal.Ignore(unix.SIGPIPE) // a reader that went away is reported by the write
	defer signal.Stop(signals)
	attach := engine.Attach{Stdout: a.stdout, Stderr: a.stderr, Signals: signals}
	if interactive {
		attach.Stdin = a.stdin
	}
	if x.Terminal {
		attach.Terminal = a.terminal()
	}
	return e.Exec(context.WithoutCancel(cmd.Context()), ref, x, attach)
}

// execStatus is the exit status of an exec that failed, as docker's: 125 is for run alone.
func execStatus(err error) int {
	if status := engine.ExitCode(err); status != statusUsage {
		return status
	}
	return statusFailed
}

var errTerminalOutput = errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
