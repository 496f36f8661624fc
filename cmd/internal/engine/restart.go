package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// RestartPolicy says when a container is started again.
type RestartPolicy struct {
	Name string `json:"name,omitempty"` // one of below; "" is RestartNo
	// MaxRetries bounds the starts of RestartOnFailure in a row; 0: no bound.
	MaxRetries int `json:"max_retries,omitempty"`
}

// Names of restart policies.
const (
	RestartNo            = "no"
	RestartAlways        = "always"         // unless the user has stopped it; with the host in any case
	RestartUnlessStopped = "unless-stopped" // unless the user has stopped it
	RestartOnFailure     = "on-failure"     // if the exit status is not 0
)

// ParseRestart reads what --restart takes.
func ParseRestart(s string) (RestartPolicy, error) {
	name, most, counted := strings.Cut(s, ":")
	p := RestartPolicy{Name: name}
	if counted {
		n, err := strconv.Atoi(most)
		if err != nil || n < 0 {
			return p, fmt.Errorf("restart policy %q: maximum retry count must be a number of at least 0", s)
		}
		p.MaxRetries = n
	}
	return p, p.check()
}

func (p RestartPolicy) check() error {
	switch p.Name {
	case "", RestartNo, RestartAlways, RestartUnlessStopped:
		if p.MaxRetries != 0 {
			return fmt.Errorf("restart policy %q: maximum retry count cannot be used with it", p.Name)
		}
		return nil
	case RestartOnFailure:
		return nil
	}
	return fmt.Errorf("invalid restart policy: unknown policy '%s'; use one of '%s', '%s', '%s', or '%s'",
		p.Name, RestartNo, RestartAlways, RestartOnFailure, RestartUnlessStopped)
}

// String is the policy as --restart takes it.
func (p RestartPolicy) String() string {
	switch {
	case p.Name == "":
		return RestartNo
	case p.MaxRetries > 0:
		return fmt.Sprintf("%s:%d", p.Name, p.MaxRetries)
	}
	return p.Name
}

// None tells whether a container is never started again by itself.
func (p RestartPolicy) None() bool { return p.Name == "" || p.Name == RestartNo }

// again tells whether a container that has ended with the status is started once more, after so many starts in a row.
func (p RestartPolicy) again(code, starts int) bool {
	switch p.Name {
	case RestartAlways, RestartUnlessStopped:
		return true
	case RestartOnFailure:
		return code != 0 && (p.MaxRetries == 0 || starts < p.MaxRetries)
	}
	return false
}

// How long to wait before a container is started again: twice as long each time, from the beginning when it has run for
// long enough. docker's figures.
const (
	restartFirst  = 100 * time.Millisecond
	restartMost   = time.Minute
	restartSettle = 10 * time.Second
)
