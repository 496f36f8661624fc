package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Wait until containers have ended, and print their exit statuses",
		Long:  "Wait until containers have ended, and print the exit status of each on a line of its own.",
		Example: `  hull wait job
  test "$(hull wait job)" = 0`,
		Args:              minArgs(1),
		ValidArgsFunction: completeContainers(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(a, cmd, args, func(ref string) error {
				exit, err := e.Wait(cmd.Context(), ref)
				if err == nil {
					fmt.Fprintln(a.stdout, exit.Code)
				}
				return err
			})
		},
	}
}
