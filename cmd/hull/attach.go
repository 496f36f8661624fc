package main

import (
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newAttach(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var detachKeys string
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Connect to a running container's standard streams",
		Long: `Connect standard input, output and error to those of a running container. What it has
written before is in hull logs. The exit status is the container's.`,
		Example: `  hull attach web
  hull attach --detach-keys ctrl-x shell`,
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeRunning(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := engine.ParseDetachKeys(detachKeys)
			if err != nil {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			r, err := e.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if r.Config.Terminal && r.Config.OpenStdin && !noStdin && !isTerminal(a.stdin) {
				return errNoTTY
			}
			signals := make(chan os.Signal, 16)
			if sigProxy {
				signal.Notify(signals, engine.Forwardable()...)
			} else {
				signal.Notify(signals, unix.SIGWINCH)
			}
			signal.Ignore(unix.SIGPIPE)
			defer signal.Stop(signals)
			ends := a.attach(cmd.CommandPath(), signals, !noStdin, r.Config.Terminal)
			return endOf(e.Attach(cmd.Context(), r.ID, engine.AttachOptions{Attach: ends, DetachKeys: keys}))
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "Leave standard input alone")
	cmd.Flags().BoolVar(&sigProxy, "sig-proxy", true, "Pass signals on to the container")
	cmd.Flags().StringVar(&detachKeys, "detach-keys", engine.DefaultDetachKeys, detachKeysHelp)
	return cmd
}
