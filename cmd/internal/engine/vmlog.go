package engine

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hullvm/hull/cmd/internal/engine/logfile"
	"github.com/hullvm/hull/vmm"
)

// VMLogConfig says what the VM log of a container tells: the lines in which its supervisor notes what becomes of its VM,
// for whoever looks after this host. What the workload writes is in another log: see LogConfig.
type VMLogConfig struct {
	// Level is that of the least important lines: one of VMLogLevels; "" is that of DefaultVMLog.
	Level string `json:"level,omitempty"`
	// Format is how package slog writes them: one of VMLogFormats; "" is that of DefaultVMLog.
	Format string `json:"format,omitempty"`
}

// DefaultVMLog is what a VM log is unless its VMLogConfig says otherwise.
var DefaultVMLog = VMLogConfig{Level: "info", Format: "text"}

// WithDefaults is c with nothing left open.
func (c VMLogConfig) WithDefaults() VMLogConfig {
	return VMLogConfig{Level: cmp.Or(c.Level, DefaultVMLog.Level), Format: cmp.Or(c.Format, DefaultVMLog.Format)}
}

// VMLogOff is the level of those who want no VM log.
const VMLogOff = "off"

const vmLogJSON = "json"

// VMLogLevels and VMLogFormats are what a VMLogConfig may have.
var (
	VMLogLevels  = []string{"debug", "info", "warn", "error", VMLogOff}
	VMLogFormats = []string{"text", vmLogJSON}
)

func (c VMLogConfig) check() error {
	if c.Level != "" && !slices.Contains(VMLogLevels, c.Level) {
		return fmt.Errorf("VM log level %q: must be %s", c.Level, strings.Join(VMLogLevels, ", "))
	}
	if c.Format != "" && !slices.Contains(VMLogFormats, c.Format) {
		return fmt.Errorf("VM log format %q: must be %s", c.Format, strings.Join(VMLogFormats, " or "))
	}
	return nil
}

// vmLogName is the file of a container's VM log in its directory, each line an entry of docker's json-file format, and
// vmLogKept how much of it is kept.
const vmLogName = "vm.log"

var vmLogKept = logfile.Options{MaxSize: 1 << 20, MaxFiles: 2}

// VMLogStream is the stream of a VM log's entries.
const VMLogStream = "vm"

func (e *Engine) vmLogPath(id string) string { return filepath.Join(e.store.dir(id), vmLogName) }

// vmLog is a VM log that is written.
type vmLog struct {
	*slog.Logger
	file *logfile.Writer // nil: there is none
}

// openVMLog opens the container's VM log for writing. close must be called.
func (c *Container) openVMLog() (vmLog, error) {
	config := c.latest().Config.VMLog.WithDefaults()
	if config.Level == VMLogOff {
		return vmLog{Logger: slog.New(slog.DiscardHandler)}, nil
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(config.Level)); err != nil {
		return vmLog{}, fmt.Errorf("VM log: %w", err)
	}
	file, err := logfile.Open(c.engine.vmLogPath(c.id), vmLogKept)
	if err != nil {
		return vmLog{}, err
	}
	w := vmLogWriter{logfile.NewStreams(file)}
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if config.Format == vmLogJSON {
		h = slog.NewJSONHandler(w, o)
	}
	return vmLog{Logger: slog.New(h).With("id", ShortID(c.id)), file: file}, nil
}

func (l *vmLog) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// vmLogWriter takes the lines of a slog handler, one in each Write.
type vmLogWriter struct{ streams *logfile.Streams }

func (w vmLogWriter) Write(line []byte) (int, error) {
	w.streams.Write(VMLogStream, line) // what cannot be kept is counted there
	return len(line), nil
}

// event notes what the VM process reports.
func (l *vmLog) event(e vmm.Event) {
	switch e.Event {
	case "stage":
		l.Debug("stage reached", "stage", e.Name, "monotonic_ns", e.Time)
	case "ok":
		l.Debug("command carried out", "command", e.Name)
	case "error":
		if e.Name == "" { // the end of the VM, and noted with that of the process
			break
		}
		l.Warn("command failed", "command", e.Name, "error", e.Message)
	case "exit": // likewise
	default:
		l.Debug("event", "event", e.Event, "name", e.Name, "message", e.Message)
	}
}

// failed notes why a life of the container has ended, with which exit status.
func (l *vmLog) failed(err error, status int) {
	var interrupted *InterruptedError
	if errors.As(err, &interrupted) || errors.Is(err, errStopped) { // as its user wished
		l.Info("life ended early", "reason", err, "status", status)
		return
	}
	l.Error("life failed", "error", err, "status", status)
}

// ended notes how the VM process has ended.
func (l *vmLog) ended(end vmEnd) {
	switch end.event.Reason {
	case "", vmm.ReasonPanic, vmm.ReasonFailure:
		l.Error("VM failed", "error", end.err().What)
	default:
		l.Info("VM ended", "reason", end.event.Reason, "message", end.event.Message)
	}
}
