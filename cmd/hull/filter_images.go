package main

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/images"
)

// imageFilter makes one test of all --filter flags of hull images, for an image under
// one of its names. Patterns of names are alternatives; all else must hold.
func imageFilter(cmd *cobra.Command, store *images.Store, filters []string, now time.Time) (func(*images.Image, row) bool, error) {
	var tests []func(*images.Image, row) bool
	var patterns []string
	created := func(ref string) (time.Time, error) {
		image, err := store.Get(cmd.Context(), ref)
		if err != nil {
			return time.Time{}, err
		}
		return image.Config.Created.Time, nil
	}
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("invalid filter %q: it must be key=value", f)
		}
		switch key {
		case "dangling":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, fmt.Errorf("invalid filter %q: it must be true or false", f)
			}
			tests = append(tests, func(i *images.Image, _ row) bool { return (len(i.References) == 0) == want })
		case "label":
			tests = append(tests, func(i *images.Image, _ row) bool { return images.HasLabel(i.Config.Config.Labels, value) })
		case "reference":
			if _, err := path.Match(value, ""); err != nil {
				return nil, fmt.Errorf("invalid filter %q: %w", f, err)
			}
			patterns = append(patterns, value)
		case "before", "since", "until":
			var limit time.Time
			var err error
			if key == "until" {
				limit, err = parseTime(value, now)
			} else {
				limit, err = created(value)
			}
			if err != nil {
				return nil, fmt.Errorf("invalid filter %q: %w", f, err)
			}
			tests = append(tests, func(i *images.Image, _ row) bool {
				c := i.Config.Created.Compare(limit)
				return key == "since" && c > 0 || key != "since" && c < 0
			})
		default:
			return nil, fmt.Errorf("invalid filter %q: known are dangling=, label=, reference=, before=, since= and until=", f)
		}
	}
	if len(patterns) > 0 {
		tests = append(tests, func(_ *images.Image, r row) bool { return fitsPattern(patterns, r) })
	}
	return func(i *images.Image, r row) bool {
		for _, test := range tests {
			if !test(i, r) {
				return false
			}
		}
		return true
	}, nil
}

// fitsPattern tells whether a name fits one of patterns, with or without its tag.
func fitsPattern(patterns []string, r row) bool {
	for _, p := range patterns {
		for _, name := range []string{r["Repository"], r["Repository"] + ":" + r["Tag"]} {
			if ok, err := path.Match(p, name); ok && err == nil {
				return true
			}
		}
	}
	return false
}
