package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine/logfile"
)

// LogConfig says how a container's output is kept.
type LogConfig struct {
	Driver   string `json:"driver,omitempty"`    // LogJSON, which "" stands for, or LogNone
	MaxSize  int64  `json:"max_size,omitempty"`  // of one file, bytes; 0: any
	MaxFiles int    `json:"max_files,omitempty"` // 0: 1
}

// Log drivers.
const (
	LogJSON = "json-file"
	LogNone = "none"
)

func (c LogConfig) check() error {
	switch {
	case c.Driver != "" && c.Driver != LogJSON && c.Driver != LogNone:
		return fmt.Errorf("log driver %q: there are %s and %s", c.Driver, LogJSON, LogNone)
	case c.MaxSize < 0 || c.MaxFiles < 0:
		return errors.New("log options: max-size and max-file must be positive")
	case c.MaxSize == 0 && c.MaxFiles > 1:
		return errors.New("log options: max-file needs max-size")
	}
	return nil
}

// options are how the files are kept, if at all.
func (c LogConfig) options() (o logfile.Options, kept bool) {
	return logfile.Options{MaxSize: c.MaxSize, MaxFiles: c.MaxFiles}, c.Driver != LogNone
}

// LogPath is where the container's log is: the file that grows.
func (e *Engine) LogPath(id string) string { return filepath.Join(e.store.dir(id), id+"-json.log") }

func (c *Container) logPath() string { return c.engine.LogPath(c.id) }

// LogOptions say which part of a log is wanted.
type LogOptions struct {
	Follow       bool
	Tail         int // of the last lines; negative: all
	Since, Until time.Time
	// VM asks for the VM log instead of what the container has written: see VMLogConfig.
	VM bool
}

// LogEntry is a line, or a piece of a long one, that a container has written.
type LogEntry = logfile.Entry

// Logs calls emit for what a container has written, and with Follow for what it writes until it ends.
func (e *Engine) Logs(ctx context.Context, ref string, o LogOptions, emit func(LogEntry) error) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	path := e.LogPath(r.ID)
	switch {
	case o.VM && r.Config.VMLog.Level == VMLogOff:
		return fmt.Errorf("container %s: it was created to have no VM log", ref)
	case o.VM:
		path = e.vmLogPath(r.ID)
	case r.Config.Log.Driver == LogNone:
		return fmt.Errorf("container %s: configured logging driver does not support reading", ref)
	}
	read := logfile.ReadOptions{Tail: o.Tail}
	if o.Follow {
		over := make(chan struct{})
		ctx, cancel := context.WithCancel(ctx)
		defer func() {
			cancel()
			<-over
		}()
		asking := ctx
		if !o.Until.IsZero() { // the time may come without a line
			var late context.CancelFunc
			asking, late = context.WithDeadline(ctx, o.Until)
			defer late()
		}
		go func() {
			defer close(over)
			_, _ = e.ask(asking, r.ID, request{Op: opWait}) // whatever comes of it, there is no more
		}()
		read.Follow = over
	}
	return logfile.Read(ctx, path, read, func(line []byte) error {
		entry, err := logfile.ParseEntry(line)
		if err != nil {
			return nil // garbage in the file must not hide the rest
		}
		// The host's clock may have been set back: what comes after a later entry may be wanted.
		if entry.Time.Before(o.Since) || !o.Until.IsZero() && entry.Time.After(o.Until) {
			return nil
		}
		return emit(entry)
	})
}
