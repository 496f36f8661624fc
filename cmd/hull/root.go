package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// Exit statuses of failed commands, as docker's.
const (
	statusFailed = 1   // the command could not do what it should
	statusUsage  = 125 // a flag was wrong; for run and boot: hull itself failed
)

// statusError is an error with an exit status of its own. With a nil err
// nothing is printed: all has been said.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// usageError is an error about flags or arguments, with a hint where to read on.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v\nSee '%s --help'.", e.err, e.command)
}

func (e *usageError) Unwrap() error { return e.err }

// newRoot makes the command line of hull, with these of its commands.
func newRoot(a *app, commands []entry) *cobra.Command {
	root := &cobra.Command{
		Use:   "hull",
		Short: "Containers in microVMs",
		Long: `hull runs containers in microVMs: each has its own kernel, and starts like a
container. Verbs, flags, output and exit codes are docker's.`,
		Example: `  hull run --rm uroot uname -r     # a container of the built-in image
  hull run --rm -it debian bash    # one from a registry
  hull boot                        # a bare VM on this terminal
  hull doctor                      # what this host lets hull do`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           versionString(),
		Args:              cobra.ArbitraryArgs,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{"hull", fmt.Errorf("%q is not a hull command", args[0])}
			}
			return cmd.Help()
		},
	}
	root.SetVersionTemplate("hull version {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
	})
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddGroup(
		&cobra.Group{ID: groupContainers, Title: "Containers:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupStorage, Title: "Networks and volumes:"},
		&cobra.Group{ID: groupHost, Title: "This host:"},
	)
	for _, e := range commands {
		c := e.construct(a)
		c.GroupID = e.group
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
	root.SetHelpCommandGroupID(groupHost)
	return root
}

// run executes a command line and returns the exit status.
func run(a *app, args []string) int {
	defer a.close()
	args = ungroup(args)
	root := newRoot(a, asked(args))
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return 0
	}
	err = explain(cmd, err)
	status := statusFailed
	var withStatus *statusError
	if errors.As(err, &withStatus) {
		status = withStatus.status
		if withStatus.err == nil {
			return status
		}
	}
	fmt.Fprintf(a.stderr, "%s: %s\n", cmd.CommandPath(), message(err))
	return status
}

// message is an error's text, on lines that a terminal can show.
func message(err error) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return '�' // names in it may come from a hostile image or guest
		}
		return r
	}, err.Error())
}

// exactArgs is cobra's rule of that name, and minArgs that of MinimumNArgs, with
// docker's words.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return wrongArgs(cmd, "exactly", n)
	}
}

func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return wrongArgs(cmd, "at least", n)
	}
}

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return wrongArgs(cmd, "at least", least)
		case len(args) > most:
			return wrongArgs(cmd, "at most", most)
		}
		return nil
	}
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return wrongArgs(cmd, "at most", n)
	}
}

func wrongArgs(cmd *cobra.Command, how string, n int) error {
	plural := "s"
	if n == 1 {
		plural = ""
	}
	err := fmt.Errorf("%q requires %s %d argument%s", cmd.CommandPath(), how, n, plural)
	if n == 0 {
		err = fmt.Errorf("%q accepts no arguments", cmd.CommandPath())
	}
	return &usageError{cmd.CommandPath(), err}
}

// interruptible is the context of a command that an interrupt ends: it cleans up
// and fails, and run says why. It is the command's from then on.
func interruptible(cmd *cobra.Command) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		select {
		case s := <-signals:
			cancel(&engine.InterruptedError{Signal: s.(unix.Signal)})
		case <-ctx.Done():
		}
	}()
	cmd.SetContext(ctx)
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// explain returns the interrupt that ended a command as its error.
func explain(cmd *cobra.Command, err error) error {
	var interrupted *engine.InterruptedError
	if errors.Is(err, context.Canceled) && errors.As(context.Cause(cmd.Context()), &interrupted) {
		return &statusError{engine.ExitCode(interrupted), interrupted}
	}
	return err
}
