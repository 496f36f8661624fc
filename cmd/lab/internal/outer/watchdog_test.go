package outer

import (
	"strings"
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	begin := time.Unix(1000, 0)
	const s = time.Second
	for name, c := range map[string]struct {
		silent, ran, queued time.Duration
		over                string
	}{
		"just answered":            {1 * s, 1 * s, 0, ""},
		"working":                  {15 * s, 29 * s, 0, ""},
		"spinning":                 {16 * s, 31 * s, 0, "31 s of CPU time"},
		"asleep":                   {61 * s, 0, 0, "no answer for 61 s"},
		"asleep, not yet long":     {59 * s, 0, 0, ""},
		"starved by the host":      {600 * s, 20 * s, 570 * s, ""},
		"asleep on a busy host":    {600 * s, 20 * s, 300 * s, "no answer for 600 s"},
		"spinning, busy host":      {600 * s, 40 * s, 600 * s, "40 s of CPU time"},
		"clock set back meanwhile": {-5 * s, 0, 0, ""},
	} {
		p := patience{busy: 30 * s, idle: 60 * s}
		p.answered(usage{ran: 7 * s, queued: 3 * s}, begin)
		got := p.over(usage{ran: 7*s + c.ran, queued: 3*s + c.queued}, begin.Add(c.silent))
		if (got == "") != (c.over == "") || !strings.Contains(got, c.over) {
			t.Errorf("%s: %q, want %q", name, got, c.over)
		}
	}
}

func TestUsage(t *testing.T) {
	var u usage
	u.add("1500000000 250000000 37\n")
	u.add("500000000 0 1\n")
	u.add("")
	u.add("x")
	if want := (usage{ran: 2 * time.Second, queued: 250 * time.Millisecond}); u != want {
		t.Errorf("%+v, want %+v", u, want)
	}
}

func TestTail(t *testing.T) {
	var console tail
	for range 3 * tailSize / 64 {
		console.Write([]byte(strings.Repeat("x", 63) + "\n"))
	}
	console.Write([]byte("last but one\r\nlast\r\n"))
	if len(console.b) > tailSize {
		t.Errorf("keeps %d bytes", len(console.b))
	}
	if got := console.lines(2); got != "last but one\r\nlast" {
		t.Errorf("%q", got)
	}
	if got := new(tail).lines(3); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}
