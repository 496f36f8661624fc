package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newUpdate(a *app) *cobra.Command {
	var restart, memory, cpus string
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Change the limits of containers",
		Long: `Change the limits of containers. A container that runs keeps the size of its VM: memory
is taken from it, and given back up to what it was started with; of its CPUs it may use as much
as is said from now on, where VM processes have cgroups (hull system info), and has as many from its next
start.`,
		Example: `  hull update --memory 256m web
  hull update --restart unless-stopped web db`,
		Args:              minArgs(1),
		ValidArgsFunction: completeContainers(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			var change engine.Change
			flags := cmd.Flags()
			if !flags.Changed("restart") && !flags.Changed("memory") && !flags.Changed("cpus") {
				return &usageError{cmd.CommandPath(), errors.New("you must provide one or more flags when using this command")}
			}
			if flags.Changed("restart") {
				policy, err := engine.ParseRestart(restart)
				if err != nil {
					return err
				}
				change.Restart = &policy
			}
			if flags.Changed("memory") {
				n, err := parseMemory(memory)
				if err != nil {
					return fmt.Errorf("--memory: %w", err)
				}
				change.Memory = &n
			}
			if flags.Changed("cpus") {
				n, err := parseCPUs(cpus)
				if err != nil {
					return fmt.Errorf("--cpus: %w", err)
				}
				change.CPUs = &n
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(a, cmd, args, func(ref string) error {
				err := e.Change(cmd.Context(), ref, change)
				if err == nil {
					fmt.Fprintln(a.stdout, ref)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&restart, "restart", "", "When to start the container again: no, always, unless-stopped, on-failure[:`retries`]")
	cmd.Flags().StringVarP(&memory, "memory", "m", "", "Memory: `bytes`, or with k, m, g")
	cmd.Flags().StringVar(&cpus, "cpus", "", "`Number` of CPUs")
	return cmd
}

func newRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NEW_NAME",
		Short:             "Give a container another name",
		Long:              "Give a container another name. Its hostname stays as it is.",
		Example:           "  hull rename web web-old",
		Args:              exactArgs(2),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Change(cmd.Context(), args[0], engine.Change{Name: &args[1]})
		},
	}
}
