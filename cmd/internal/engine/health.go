package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// HealthCheck is a command that tells whether the workload does what it should: docker's HealthConfig. What is zero is
// the image's, or a default.
type HealthCheck struct {
	// Test is "NONE", or "CMD" and the command's arguments, or "CMD-SHELL" and a line for the shell.
	Test          []string      `json:"Test,omitempty"`
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`   // failures count only after this
	StartInterval time.Duration `json:"StartInterval,omitempty"` // Interval until then
	Retries       int           `json:"Retries,omitempty"`       // failures in a row that make it unhealthy
}

// Kinds of HealthCheck.Test.
const (
	healthNone  = "NONE"
	healthCmd   = "CMD"
	healthShell = "CMD-SHELL"
)

// Defaults of a HealthCheck, docker's.
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthRetries       = 3
)

func (h *HealthCheck) check() error {
	if h == nil {
		return nil
	}
	if len(h.Test) > 0 && !slices.Contains([]string{healthNone, healthCmd, healthShell}, h.Test[0]) {
		return fmt.Errorf("health check %q: unknown type", h.Test[0])
	}
	for name, d := range map[string]time.Duration{"interval": h.Interval, "timeout": h.Timeout, "start period": h.StartPeriod, "start interval": h.StartInterval} {
		if d != 0 && d < time.Millisecond {
			return fmt.Errorf("health check: %s of %v: must be at least 1ms", name, d)
		}
	}
	if h.Retries < 0 {
		return fmt.Errorf("health check: %d retries: must not be negative", h.Retries)
	}
	return nil
}

// health is the check of a container: the user's, completed by the image's; nil if there is none.
func (r *Record) health() *HealthCheck {
	var h HealthCheck
	if r.ImageConfig.Healthcheck != nil {
		h = *r.ImageConfig.Healthcheck
	}
	if u := r.Config.Health; u != nil {
		if len(u.Test) > 0 {
			h.Test = u.Test
		}
		for _, d := range []struct{ to, from *time.Duration }{
			{&h.Interval, &u.Interval}, {&h.Timeout, &u.Timeout}, {&h.StartPeriod, &u.StartPeriod}, {&h.StartInterval, &u.StartInterval},
		} {
			if *d.from != 0 {
				*d.to = *d.from
			}
		}
		if u.Retries != 0 {
			h.Retries = u.Retries
		}
	}
	if len(h.Test) < 2 || h.Test[0] == healthNone {
		return nil
	}
	setDefault(&h.Interval, healthInterval)
	setDefault(&h.Timeout, healthTimeout)
	setDefault(&h.StartInterval, healthStartInterval)
	setDefault(&h.Retries, healthRetries)
	return &h
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Health is how the checks of a running container went.
type Health struct {
	Status        string         `json:"status"` // one of below
	FailingStreak int            `json:"failing_streak"`
	Log           []HealthResult `json:"log,omitempty"` // the last ones
}

// States of health, in docker's words.
const (
	HealthStarting  = "starting"
	HealthHealthy   = "healthy"
	HealthUnhealthy = "unhealthy"
)

// HealthResult is how one check went.
type HealthResult struct {
	Start    time.Time `json:"Start"`
	End      time.Time `json:"End"`
	ExitCode int       `json:"ExitCode"` // -1: it did not end in time
	Output   string    `json:"Output"`
}

const (
	healthLog    = 5    // checks that are remembered
	healthOutput = 4096 // bytes that are remembered of one
)

// watchHealth begins to check the workload, if it has a check; stop ends that.
func (r *run) watchHealth(ctx context.Context, client *proto.Client) (stop func()) {
	check := r.record.health()
	if check == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { r.checkHealth(ctx, client, check) })
	return func() {
		cancel()
		done.Wait()
	}
}

func (r *run) checkHealth(ctx context.Context, client *proto.Client, check *HealthCheck) {
	began := time.Now()
	health := Health{Status: HealthStarting}
	for n := 0; ; n++ {
		if r.saveHealth(health) != nil {
			return // the disk is full, or the container gone: others will say so
		}
		interval := check.Interval
		starting := health.Status == HealthStarting && time.Since(began) < check.StartPeriod
		if starting {
			interval = min(interval, check.StartInterval)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return
		}
		result := r.probe(ctx, client, fmt.Sprintf("health-%d", n), check)
		if ctx.Err() != nil {
			return
		}
		was := health.Status
		health = health.after(result, check.Retries, starting)
		if health.Status != was {
			r.emit("health_status: "+health.Status, nil)
			r.log.Info("health", "status", health.Status)
		}
	}
}

// after is the state of health after one more check. A failure while the workload starts does not count.
func (h Health) after(result HealthResult, retries int, starting bool) Health {
	h.Log = append(slices.Clone(h.Log), result)
	h.Log = h.Log[max(len(h.Log)-healthLog, 0):]
	switch {
	case result.ExitCode == 0:
		h.Status, h.FailingStreak = HealthHealthy, 0
	case starting:
	default:
		h.FailingStreak++
		if h.FailingStreak >= retries {
			h.Status = HealthUnhealthy
		}
	}
	return h
}

func (r *run) saveHealth(h Health) error {
	return r.save(func(s *State) {
		if s.Up() {
			s.Health = &h
		}
	})
}

// probe runs the check once.
func (r *run) probe(ctx context.Context, client *proto.Client, name string, check *HealthCheck) HealthResult {
	result := HealthResult{Start: time.Now()}
	output := &tail{limit: healthOutput}
	bounded, cancel := context.WithTimeout(ctx, check.Timeout)
	defer cancel()
	code, err := r.runCheck(bounded, client, name, check, output)
	result.End, result.ExitCode, result.Output = time.Now(), code, output.String()
	if err != nil {
		result.ExitCode, result.Output = -1, err.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		result.Output = fmt.Sprintf("Health check exceeded timeout (%v): %s", check.Timeout, output.String())
		kill, cancel := context.WithTimeout(ctx, relayPatience)
		defer cancel()
		_ = client.Signal(kill, name, int(unix.SIGKILL)) // it may have ended by now
	}
	return result
}

// runCheck runs the check's command to its end.
func (r *run) runCheck(ctx context.Context, client *proto.Client, name string, check *HealthCheck, output *tail) (int, error) {
	spec, err := r.record.Process()
	if err != nil {
		return 0, err
	}
	spec.Terminal, spec.ConsoleSize = false, nil
	spec.Args = check.Test[1:]
	if check.Test[0] == healthShell {
		spec.Args = append([]string{"/bin/sh", "-c"}, check.Test[1:]...)
	}
	ends := Attach{Stdout: output, Stderr: output}
	pumps, err := connect(ctx, r.socket(), name, false, &ends)
	if err != nil {
		return 0, err
	}
	defer pumps.close()
	process, err := client.Exec(ctx, name, spec, ends.names(false)...)
	var refused *proto.Error
	if errors.As(err, &refused) {
		output.buf = *bytes.NewBufferString(refused.Message)
		return refused.ExitCode(), nil
	}
	if err != nil {
		return 0, err
	}
	ended, err := process.Wait(ctx)
	if err != nil {
		return 0, err
	}
	return ended.Code(), pumps.drain(ctx)
}
