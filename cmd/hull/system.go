package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newSystem(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "system",
		Short:   "Look after hull itself: its size, its leftovers, its start with the host",
		Long:    "Look after hull itself: what it takes on this host, what of it can go, and which containers start with the host.",
		Example: "  hull system info",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	for _, c := range []*cobra.Command{newSystemInfo(a), newSystemDF(a), newSystemPrune(a), newSystemStart(a), newSystemStop(a)} {
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

// serviceUnit is what has systemd start containers with the host. %s is this program.
const serviceUnit = `[Unit]
Description=Containers in microVMs that start with the host
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%[1]s system start
ExecStop=%[1]s system stop
TimeoutStopSec=90

[Install]
WantedBy=%[2]s
`

func newSystemStart(a *app) *cobra.Command {
	var unit bool
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Start what should run after the host has booted",
		Long: `Start the containers whose restart policy is always, or unless-stopped if nobody has stopped
them, and that do not run: for the host's boot. --unit prints a systemd unit that does that.`,
		Example: `  hull system start
  hull system start --unit > ~/.config/systemd/user/hull.service`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if unit {
				return a.printUnit()
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			failed := false
			err = e.StartAfterBoot(cmd.Context(), func(r *engine.Record, err error) {
				if err != nil {
					failed = true
					fmt.Fprintf(a.stderr, "%s: container %s: %s\n", cmd.CommandPath(), r.Name, message(err))
					return
				}
				fmt.Fprintln(a.stdout, r.Name)
			})
			if err == nil && failed {
				err = &statusError{status: statusFailed}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&unit, "unit", false, "Print a systemd unit")
	return cmd
}

func (a *app) printUnit() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	target := "multi-user.target"
	if os.Geteuid() != 0 {
		target = "default.target"
	}
	_, err = fmt.Fprintf(a.stdout, serviceUnit, self, target)
	return err
}

func newSystemStop(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "stop",
		Short:   "Stop all containers before the host goes down",
		Long:    "Stop all containers that run, all at once. Those that should run are started again by hull system start.",
		Example: "  hull system stop",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			records, err := e.List(cmd.Context())
			if err != nil {
				return err
			}
			var running []string
			for _, r := range records {
				if r.State.Alive() {
					running = append(running, r.Name)
				}
			}
			return together(a, cmd, running, func(ref string) error {
				return e.Stop(cmd.Context(), ref, engine.StopOptions{Host: true})
			})
		},
	}
}

func newSystemInfo(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show what hull has and where it keeps it",
		Long:  "Show how many containers and images there are, where they are kept, and what this host is.",
		Example: `  hull system info
  hull system info --format '{{.Containers}}'`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			info, err := systemInfo(cmd, e)
			if err != nil {
				return err
			}
			if format != "" {
				return writeFormat(a.stdout, format, nil, []row{info})
			}
			for _, line := range []struct{ label, field string }{
				{"Containers", "Containers"}, {" Running", "ContainersRunning"}, {" Paused", "ContainersPaused"}, {" Stopped", "ContainersStopped"},
				{"Images", "Images"}, {"Server Version", "ServerVersion"}, {"Logging Driver", "LoggingDriver"}, {"Default Runtime", "DefaultRuntime"},
				{"Operating System", "OSType"}, {"Architecture", "Architecture"}, {"CPUs", "NCPU"}, {"Total Memory", "MemTotal"},
				{"VM Cgroups", "CgroupControllers"}, {"Data Dir", "DockerRootDir"}, {"Run Dir", "RunDir"}, {"Cache Dir", "CacheDir"},
			} {
				fmt.Fprintf(a.stdout, "%s: %s\n", line.label, info[line.field])
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "\"json\" or a Go `template`")
	return cmd
}

func systemInfo(cmd *cobra.Command, e *engine.Engine) (row, error) {
	records, err := e.List(cmd.Context())
	if err != nil {
		return nil, err
	}
	store, err := e.Images()
	if err != nil {
		return nil, err
	}
	all, err := store.List(cmd.Context())
	if err != nil {
		return nil, err
	}
	memory, err := engine.HostMemory()
	if err != nil {
		return nil, errors.Join(errors.New("asking for the host's memory"), err)
	}
	count := make(map[engine.Status]int)
	for _, r := range records {
		count[r.State.Status]++
	}
	up := count[engine.StatusRunning] + count[engine.StatusRestarting]
	n := func(v int) string { return fmt.Sprint(v) }
	dirs := e.Dirs()
	controllers, err := e.Cgroups()
	bounds := strings.Join(controllers, " ")
	if err != nil {
		bounds = "none: " + err.Error()
	}
	return row{
		"CgroupControllers": bounds,
		"Containers":        n(len(records)), "ContainersRunning": n(up), "ContainersPaused": n(count[engine.StatusPaused]),
		"ContainersStopped": n(len(records) - up - count[engine.StatusPaused]), "Images": n(len(all)), "ServerVersion": versionString(),
		"LoggingDriver": engine.LogJSON, "DefaultRuntime": "hull", "OSType": "linux", "Architecture": "x86_64", "NCPU": n(runtime.NumCPU()),
		"MemTotal": fmt.Sprint(memory), "DockerRootDir": dirs.Data, "RunDir": dirs.Run, "CacheDir": dirs.Cache,
	}, nil
}
