package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/images"
)

// newImage is docker's group of commands about images: those of the top level under
// other names, and some more.
func newImage(a *app) *cobra.Command {
	group := &cobra.Command{
		Use:   "image COMMAND",
		Short: "Commands about images",
		Long:  "Commands about images. Most are there without \"image\" as well.",
		Example: `  hull image ls
  hull image inspect --format '{{.Os}}/{{.Architecture}}' debian
  hull image prune -a --filter until=24h`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{cmd.CommandPath(), fmt.Errorf("%q is not a command of %s", args[0], cmd.CommandPath())}
			}
			return cmd.Help()
		},
	}
	list := newImages(a)
	list.Use, list.Aliases = strings.Replace(list.Use, "images", "ls", 1), []string{"list"}
	remove := newRemoveImage(a)
	remove.Use, remove.Aliases = strings.Replace(remove.Use, "rmi", "rm", 1), []string{"remove"}
	for _, c := range []*cobra.Command{
		list, remove, newPull(a), newPush(a), newTag(a), newSave(a), newLoad(a), newImport(a), newHistory(a), newInspectImage(a), newPruneImages(a),
	} {
		c.DisableFlagsInUseLine = true
		group.AddCommand(c)
	}
	return group
}

func newInspectImage(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short: "Show all about images",
		Long:  "Show all about images, as JSON with docker's names.",
		Example: `  hull image inspect debian:12
  hull image inspect -f '{{json .Config.Env}}' debian:12`,
		Args:              minArgs(1),
		ValidArgsFunction: completeImages(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspect(a, cmd, args, format, inspectImages(a, cmd).get)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "\"json\" or a Go `template`")
	return cmd
}

func newPruneImages(a *app) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove images that nobody uses",
		Long:  "Remove images without a tag that no container uses; with --all also those with one.",
		Example: `  hull image prune
  hull image prune -af --filter until=240h --filter label!=keep`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := pruneOptions(filters, time.Now())
			if err != nil {
				return err
			}
			options.All = options.All || all
			if !force {
				what := "dangling images"
				if options.All {
					what = "images without at least one container associated to them"
				}
				yes, err := confirm(a, "WARNING! This will remove all "+what+".")
				if err != nil || !yes {
					return err
				}
			}
			store, err := a.images()
			if err != nil {
				return err
			}
			done, err := store.Prune(cmd.Context(), options)
			printPruned(a, "Deleted Images:", removedImages(done))
			if err == nil {
				fmt.Fprintf(a.stdout, "Total reclaimed space: %s\n", units.HumanSize(float64(done.Reclaimed)))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all images that no container uses, not only those without a tag")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.StringArrayVar(&filters, "filter", nil, "Remove those that fit only: until=`TIME`, label=, label!=, dangling=")
	return cmd
}

// pruneOptions reads --filter flags.
func pruneOptions(filters []string, now time.Time) (o images.PruneOptions, err error) {
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case !ok || value == "":
			return o, fmt.Errorf("invalid filter %q: it must be key=value", f)
		case key == "until":
			if !o.Until.IsZero() {
				return o, errors.New("more than one until filter specified")
			}
			if o.Until, err = parseTime(value, now); err != nil {
				return o, fmt.Errorf("invalid filter %q: %w", f, err)
			}
		case key == "label":
			o.Labels = append(o.Labels, value)
		case key == "label!":
			o.NotLabels = append(o.NotLabels, value)
		case key == "dangling" && (value == "false" || value == "0"):
			o.All = true
		case key == "dangling" && (value == "true" || value == "1"):
		default:
			return o, fmt.Errorf("invalid filter %q: known are until=, label=, label!= and dangling=", f)
		}
	}
	return o, nil
}

// confirm asks the user; only a yes counts.
func confirm(a *app, warning string) (bool, error) {
	fmt.Fprintf(a.stdout, "%s\nAre you sure you want to continue? [y/N] ", warning)
	in := bufio.NewScanner(a.stdin)
	if !in.Scan() {
		return false, in.Err()
	}
	return strings.EqualFold(strings.TrimSpace(in.Text()), "y"), nil
}
