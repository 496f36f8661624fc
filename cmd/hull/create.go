package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newCreate(a *app) *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a container, to be started later",
		Long:  "Create a container of an image and print its ID. hull start runs it.",
		Example: `  hull create --name job -v "$PWD":/src uroot sh /src/job.sh
  hull start -a job`,
		Args:              minArgs(1),
		ValidArgsFunction: completeCommand(completeImages(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := flags.config(cmd, args[0], args[1:])
			if err != nil {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
			}
			config.StdinOnce = config.OpenStdin
			e, err := a.engine()
			if err != nil {
				return err
			}
			_, container, err := createContainer(a, cmd, e, &flags, config)
			if err != nil {
				return &statusError{engine.ExitCode(err), err}
			}
			if err := container.Leave(); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, container.ID())
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows IMAGE belongs to the command
	flags.register(cmd.Flags(), a.getenv)
	completeRunFlags(a, cmd)
	return cmd
}
