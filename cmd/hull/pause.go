package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newPause(a *app) *cobra.Command {
	return a.freezer("pause", "Stop all of a container where it is", "Stop all processes of containers, and the kernel under them, until hull unpause.", (*engine.Engine).Pause)
}

func newUnpause(a *app) *cobra.Command {
	return a.freezer("unpause", "Let paused containers go on", "Let containers go on that hull pause has stopped.", (*engine.Engine).Unpause)
}

func (a *app) freezer(name, short, long string, do func(*engine.Engine, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:               name + " CONTAINER [CONTAINER...]",
		Short:             short,
		Long:              long,
		Example:           "  hull " + name + " web",
		Args:              minArgs(1),
		ValidArgsFunction: completeContainers(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return together(a, cmd, args, func(ref string) error { return do(e, cmd.Context(), ref) })
		},
	}
}
