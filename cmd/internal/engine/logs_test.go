package engine

import (
	"fmt"
	"os"
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

// A clock that was wrong for a while hides nothing but what it says is not wanted.
func TestLogsOfAClockThatJumped(t *testing.T) {
	e := newTestEngine(t)
	c := createTest(t, e, "web")
	rest(t, c)
	var text []byte
	for _, at := range []string{"2030-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "2030-01-01T00:00:02Z", "1970-01-01T00:00:00Z", "2030-01-01T00:00:03Z"} {
		text = fmt.Appendf(text, `{"log":"%s\n","stream":"stdout","time":"%s"}`+"\n", at[:4]+at[17:19], at)
	}
	if err := os.WriteFile(e.LogPath(c.ID()), text, 0o600); err != nil {
		t.Fatal(err)
	}
	since, until := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2030, 1, 1, 0, 1, 0, 0, time.UTC)
	want := "stdout:203000\nstdout:203002\nstdout:203003\n"
	if got := logText(t, e, c.ID(), LogOptions{Tail: -1, Since: since, Until: until}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := e.Remove(t.Context(), c.ID(), false); err != nil {
		t.Error(err)
	}
}
