package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Levels of the log, the most important first.
const (
	levelOff = iota
	levelError
	levelWarning
	levelInfo
	levelDebug
	levelTrace
)

var levelNames = []string{"Off", "Error", "Warning", "Info", "Debug", "Trace"}

// parseLevel takes a level's name, in any case; "Warn" is one as well.
func parseLevel(text string) (int, bool) {
	if strings.EqualFold(text, "warn") {
		return levelWarning, true
	}
	for i, n := range levelNames {
		if strings.EqualFold(text, n) {
			return i, true
		}
	}
	return 0, false
}

// logger writes what happens to a file or a named pipe, a line each, once it has one.
type logger struct {
	id    string
	out   output
	level atomic.Int32 // one more than the highest that is written; 0 is the default
	show  atomic.Bool  // the level
	where atomic.Bool  // the name of this package, for what has no line of a source file to show
	json  atomic.Bool  // an object of JSON for each line, with level and origin
}

func (l *logger) enabled(level int) bool {
	most := int(l.level.Load()) - 1
	if most < 0 {
		most = levelInfo
	}
	return level <= most
}

// line writes a line. What is in it may come from clients: it stays one line.
func (l *logger) line(level int, format string, args ...any) {
	if !l.enabled(level) {
		return
	}
	if l.json.Load() {
		_ = l.out.write(l.object(level, fmt.Sprintf(format, args...)))
		return
	}
	var origin []string
	if l.show.Load() {
		origin = append(origin, levelNames[level])
	}
	if l.where.Load() {
		origin = append(origin, "api")
	}
	text := fmt.Sprintf(format, args...)
	prefix := strings.Join(append([]string{l.id}, origin...), ":")
	line := fmt.Sprintf("%s [%s] %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000000"), prefix, oneLine(text))
	_ = l.out.write([]byte(line)) // counted there
}

// object is a line as package slog's JSON handler writes it.
func (l *logger) object(level int, text string) []byte {
	var b bytes.Buffer
	h := slog.NewJSONHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey {
			a.Value = slog.StringValue(levelNames[level]) // slog has other names, and not all of them
		}
		return a
	}})
	r := slog.NewRecord(time.Now().UTC(), slog.LevelInfo, text, 0)
	r.AddAttrs(slog.String("id", l.id), slog.String("origin", "api"))
	_ = h.Handle(context.Background(), r) // a buffer takes everything
	return b.Bytes()
}

// oneLine is text without what would make it several lines, or something else on a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
}

// request says what a client asks for; what it stores for the guest, and CPU templates, which are long, are left out.
func (l *logger) request(method, path string, body []byte) {
	if !l.enabled(levelInfo) {
		return
	}
	verb := method[:min(len(method), 1)] + strings.ToLower(method[min(len(method), 1):])
	if len(body) == 0 || path == "/mmds" || path == "/cpu-config" && !l.enabled(levelDebug) {
		l.line(levelInfo, "The API server received a %s request on %q.", verb, path)
		return
	}
	l.line(levelInfo, "The API server received a %s request on %q with body %q.", verb, path, body)
}

// std is l for package http, which tells of broken connections.
func (l *logger) std() *log.Logger { return log.New(logWriter{l}, "", 0) }

type logWriter struct{ l *logger }

var _ io.Writer = logWriter{}

func (w logWriter) Write(p []byte) (int, error) {
	w.l.line(levelWarning, "%s", strings.TrimSpace(string(p)))
	return len(p), nil
}

func (s *Server) putLogger(c *loggerConfig) (any, error) {
	level := 0
	if c.Level != nil {
		n, ok := parseLevel(*c.Level)
		if !ok {
			return nil, &jsonError{message: fmt.Sprintf("unknown variant `%s`, expected %s", *c.Level, oneOf(levelNames))}
		}
		level = n + 1
	}
	if c.LogPath != nil {
		if err := s.log.out.open(*c.LogPath); err != nil {
			return nil, refuse("Logger error: Failed to open target file: %s", osError(err))
		}
	}
	if c.Level != nil {
		s.log.level.Store(int32(level))
	}
	if c.ShowLevel != nil {
		s.log.show.Store(*c.ShowLevel)
	}
	if c.ShowLogOrigin != nil {
		s.log.where.Store(*c.ShowLogOrigin)
	}
	s.resources.logger = c
	return nil, nil
}

// LogOptions are those of /logger, as a command has them.
type LogOptions struct {
	Path                  string // "" for no log
	Level                 string // "" is Info
	ShowLevel, ShowOrigin bool
	JSON                  bool // an object for each line
}

// Log does what a request to /logger does.
func (s *Server) Log(o LogOptions) error {
	s.log.json.Store(o.JSON)
	c := loggerConfig{ShowLevel: &o.ShowLevel, ShowLogOrigin: &o.ShowOrigin}
	if o.Path != "" {
		c.LogPath = &o.Path
	}
	if o.Level != "" {
		c.Level = &o.Level
	}
	if o == (LogOptions{}) {
		return nil
	}
	_, err := s.locked(preBoot, func() (any, error) { return s.putLogger(&c) })
	return err
}
