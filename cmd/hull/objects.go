package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// What the commands of networks and volumes have in common.

// timeFormat is how docker's inspect writes times, and listedTime how its listings do.
const (
	timeFormat = time.RFC3339Nano
	listedTime = "2006-01-02 15:04:05 -0700 MST"
)

// orEmpty is a map that is shown as {} and not as null.
func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// joinLabels writes labels as docker's listings do.
func joinLabels(labels map[string]string) string {
	var list []string
	for key, value := range labels {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// hasLabel tells whether labels have what a filter asks for: KEY or KEY=value.
func hasLabel(labels map[string]string, want string) bool {
	key, value, hasValue := strings.Cut(want, "=")
	got, ok := labels[key]
	return ok && (!hasValue || got == value)
}

// pruned is what the filters of prune look at.
type pruned struct {
	created time.Time
	labels  map[string]string
}

// pruneFilter makes one test of the --filter flags of prune.
func pruneFilter[T any](filters []string, of func(T) pruned) (func(T) bool, error) {
	now := time.Now()
	for _, f := range filters {
		if until, ok := strings.CutPrefix(f, "until="); ok {
			if _, err := parseTime(until, now); err != nil {
				return nil, fmt.Errorf("invalid filter %q: %w", f, err)
			}
		}
	}
	return filter(filters, map[string]func(T, string) bool{
		"until": func(t T, v string) bool {
			until, err := parseTime(v, now)
			return err == nil && of(t).created.Before(until)
		},
		"label":  func(t T, v string) bool { return hasLabel(of(t).labels, v) },
		"label!": func(t T, v string) bool { return !hasLabel(of(t).labels, v) },
	})
}

// removed tells what became of a removal; with force it is no failure that there was nothing.
func removed(a *app, cmd *cobra.Command, ref string, err error, force bool, none error) error {
	if force && errors.Is(err, none) {
		a.say("%s: %v", cmd.CommandPath(), err)
		return nil
	}
	if err == nil {
		fmt.Fprintln(a.stdout, ref)
	}
	return err
}
