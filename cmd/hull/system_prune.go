package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/images"
)

func newSystemPrune(a *app) *cobra.Command {
	var all, volumes, force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove what nobody uses",
		Long: `Remove containers that do not run, networks that no container is on, and images without a
tag that no container uses; with --all images with a tag too, with --volumes anonymous volumes.`,
		Example: `  hull system prune
  hull system prune -af --volumes`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if volumes && slices.ContainsFunc(filters, func(f string) bool { return strings.HasPrefix(f, "until=") }) {
				return fmt.Errorf("the \"until\" filter is not supported with --volumes")
			}
			options, err := pruneOptions(filters, time.Now())
			if err != nil {
				return err
			}
			options.All = options.All || all
			if !force {
				if yes, err := confirm(a, pruneWarning(options.All, volumes)); err != nil || !yes {
					return err
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			freed, err := pruneAll(a, cmd, e, filters, options, volumes)
			fmt.Fprintf(a.stdout, "Total reclaimed space: %s\n", units.HumanSize(float64(freed)))
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all images that no container uses, not only those without a tag")
	f.BoolVar(&volumes, "volumes", false, "Remove anonymous volumes that no container uses")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.StringArrayVar(&filters, "filter", nil, "Remove those that fit only: until=`TIME`, label=, label!=")
	return cmd
}

func pruneWarning(allImages, volumes bool) string {
	lines := []string{"WARNING! This will remove:", "  - all stopped containers", "  - all networks not used by at least one container"}
	if volumes {
		lines = append(lines, "  - all anonymous volumes not used by at least one container")
	}
	if allImages {
		return strings.Join(append(lines, "  - all images without at least one container associated to them", ""), "\n")
	}
	return strings.Join(append(lines, "  - all dangling images", ""), "\n")
}

// pruneAll removes what nobody uses, containers first: they use the rest.
func pruneAll(a *app, cmd *cobra.Command, e *engine.Engine, filters []string, options images.PruneOptions, volumes bool) (freed int64, err error) {
	ctx := cmd.Context()
	containers, err := pruneFilter(filters, prunedContainer)
	if err != nil {
		return 0, err
	}
	if freed, err = pruneContainers(a, cmd, e, containers); err != nil {
		return freed, err
	}
	networks, err := pruneFilter(filters, func(n *engine.Network) pruned { return pruned{n.Created, n.Labels} })
	if err != nil {
		return freed, err
	}
	goneNetworks, err := e.PruneNetworks(ctx, networks)
	var names []string
	for _, n := range goneNetworks {
		names = append(names, n.Name)
	}
	printPruned(a, "Deleted Networks:", names)
	if err != nil {
		return freed, err
	}
	if volumes {
		fits, err := pruneFilter(filters, func(v *engine.Volume) pruned { return pruned{v.Created, v.Labels} })
		if err != nil {
			return freed, err
		}
		gone, n, err := e.PruneVolumes(ctx, func(v *engine.Volume) bool { return v.Anonymous && fits(v) })
		printPruned(a, "Deleted Volumes:", gone)
		if freed += n; err != nil {
			return freed, err
		}
	}
	saved, err := e.PruneTemplates()
	if freed += saved; err != nil {
		return freed, err
	}
	store, err := a.images()
	if err != nil {
		return freed, err
	}
	done, err := store.Prune(ctx, options)
	printPruned(a, "Deleted Images:", removedImages(done))
	return freed + done.Reclaimed, err
}

// removedImages are the lines that tell what became of images.
func removedImages(done images.Pruned) []string {
	var lines []string
	for _, r := range done.Removed {
		if r.Untagged != "" {
			lines = append(lines, "untagged: "+r.Untagged)
		} else {
			lines = append(lines, "deleted: "+r.Deleted.String())
		}
	}
	return lines
}

func newSystemDF(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "df [OPTIONS]",
		Short:   "Show what hull takes of the disk",
		Long:    "Show how much of the disk images, containers and volumes take, and how much of it nobody uses.",
		Example: "  hull system df",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			rows, err := diskUse(a, cmd, e)
			if err != nil {
				return err
			}
			return writeFormat(a.stdout, format, []column{
				{"TYPE", "Type"}, {"TOTAL", "TotalCount"}, {"ACTIVE", "Active"}, {"SIZE", "Size"}, {"RECLAIMABLE", "Reclaimable"},
			}, rows)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "\"table\", \"json\" or a Go `template`")
	return cmd
}

// diskUse is a row for each kind of thing that takes disk.
func diskUse(a *app, cmd *cobra.Command, e *engine.Engine) ([]row, error) {
	ctx := cmd.Context()
	records, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	store, err := a.images()
	if err != nil {
		return nil, err
	}
	all, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	volumes, err := e.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	inUse, err := e.VolumesInUse(ctx)
	if err != nil {
		return nil, err
	}
	ofImages, ofContainers, ofVolumes := use{kind: "Images"}, use{kind: "Containers"}, use{kind: "Local Volumes"}
	for _, image := range all {
		ofImages.add(image.Size, slices.ContainsFunc(records, func(r *engine.Record) bool { return r.ImageID == image.ID.String() }))
	}
	for _, r := range records {
		ofContainers.add(e.Written(r.ID), r.State.Alive())
	}
	for _, v := range volumes {
		ofVolumes.add(e.VolumeSize(v), len(inUse[v.Name]) > 0)
	}
	return []row{ofImages.row(), ofContainers.row(), ofVolumes.row()}, nil
}

// use is what one kind of thing takes.
type use struct {
	kind          string
	count, active int
	size, free    int64
}

func (u *use) add(size int64, active bool) {
	u.count++
	u.size += size
	if active {
		u.active++
	} else {
		u.free += size
	}
}

func (u *use) row() row {
	free := units.HumanSize(float64(u.free))
	if u.size > 0 {
		free += fmt.Sprintf(" (%d%%)", u.free*100/u.size)
	}
	return row{
		"Type": u.kind, "TotalCount": fmt.Sprint(u.count), "Active": fmt.Sprint(u.active), "Size": units.HumanSize(float64(u.size)), "Reclaimable": free,
	}
}
