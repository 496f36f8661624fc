package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newEvents(a *app) *cobra.Command {
	var since, until, format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Show what happens to containers",
		Long:  "Show what happens to containers, as it happens; with --since also what has happened, with --until up to a time.",
		Example: `  hull events
  hull events --since 1h --until 0s
  hull events --filter container=web --filter event=die --format json`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			from, err := parseTime(since, now)
			if err != nil {
				return fmt.Errorf("invalid value for \"since\": %w", err)
			}
			to, err := parseTime(until, now)
			if err != nil {
				return fmt.Errorf("invalid value for \"until\": %w", err)
			}
			if since == "" {
				from = now
			}
			match, err := eventFilter(filters)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			return e.Events(ctx, from, to, func(event engine.Event) error {
				if !match(event) {
					return nil
				}
				if format == "" {
					_, err := fmt.Fprintln(a.stdout, eventLine(event))
					return err
				}
				attributes, err := json.Marshal(event.Attr)
				if err != nil {
					return err
				}
				return writeFormat(a.stdout, format, nil, []row{{
					"Type": event.Type, "Action": event.Action, "Status": event.Action, "ID": event.ID, "Attributes": string(attributes),
					"Time": fmt.Sprint(event.Time.Unix()), "TimeNano": fmt.Sprint(event.Time.UnixNano()),
				}})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "Show what has happened after a `time`")
	f.StringVar(&until, "until", "", "End at a `time`")
	f.StringArrayVarP(&filters, "filter", "f", nil, "Show those that fit only: container=, event=, image=, label=, type=")
	f.StringVar(&format, "format", "", "\"json\" or a Go `template`")
	return cmd
}

// eventLine is an event as docker writes it.
func eventLine(e engine.Event) string {
	var attributes []string
	for key, value := range e.Attr {
		attributes = append(attributes, key+"="+value)
	}
	slices.Sort(attributes)
	return clean(fmt.Sprintf("%s %s %s %s (%s)", e.Time.Format(logTime), e.Type, e.Action, e.ID, strings.Join(attributes, ", ")))
}

// eventFilter makes one test of all --filter flags: those with the same key are alternatives.
func eventFilter(filters []string) (func(engine.Event) bool, error) {
	tests := map[string]func(engine.Event, string) bool{
		"container": func(e engine.Event, v string) bool {
			return e.Type == "container" && (e.Attr["name"] == v || strings.HasPrefix(e.ID, v))
		},
		"event": func(e engine.Event, v string) bool { return e.Action == v || strings.HasPrefix(e.Action, v+":") },
		"image": func(e engine.Event, v string) bool { return familiar(e.Attr["image"]) == familiar(v) },
		"label": func(e engine.Event, v string) bool {
			key, want, hasValue := strings.Cut(v, "=")
			got, ok := e.Attr[key]
			return ok && (!hasValue || got == want)
		},
		"type": func(e engine.Event, v string) bool { return e.Type == v },
	}
	return filter(filters, tests)
}
