package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func newPort(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "Show a container's published ports",
		Long:  "Show where on this host the published ports of a container are, or where one of them is.",
		Example: `  hull port web
  hull port web 80/tcp`,
		Args:              rangeArgs(1, 2),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			r, err := e.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			wanted, protocol := "", "tcp"
			if len(args) == 2 {
				var given bool
				if wanted, protocol, given = strings.Cut(args[1], "/"); !given {
					protocol = "tcp"
				}
				if n, err := strconv.ParseUint(wanted, 10, 16); err != nil || n == 0 {
					return fmt.Errorf("invalid port: '%s'", args[1])
				}
			}
			found := false
			for _, p := range publishedPorts(r) {
				switch {
				case wanted == "":
					fmt.Fprintf(a.stdout, "%d/%s -> %s\n", p.Container, p.Protocol, p.Host)
				case wanted == strconv.Itoa(int(p.Container)) && protocol == p.Protocol:
					fmt.Fprintln(a.stdout, p.Host)
					found = true
				}
			}
			if wanted != "" && !found {
				return fmt.Errorf("no public port '%s' published for %s", args[1], args[0])
			}
			return nil
		},
	}
}
