package engine

import (
	"testing"
	"time"
)

// Who follows a log up to a time is let go then, though the container writes no further line.
func TestLogsUntil(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, Config{Args: []string{"sh", "-c", "echo one; exec sleep 1000"}})
	eventually(t, e, id, "running", func(r *Record) bool { return r.State.Status == StatusRunning })
	for logText(t, e, id, LogOptions{Tail: -1}) == "" {
		time.Sleep(2 * time.Millisecond)
	}
	began := time.Now()
	got := logText(t, e, id, LogOptions{Tail: -1, Follow: true, Until: began.Add(300 * time.Millisecond)})
	if took := time.Since(began); got != "stdout:one\n" || took < 300*time.Millisecond || took > patience {
		t.Errorf("%q after %v", got, took)
	}
	if got := logText(t, e, id, LogOptions{Tail: -1, Follow: true, Until: began.Add(-time.Hour)}); got != "" {
		t.Errorf("of an hour ago: %q", got)
	}
}
