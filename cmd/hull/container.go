package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// newContainer is docker's group of commands about containers: those of the top level, for which ungroup sees, and what has
// another name or no place there.
func newContainer(a *app) *cobra.Command {
	group := &cobra.Command{
		Use:   "container COMMAND",
		Short: "Commands about containers",
		Long:  "Commands about containers. Most are there without \"container\" as well.",
		Example: `  hull container ls -a
  hull container prune --filter until=24h`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeFirst(cobra.FixedCompletions(grouped(), cobra.ShellCompDirectiveNoFileComp)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{cmd.CommandPath(), fmt.Errorf("%q is not a command of %s", args[0], cmd.CommandPath())}
			}
			return cmd.Help()
		},
	}
	list := newPS(a)
	list.Use, list.Aliases = strings.Replace(list.Use, "ps", "ls", 1), []string{"list", "ps"}
	for _, c := range []*cobra.Command{list, newPruneContainers(a)} {
		c.DisableFlagsInUseLine = true
		group.AddCommand(c)
	}
	return group
}

// ungroup makes "container run" what it means: "run". Every command starts faster without a second copy of them all.
func ungroup(args []string) []string {
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return append(args[:1:1], ungroup(args[1:])...)
	}
	if len(args) >= 2 && args[0] == "container" && slices.Contains(grouped(), args[1]) {
		return args[1:]
	}
	return args
}

// grouped are the commands that there are with and without "container".
func grouped() []string {
	var names []string
	for _, e := range entries() {
		if e.group == groupContainers && e.name != "ps" && e.name != "container" {
			names = append(names, e.name)
		}
	}
	return names
}

func newPruneContainers(a *app) *cobra.Command {
	var force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove containers that do not run",
		Long:  "Remove all containers that do not run, with what they have written.",
		Example: `  hull container prune
  hull container prune -f --filter until=24h --filter label!=keep`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			fits, err := pruneFilter(filters, prunedContainer)
			if err != nil {
				return err
			}
			if !force {
				if yes, err := confirm(a, "WARNING! This will remove all stopped containers."); err != nil || !yes {
					return err
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			freed, err := pruneContainers(a, cmd, e, fits)
			fmt.Fprintf(a.stdout, "Total reclaimed space: %s\n", units.HumanSize(float64(freed)))
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "Remove those that fit only: until=`TIME`, label=, label!=")
	return cmd
}

func prunedContainer(r *engine.Record) pruned { return pruned{r.Created, r.Config.Labels} }

// pruneContainers removes containers and tells which.
func pruneContainers(a *app, cmd *cobra.Command, e *engine.Engine, fits func(*engine.Record) bool) (freed int64, err error) {
	gone, freed, err := e.PruneContainers(cmd.Context(), fits)
	printPruned(a, "Deleted Containers:", gone)
	return freed, err
}

// printPruned tells what was removed, if anything was.
func printPruned(a *app, heading string, gone []string) {
	if len(gone) > 0 {
		fmt.Fprintf(a.stdout, "%s\n%s\n\n", heading, strings.Join(gone, "\n"))
	}
}
