package main

import (
	"github.com/spf13/cobra"
)

// newSupervise is for hull itself: the process that a container in the background lives by.
func newSupervise(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "supervise CONTAINER",
		Short:  "Supervise a container; hull starts this itself",
		Hidden: true,
		Args:   exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Supervise(cmd.Context(), args[0])
		},
	}
}
