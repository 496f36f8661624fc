package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/images"
)

func newHistory(a *app) *cobra.Command {
	var quiet, noTrunc, human bool
	var format string
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show how an image was made",
		Long:  "Show how an image was made, the last step first; the size is that of a step's disk.",
		Example: `  hull history debian:12
  hull history --no-trunc --format '{{.Size}} {{.CreatedBy}}' app:1`,
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeImages(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			steps, err := store.History(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var rows []row
			for _, s := range steps {
				rows = append(rows, historyRow(s, noTrunc, human, time.Now()))
			}
			if quiet {
				for _, r := range rows {
					fmt.Fprintln(a.stdout, r["ID"])
				}
				return nil
			}
			created := column{"CREATED", "CreatedSince"}
			if !human {
				created = column{"CREATED AT", "CreatedAt"}
			}
			return writeFormat(a.stdout, format, []column{
				{"IMAGE", "ID"}, created, {"CREATED BY", "CreatedBy"}, {"SIZE", "Size"}, {"COMMENT", "Comment"},
			}, rows, column{"CREATED AT", "CreatedAt"}, column{"CREATED", "CreatedSince"})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten what is shown")
	f.BoolVarP(&human, "human", "H", true, "Show sizes and times for people; --human=false: bytes and dates")
	f.StringVar(&format, "format", "", "\"table\", \"json\" or a Go `template`")
	return cmd
}

// How much docker shows of what a step did.
const createdByLength = 45

func historyRow(s images.Step, noTrunc, human bool, now time.Time) row {
	id, by := "<missing>", strings.ReplaceAll(s.CreatedBy, "\t", " ")
	if s.ID != (v1.Hash{}) {
		id = s.ID.String()
	}
	if !noTrunc {
		if s.ID != (v1.Hash{}) {
			id = s.ID.Hex[:12]
		}
		by = shorten(by, createdByLength)
	}
	r := row{
		"ID": id, "CreatedBy": by, "Comment": s.Comment,
		"CreatedAt": "N/A", "CreatedSince": "N/A", "Size": strconv.FormatInt(s.Size, 10),
	}
	if !s.Created.IsZero() {
		r["CreatedAt"], r["CreatedSince"] = s.Created.Format(time.RFC3339), ago(now, s.Created)
	}
	if human {
		r["Size"] = units.HumanSizeWithPrecision(float64(s.Size), 3)
	} else {
		r["CreatedSince"] = r["CreatedAt"]
	}
	return r
}
