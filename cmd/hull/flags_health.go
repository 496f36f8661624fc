package main

import (
	"errors"
	"time"

	"github.com/spf13/pflag"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// healthFlags are the flags about a container's health check.
type healthFlags struct {
	cmd                                           string
	interval, timeout, startPeriod, startInterval time.Duration
	retries                                       int
	none                                          bool
}

func (f *healthFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.cmd, "health-cmd", "", "`Command` that tells whether the container does what it should")
	flags.DurationVar(&f.interval, "health-interval", 0, "Time between two health checks (default 30s)")
	flags.DurationVar(&f.timeout, "health-timeout", 0, "How long a health check may take (default 30s)")
	flags.DurationVar(&f.startPeriod, "health-start-period", 0, "How long the container may be unhealthy after its start")
	flags.DurationVar(&f.startInterval, "health-start-interval", 0, "Time between two health checks in that period (default 5s)")
	flags.IntVar(&f.retries, "health-retries", 0, "`Failures` in a row that make the container unhealthy (default 3)")
	flags.BoolVar(&f.none, "no-healthcheck", false, "Leave out the image's health check")
}

// config is the check; nil when nothing was said.
func (f *healthFlags) config() (*engine.HealthCheck, error) {
	h := engine.HealthCheck{
		Interval: f.interval, Timeout: f.timeout, StartPeriod: f.startPeriod, StartInterval: f.startInterval, Retries: f.retries,
	}
	said := f.cmd != "" || f.interval != 0 || f.timeout != 0 || f.startPeriod != 0 || f.startInterval != 0 || f.retries != 0
	switch {
	case f.none && said:
		return nil, errors.New("--no-healthcheck conflicts with --health-* options")
	case f.none:
		return &engine.HealthCheck{Test: []string{"NONE"}}, nil
	case !said:
		return nil, nil
	}
	if f.cmd != "" {
		h.Test = []string{"CMD-SHELL", f.cmd}
	}
	return &h, nil
}
