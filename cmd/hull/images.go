package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/images"
)

func newImages(a *app) *cobra.Command {
	var quiet, noTrunc, digests, all bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [NAME[:TAG]]",
		Short: "List images",
		Long:  "List the images of this host; the size is that of their disks.",
		Example: `  hull images
  hull images -q debian
  hull images -q --filter dangling=true
  hull images --format '{{.Repository}}:{{.Tag}} {{.Size}}'`,
		Args:              maxArgs(1),
		ValidArgsFunction: completeFirst(completeImages(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			match, err := imageFilter(cmd, store, filters, time.Now())
			if err != nil {
				return err
			}
			list, err := store.List(cmd.Context())
			if err != nil {
				return err
			}
			var rows []row
			for _, image := range list {
				for _, r := range imageRows(image, noTrunc, time.Now()) {
					if (len(args) == 0 || fitsImage(r, args[0])) && match(image, r) {
						rows = append(rows, r)
					}
				}
			}
			if quiet {
				seen := make(map[string]bool)
				for _, r := range rows {
					if !seen[r["ID"]] {
						fmt.Fprintln(a.stdout, r["ID"])
					}
					seen[r["ID"]] = true
				}
				return nil
			}
			columns := []column{{"REPOSITORY", "Repository"}, {"TAG", "Tag"}}
			if digests {
				columns = append(columns, column{"DIGEST", "Digest"})
			}
			columns = append(columns, column{"IMAGE ID", "ID"}, column{"CREATED", "CreatedSince"}, column{"SIZE", "Size"})
			return writeFormat(a.stdout, format, columns, rows, column{"DIGEST", "Digest"}, column{"CREATED AT", "CreatedAt"},
				column{"CONTAINERS", "Containers"}, column{"SHARED SIZE", "SharedSize"}, column{"UNIQUE SIZE", "UniqueSize"})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show all images; always so, accepted for docker's sake")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten what is shown")
	f.BoolVar(&digests, "digests", false, "Show digests")
	f.StringVar(&format, "format", "", "\"table\", \"json\" or a Go `template`")
	f.StringArrayVarP(&filters, "filter", "f", nil, "Show those that fit only: dangling=, label=, reference=, before=, since=, until=")
	return cmd
}

// imageNames lists the names of an image as docker shows them.
func imageNames(image *images.Image) []string {
	var names []string
	for _, r := range image.References {
		names = append(names, r.Familiar())
	}
	return names
}

// none is what docker shows for what is not there.
const none = "<none>"

// imageRows makes one row for each name of an image, or one for an image without.
func imageRows(image *images.Image, noTrunc bool, now time.Time) []row {
	id := image.ID.String()
	if !noTrunc {
		id = image.ID.Hex[:min(12, len(image.ID.Hex))]
	}
	created := "N/A"
	createdAt := created
	if image.Config != nil && !image.Config.Created.IsZero() {
		created = ago(now, image.Config.Created.Time)
		createdAt = image.Config.Created.Format(listedTime)
	}
	one := func(repository, tag string) row {
		digest := none
		for _, d := range image.Digests {
			if d.FamiliarRepository() == repository {
				digest = d.Digest
			}
		}
		return row{
			"Repository": repository, "Tag": tag, "Digest": digest, "ID": id,
			"CreatedSince": created, "CreatedAt": createdAt, "Size": units.HumanSizeWithPrecision(float64(image.Size), 3),
			"Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
		}
	}
	var rows []row
	for _, r := range image.References {
		rows = append(rows, one(r.FamiliarRepository(), r.Tag))
	}
	if len(rows) == 0 {
		repository := none
		if len(image.Digests) > 0 {
			repository = image.Digests[0].FamiliarRepository()
		}
		rows = append(rows, one(repository, none))
	}
	return rows
}

// fitsImage tells whether a row is what the user asked for: a repository, or a
// repository and a tag.
func fitsImage(r row, wanted string) bool {
	ref, err := images.ParseReference(wanted)
	if err != nil || r["Repository"] != ref.FamiliarRepository() {
		return false
	}
	return wanted == ref.FamiliarRepository() || !strings.Contains(wanted, ":") || r["Tag"] == ref.Tag
}

func newRemoveImage(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove images",
		Long:  "Take names away from images, and with its last name remove an image and the disks that no other image uses.",
		Example: `  hull rmi debian:12
  hull rmi -f $(hull images -q app:1)`,
		Args:              minArgs(1),
		ValidArgsFunction: completeImages(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			return each(a, cmd, args, func(ref string) error {
				removed, err := store.Remove(cmd.Context(), ref, images.RemoveOptions{Force: force})
				for _, r := range removed {
					if r.Untagged != "" {
						fmt.Fprintf(a.stdout, "Untagged: %s\n", r.Untagged)
					} else {
						fmt.Fprintf(a.stdout, "Deleted: %s\n", r.Deleted)
					}
				}
				if force && errors.Is(err, images.ErrNotFound) {
					a.say("%s: %v", cmd.CommandPath(), err) // docker does not count that as a failure
					return nil
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Remove an image that has several names, or take the names of one that containers use")
	f.Bool("no-prune", false, "Keep untagged parents; there are none, accepted for docker's sake")
	return cmd
}
