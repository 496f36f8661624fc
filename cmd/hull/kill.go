package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newKill(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Send a signal to running containers",
		Long:  "Send a signal to the main process of running containers: KILL unless --signal says otherwise.",
		Example: `  hull kill web
  hull kill -s HUP web`,
		Args:              minArgs(1),
		ValidArgsFunction: completeRunning(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			signal, err := engine.ParseSignal(name)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(a, cmd, args, func(ref string) error {
				err := e.Kill(cmd.Context(), ref, signal)
				if err == nil {
					fmt.Fprintln(a.stdout, ref)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "`Signal` by name or number")
	return cmd
}
