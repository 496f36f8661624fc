package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newRemove(a *app) *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Remove containers",
		Long:  "Remove containers that have ended, with what they have written. --force ends running ones first.",
		Example: `  hull rm web
  hull rm -f $(hull ps -aq)`,
		Args:              minArgs(1),
		ValidArgsFunction: completeContainers(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(a, cmd, args, func(ref string) error {
				r, err := e.Get(cmd.Context(), ref)
				if err == nil {
					err = e.Remove(cmd.Context(), r.ID, force)
				}
				if err == nil && volumes {
					err = e.RemoveAnonymous(cmd.Context(), r)
				}
				if force && errors.Is(err, engine.ErrNoContainer) {
					a.say("%s: %v", cmd.CommandPath(), err) // docker does not count that as a failure
					return nil
				}
				if err == nil {
					fmt.Fprintln(a.stdout, ref)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Kill the container if it runs")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "Remove the container's anonymous volumes too")
	return cmd
}

// each does something with every argument; errors are told as they come and make
// the command fail in the end.
func each(a *app, cmd *cobra.Command, args []string, do func(string) error) error {
	failed := false
	for _, arg := range args {
		if err := do(arg); err != nil {
			fmt.Fprintf(a.stderr, "%s: %s\n", cmd.CommandPath(), message(err))
			failed = true
		}
	}
	if failed {
		return &statusError{status: statusFailed}
	}
	return nil
}

// together is each for what takes time: all at once, told in order. A command that succeeds prints the argument.
func together(a *app, cmd *cobra.Command, args []string, do func(string) error) error {
	results := make([]chan error, len(args))
	for i, arg := range args {
		results[i] = make(chan error, 1)
		go func() { results[i] <- do(arg) }()
	}
	i := -1
	return each(a, cmd, args, func(ref string) error {
		i++
		err := <-results[i]
		if err == nil {
			fmt.Fprintln(a.stdout, ref)
		}
		return err
	})
}
