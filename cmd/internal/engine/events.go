package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine/logfile"
)

// Event is something that has happened to a container, or to whatever else Type says: docker's event messages.
type Event struct {
	Type   string            `json:"Type"` // "container"
	Action string            `json:"Action"`
	ID     string            `json:"ID"`
	Attr   map[string]string `json:"Attributes,omitempty"`
	Time   time.Time         `json:"Time"`
}

// eventsName is the file that keeps what has happened, and eventsKept how much of it.
const eventsName = "events"

var eventsKept = logfile.Options{MaxSize: 1 << 20, MaxFiles: 2}

// emit notes what has happened to a container. Nothing depends on it: what cannot be noted is not.
func (e *Engine) emit(r *Record, action string, more map[string]string) {
	attr := maps.Clone(r.Config.Labels)
	if attr == nil {
		attr = make(map[string]string)
	}
	maps.Copy(attr, more)
	attr["image"], attr["name"] = r.Config.Image, r.Name
	e.note(Event{Type: "container", Action: action, ID: r.ID, Attr: attr, Time: time.Now()})
}

func (e *Engine) note(event Event) {
	line, err := json.Marshal(event)
	if err != nil {
		return
	}
	// Several processes write. Whoever has the gate is the one that does.
	gate, err := openGate(context.Background(), filepath.Join(e.store.dirs.Data, eventsGate))
	if err != nil {
		return
	}
	defer gate.Close()
	w, err := logfile.Open(filepath.Join(e.store.dirs.Data, eventsName), eventsKept)
	if err != nil {
		return
	}
	defer w.Close()
	_, _ = w.Append(append(line, '\n'))
}

// eventsGate is locked while an event is written.
const eventsGate = "events.lock"

func (c *Container) emit(action string, more map[string]string) {
	c.engine.emit(c.latest(), action, more)
}

// Events calls emit for what has happened since a time, and, unless until has passed, for what happens until then, or
// until ctx ends. The zero until is never.
func (e *Engine) Events(ctx context.Context, since, until time.Time, emit func(Event) error) error {
	if err := e.open(ctx); err != nil {
		return err
	}
	end := make(chan struct{})
	if !until.IsZero() {
		timer := time.AfterFunc(time.Until(until), func() { close(end) })
		defer timer.Stop()
	}
	err := logfile.Read(ctx, filepath.Join(e.store.dirs.Data, eventsName), logfile.ReadOptions{Tail: -1, Follow: end}, func(line []byte) error {
		var event Event
		if json.Unmarshal(line, &event) != nil || event.Time.Before(since) {
			return nil
		}
		if !until.IsZero() && event.Time.After(until) {
			return nil
		}
		return emit(event)
	})
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	return nil
}
