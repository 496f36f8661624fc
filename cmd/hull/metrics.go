package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newMetrics(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "Show what the VMs of containers have counted, for Prometheus",
		Long: `Show what the VMs of all running containers have counted, in the text format that Prometheus
scrapes: requests, bytes and latencies of their devices, exits of their vCPUs, the stages of their
starts, and the CPU time and memory that this host has given to each.`,
		Example: `  hull metrics`,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			all, err := e.Metrics(cmd.Context())
			fmt.Fprint(a.stdout, engine.Exposition(all))
			return err
		},
	}
}
