package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newVolume(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Manage volumes",
		Long: `Manage volumes: places for files that outlive containers. A volume is a directory of this host
that any number of containers share, or a disk that one container has at a time.`,
		Example: `  hull volume create cache
  hull volume create --opt type=disk --opt size=20g pgdata
  hull run --rm -v cache:/cache -v pgdata:/data uroot ls -l /cache /data`,
		Args: cobra.ArbitraryArgs,
		RunE: subcommand,
	}
	addSubcommands(cmd, newVolumeCreate(a), newVolumeList(a), newVolumeInspect(a), newVolumeRemove(a), newVolumePrune(a))
	return cmd
}

func newVolumeCreate(a *app) *cobra.Command {
	var driver, name string
	var labels, options []string
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Long: `Create a volume. It is a directory that is shared with containers, unless it is to be a disk
of its own: with --opt type=disk what a program has synced is on the host's disk, and file systems
are as fast as they are in a VM. Such a volume is one container's at a time.`,
		Example: `  hull volume create cache
  hull volume create --opt type=disk --opt size=20g pgdata`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && name != "" {
				return &usageError{cmd.CommandPath(), fmt.Errorf("conflicting options: cannot specify a volume-name through both --name and as a positional arg")}
			}
			v := engine.Volume{Name: name}
			if len(args) > 0 {
				v.Name = args[0]
			}
			if driver != engine.DriverLocal {
				return fmt.Errorf("create %s: error looking up volume plugin %s: plugin %q not found: there is %q", v.Name, driver, driver, engine.DriverLocal)
			}
			var err error
			if v.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			if v.Options, err = parseOptions(options); err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			made, err := e.CreateVolume(cmd.Context(), v)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, made.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&driver, "driver", "d", engine.DriverLocal, "`Driver` of the volume: local")
	f.StringVar(&name, "name", "", "`Name` of the volume")
	_ = f.MarkHidden("name") // the flag exists
	f.StringArrayVar(&labels, "label", nil, "Set a `label`: KEY or KEY=value")
	f.StringArrayVarP(&options, "opt", "o", nil, "Set an `option`: type=disk, size=SIZE")
	return cmd
}

func newVolumeList(a *app) *cobra.Command {
	var quiet bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Long:    "List volumes.",
		Example: `  hull volume ls
  hull volume ls -q --filter dangling=true`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			used, err := e.VolumesInUse(cmd.Context())
			if err != nil {
				return err
			}
			fits, err := volumeFilter(filters, used)
			if err != nil {
				return err
			}
			all, err := e.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			var rows []row
			for _, v := range all {
				if fits(v) {
					rows = append(rows, volumeRow(v.Name, e.VolumePath(v.Name), v.Labels))
				}
			}
			if quiet {
				for _, r := range rows {
					fmt.Fprintln(a.stdout, r["Name"])
				}
				return nil
			}
			return writeFormat(a.stdout, format, []column{{"DRIVER", "Driver"}, {"VOLUME NAME", "Name"}}, rows,
				column{"SCOPE", "Scope"}, column{"MOUNTPOINT", "Mountpoint"}, column{"LABELS", "Labels"}, column{"AVAILABILITY", "Availability"},
				column{"GROUP", "Group"}, column{"LINKS", "Links"}, column{"SIZE", "Size"}, column{"STATUS", "Status"})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Show names only")
	f.StringVar(&format, "format", "", "\"table\", \"json\" or a Go `template`")
	f.StringArrayVarP(&filters, "filter", "f", nil, "Show those that fit only: name=, driver=, label=, dangling=true or false")
	return cmd
}

func volumeRow(name, path string, labels map[string]string) row {
	one := row{
		"Name": name, "Driver": engine.DriverLocal, "Scope": "local", "Mountpoint": path,
		"Availability": "N/A", "Group": "N/A", "Links": "N/A", "Size": "N/A", "Status": "N/A",
	}
	one.setLabels(labels)
	return one
}

func volumeFilter(filters []string, used map[string][]string) (func(*engine.Volume) bool, error) {
	return filter(filters, map[string]func(*engine.Volume, string) bool{
		"name":   func(v *engine.Volume, want string) bool { return strings.Contains(v.Name, want) },
		"driver": func(v *engine.Volume, want string) bool { return want == engine.DriverLocal },
		"label":  func(v *engine.Volume, want string) bool { return hasLabel(v.Labels, want) },
		"dangling": func(v *engine.Volume, want string) bool {
			return (want == "true" || want == "1") == (len(used[v.Name]) == 0)
		},
	})
}

func newVolumeInspect(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short: "Show all about volumes",
		Long:  "Show all about volumes, as JSON.",
		Example: `  hull volume inspect cache
  hull volume inspect --format '{{.Mountpoint}}' cache`,
		Args:              minArgs(1),
		ValidArgsFunction: completeVolumes(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspect(a, cmd, args, format, inspectVolumes(a, cmd).get)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "\"json\" or a Go `template`")
	return cmd
}

func newVolumeRemove(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases:           []string{"remove"},
		Short:             "Remove volumes",
		Long:              "Remove volumes, with what is in them, that no container uses, running or not.",
		Example:           `  hull volume rm cache`,
		Args:              minArgs(1),
		ValidArgsFunction: completeVolumes(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(a, cmd, args, func(name string) error {
				_, err := e.RemoveVolume(cmd.Context(), name)
				return removed(a, cmd, name, err, force, engine.ErrNoVolume)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not fail when there is no such volume")
	return cmd
}

func newVolumePrune(a *app) *cobra.Command {
	var force, all bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove volumes that no container uses",
		Long:  "Remove the anonymous volumes that no container uses, running or not; with --all those with names too.",
		Example: `  hull volume prune -f
  hull volume prune --all --filter label=temporary`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.ContainsFunc(filters, func(f string) bool { return strings.HasPrefix(f, "until=") }) {
				return fmt.Errorf("the \"until\" filter is not supported with volumes")
			}
			fits, err := pruneFilter(filters, func(v *engine.Volume) pruned { return pruned{v.Created, v.Labels} })
			if err != nil {
				return err
			}
			warning := "WARNING! This will remove anonymous local volumes not used by at least one container."
			if all {
				warning = "WARNING! This will remove all local volumes not used by at least one container."
			}
			if !force {
				if yes, err := confirm(a, warning); err != nil || !yes {
					return err
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			gone, freed, err := e.PruneVolumes(cmd.Context(), func(v *engine.Volume) bool { return (all || v.Anonymous) && fits(v) })
			if len(gone) > 0 {
				fmt.Fprintf(a.stdout, "Deleted Volumes:\n%s\n\n", strings.Join(gone, "\n"))
			}
			fmt.Fprintf(a.stdout, "Total reclaimed space: %s\n", units.HumanSize(float64(freed)))
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove those with names too")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.StringArrayVar(&filters, "filter", nil, "Remove those that fit only: label=, label!=")
	return cmd
}
