package main

import (
	"fmt"
	"io"
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
			show, err := eventFormat(a.stdout, format)
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
				return show(messageOf(event))
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

// eventMessage is an event with docker's names, for templates and as JSON.
type eventMessage struct {
	Status   string `json:"status,omitempty"`
	ID       string `json:"id,omitempty"`
	From     string `json:"from,omitempty"`
	Type     string
	Action   string
	Actor    eventActor
	Scope    string `json:"scope,omitempty"`
	Time     int64  `json:"time,omitempty"`     // in seconds
	TimeNano int64  `json:"timeNano,omitempty"` // the same in nanoseconds
}

type eventActor struct {
	ID         string
	Attributes map[string]string
}

func messageOf(e engine.Event) eventMessage {
	m := eventMessage{
		Type: e.Type, Action: e.Action, Actor: eventActor{e.ID, orEmpty(e.Attr)}, Scope: "local",
		Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
	if e.Type == "container" { // what there was before other things had events
		m.Status, m.ID, m.From = e.Action, e.ID, e.Attr["image"]
	}
	return m
}

// eventFormat makes what writes events as --format says.
func eventFormat(w io.Writer, format string) (func(eventMessage) error, error) {
	if format == "json" {
		format = "{{json .}}"
	}
	if format == "" {
		return func(m eventMessage) error {
			_, err := fmt.Fprintln(w, eventLine(m))
			return err
		}, nil
	}
	t, err := parseTemplate(format)
	if err != nil {
		return nil, err
	}
	return func(m eventMessage) error {
		var line strings.Builder
		if err := t.Execute(&line, m); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		_, err := fmt.Fprintln(w, line.String())
		return err
	}, nil
}

// eventLine is an event as docker writes it.
func eventLine(m eventMessage) string {
	var attributes []string
	for key, value := range m.Actor.Attributes {
		attributes = append(attributes, key+"="+value)
	}
	slices.Sort(attributes)
	at := time.Unix(0, m.TimeNano).Format(logTime)
	return clean(fmt.Sprintf("%s %s %s %s (%s)", at, m.Type, m.Action, m.Actor.ID, strings.Join(attributes, ", ")))
}

// eventFilter makes one test of all --filter flags: those with the same key are alternatives.
func eventFilter(filters []string) (func(engine.Event) bool, error) {
	tests := map[string]func(engine.Event, string) bool{
		"container": func(e engine.Event, v string) bool {
			return e.Type == "container" && (e.Attr["name"] == v || strings.HasPrefix(e.ID, v))
		},
		"event": func(e engine.Event, v string) bool { return e.Action == v || strings.HasPrefix(e.Action, v+":") },
		"image": func(e engine.Event, v string) bool { return familiar(e.Attr["image"]) == familiar(v) },
		"label": func(e engine.Event, v string) bool { return hasLabel(e.Attr, v) },
		"type":  func(e engine.Event, v string) bool { return e.Type == v },
	}
	return filter(filters, tests)
}
