package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// stopFlags are those of stop and restart.
type stopFlags struct {
	signal  string
	timeout int
}

func (f *stopFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.signal, "signal", "s", "", "`Signal` to send instead of the container's own")
	cmd.Flags().IntVarP(&f.timeout, "timeout", "t", 0, "`Seconds` to wait before the container is killed; -1: any time (default: the container's own)")
	cmd.Flags().IntVar(&f.timeout, "time", 0, "The same as --timeout")
	_ = cmd.Flags().MarkHidden("time")
}

func (f *stopFlags) options(cmd *cobra.Command) (o engine.StopOptions, err error) {
	if f.signal != "" {
		if o.Signal, err = engine.ParseSignal(f.signal); err != nil {
			return o, err
		}
	}
	if cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time") {
		timeout := time.Duration(max(f.timeout, -1)) * time.Second
		o.Timeout = &timeout
	}
	return o, nil
}

func newStop(a *app) *cobra.Command {
	var flags stopFlags
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop running containers",
		Long:  "Ask containers to end, by their stop signal, and kill them if they have not after a while. They are not started again by their restart policy.",
		Example: `  hull stop web
  hull stop -t 60 db`,
		Args:              minArgs(1),
		ValidArgsFunction: completeRunning(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := flags.options(cmd)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return together(a, cmd, args, func(ref string) error { return e.Stop(cmd.Context(), ref, options) })
		},
	}
	flags.register(cmd)
	return cmd
}

func newRestart(a *app) *cobra.Command {
	var flags stopFlags
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop containers and start them again",
		Long:  "Stop containers as hull stop does, and start them as hull start does. Those that do not run are started.",
		Example: `  hull restart web
  hull restart -t 2 web db`,
		Args:              minArgs(1),
		ValidArgsFunction: completeContainers(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := flags.options(cmd)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return together(a, cmd, args, func(ref string) error {
				r, err := e.Get(cmd.Context(), ref)
				if err != nil {
					return err
				}
				if r.Config.AutoRemove && r.State.Alive() {
					return fmt.Errorf("cannot restart container %s: it goes when it ends (--rm)", ref)
				}
				if err := e.Stop(cmd.Context(), r.ID, options); err != nil {
					return err
				}
				return startContainer(cmd.Context(), e, r.ID, engine.StartOptions{})
			})
		},
	}
	flags.register(cmd)
	return cmd
}
