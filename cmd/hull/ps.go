package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newPS(a *app) *cobra.Command {
	var all, quiet, noTrunc, size, latest bool
	var last int
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS]",
		Short: "List containers",
		Long:  "List running containers, with --all also those that have ended.",
		Example: `  hull ps -a
  hull ps -aq --filter name=web
  hull ps --format '{{.ID}}: {{.Command}}'`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			records, err := e.List(cmd.Context())
			if err != nil {
				return err
			}
			match, anyState, err := containerFilter(records, filters)
			if err != nil {
				return err
			}
			if latest {
				last = 1
			}
			var rows []row
			for _, r := range records { // the newest first
				if !all && !anyState && last < 0 && !listed(r.State) || !match(r) {
					continue
				}
				if last >= 0 && len(rows) == last {
					break
				}
				one := containerRow(r, noTrunc, time.Now())
				one["Networks"] = strings.Join(containerNetworks(e, r), ",")
				if size || strings.Contains(format, ".Size") {
					one["Size"] = containerSize(cmd, e, r)
				}
				rows = append(rows, one)
			}
			if quiet {
				for _, r := range rows {
					fmt.Fprintln(a.stdout, r["ID"])
				}
				return nil
			}
			columns := containerColumns()
			if size {
				columns = append(columns, column{"SIZE", "Size"})
			}
			return writeFormat(a.stdout, format, columns, rows, moreContainerColumns()...)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show all containers, not only running ones")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten what is shown")
	f.StringVar(&format, "format", "", "\"table\", \"json\" or a Go `template`")
	f.BoolVarP(&size, "size", "s", false, "Show how much each has written")
	f.IntVarP(&last, "last", "n", -1, "Show the `number` of containers that were created last, in any state")
	f.BoolVarP(&latest, "latest", "l", false, "Show the container that was created last, in any state")
	f.StringArrayVarP(&filters, "filter", "f", nil, "Show those that fit only: ancestor=, before=, exited=, health=, id=, label=, name=, network=, since=, status=, volume=")
	return cmd
}

// listed tells whether docker counts a container among those that run.
func listed(s engine.State) bool { return s.Up() || s.Status == engine.StatusRestarting }

// containerSize is what a container has written, and with it what its image holds, as docker shows it.
func containerSize(cmd *cobra.Command, e *engine.Engine, r *engine.Record) string {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	written := e.Written(r.ID)
	store, err := e.Images()
	if err != nil {
		return size(written)
	}
	image, err := store.Get(cmd.Context(), r.ImageID)
	if err != nil { // it is gone
		return size(written)
	}
	return fmt.Sprintf("%s (virtual %s)", size(written), size(written+image.Size))
}

// containerNetworks are the names of the networks that a container is on.
func containerNetworks(e *engine.Engine, r *engine.Record) []string {
	var names []string
	for _, ep := range e.Endpoints(r) {
		names = append(names, ep.Name)
	}
	if len(names) == 0 {
		names = append(names, r.Config.Network)
	}
	return names
}

func containerColumns() []column {
	return []column{
		{"CONTAINER ID", "ID"}, {"IMAGE", "Image"}, {"COMMAND", "Command"}, {"CREATED", "RunningFor"},
		{"STATUS", "Status"}, {"PORTS", "Ports"}, {"NAMES", "Names"},
	}
}

// moreContainerColumns are those that --format can show.
func moreContainerColumns() []column {
	return []column{
		{"CREATED AT", "CreatedAt"}, {"STATE", "State"}, {"SIZE", "Size"}, {"LABELS", "Labels"}, {"MOUNTS", "Mounts"},
		{"LOCAL VOLUMES", "LocalVolumes"}, {"NETWORKS", "Networks"},
	}
}

// How much docker shows of a command, and of what is mounted.
const (
	commandLength = 20
	mountLength   = 15
)

// shorten is what docker shows of a text that may be long.
func shorten(text string, length int) string {
	if runes := []rune(text); len(runes) > length {
		return string(runes[:length-1]) + "…"
	}
	return text
}

func containerRow(r *engine.Record, noTrunc bool, now time.Time) row {
	id, command := r.ID, r.Command()
	if !noTrunc {
		id, command = engine.ShortID(id), shorten(command, commandLength)
	}
	var mounts []string
	volumes := 0
	for _, m := range r.Config.Mounts {
		name := m.Source
		if !noTrunc {
			name = shorten(name, mountLength)
		}
		if mounts = append(mounts, name); m.Volume {
			volumes++
		}
	}
	image := r.Config.Image
	if image == "" {
		image = "<unknown>"
	}
	one := row{
		"ID": id, "Image": image, "Command": strconv.Quote(command), "Names": r.Name, "Ports": listedPorts(r),
		"CreatedAt": r.Created.Format(listedTime), "RunningFor": ago(now, r.Created),
		"Status": containerStatus(r.State, now), "State": dockerStatus(r.State.Status), "Size": "0B",
		"Mounts": strings.Join(mounts, ","), "LocalVolumes": strconv.Itoa(volumes),
	}
	one.setLabels(r.Config.Labels)
	return one
}

func ago(now, then time.Time) string { return units.HumanDuration(now.Sub(then)) + " ago" }

// containerStatus says in docker's words what a container does.
func containerStatus(s engine.State, now time.Time) string {
	switch s.Status {
	case engine.StatusRunning:
		return "Up " + units.HumanDuration(now.Sub(s.Started)) + healthStatus(s.Health)
	case engine.StatusPaused:
		return "Up " + units.HumanDuration(now.Sub(s.Started)) + " (Paused)"
	case engine.StatusRestarting:
		return fmt.Sprintf("Restarting (%d) %s", s.ExitCode, ago(now, s.Finished))
	case engine.StatusExited:
		return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(now, s.Finished))
	case engine.StatusDead:
		return "Dead"
	}
	return "Created"
}

func healthStatus(h *engine.Health) string {
	switch {
	case h == nil:
		return ""
	case h.Status == engine.HealthStarting:
		return " (health: starting)"
	}
	return " (" + h.Status + ")"
}

// containerFilter makes one test of all --filter flags: those with the same key
// are alternatives. anyState tells that the filter is about states, so that ended
// containers count.
func containerFilter(all []*engine.Record, filters []string) (match func(*engine.Record) bool, anyState bool, err error) {
	tests := map[string]func(*engine.Record, string) bool{
		"name": func(r *engine.Record, v string) bool { return fitsName(r.Name, v) },
		"id":   func(r *engine.Record, v string) bool { return strings.HasPrefix(r.ID, v) },
		"status": func(r *engine.Record, v string) bool {
			return dockerStatus(r.State.Status) == v
		},
		"ancestor": func(r *engine.Record, v string) bool {
			return familiar(r.Config.Image) == familiar(v) || strings.HasPrefix(strings.TrimPrefix(r.ImageID, "sha256:"), strings.TrimPrefix(v, "sha256:"))
		},
		"exited": func(r *engine.Record, v string) bool {
			return r.State.Status == engine.StatusExited && strconv.Itoa(r.State.ExitCode) == v
		},
		"health": func(r *engine.Record, v string) bool {
			if r.State.Health == nil {
				return v == "none"
			}
			return r.State.Health.Status == v
		},
		"network": func(r *engine.Record, v string) bool {
			return r.Config.Network == v || slices.ContainsFunc(r.Config.Endpoints, func(ep engine.Endpoint) bool { return ep.Name == v || ep.Network == v })
		},
		"volume": func(r *engine.Record, v string) bool {
			return slices.ContainsFunc(r.Config.Mounts, func(m engine.Mount) bool { return m.Source == v || m.Target == v })
		},
		"before": func(r *engine.Record, v string) bool { return r.Created.Before(createdAt(all, v)) },
		"since":  func(r *engine.Record, v string) bool { return r.Created.After(createdAt(all, v)) },
		"label":  func(r *engine.Record, v string) bool { return hasLabel(r.Config.Labels, v) },
	}
	match, err = filter(filters, tests)
	anyState = slices.ContainsFunc(filters, func(f string) bool {
		return strings.HasPrefix(f, "status=") || strings.HasPrefix(f, "exited=")
	})
	return match, anyState, err
}

// fitsName tells whether a container's name has what a filter asks for: docker takes a regular expression, for the name
// with and without a slash in front.
func fitsName(name, want string) bool {
	pattern, err := regexp.Compile(want)
	return err == nil && (pattern.MatchString(name) || pattern.MatchString("/"+name)) || name == want
}

// createdAt is when the container with the name or ID was made; the zero time if there is none.
func createdAt(all []*engine.Record, ref string) time.Time {
	for _, r := range all {
		if r.Name == ref || strings.HasPrefix(r.ID, ref) {
			return r.Created
		}
	}
	return time.Time{}
}

// filter makes one test of all --filter flags: those with the same key are alternatives.
func filter[T any](filters []string, tests map[string]func(T, string) bool) (func(T) bool, error) {
	wanted := make(map[string][]string)
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok || tests[key] == nil {
			known := strings.Join(slices.Sorted(maps.Keys(tests)), "=, ")
			return nil, fmt.Errorf("invalid filter %q: known are %s=", f, known)
		}
		wanted[key] = append(wanted[key], value)
	}
	return func(v T) bool {
		for key, values := range wanted {
			if !slices.ContainsFunc(values, func(want string) bool { return tests[key](v, want) }) {
				return false
			}
		}
		return true
	}, nil
}
