package main

import (
	"bufio"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newLogs(a *app) *cobra.Command {
	var options engine.LogOptions
	var tail, since, until string
	var timestamps bool
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Show what a container has written",
		Long: `Show what a container has written to its standard output and error, each on that of this
command. Times are RFC 3339, seconds since 1970, or durations before now, such as 10m.

With --vm, show what became of its VM: a line for each thing, as Go's package slog writes it.`,
		Example: `  hull logs web
  hull logs -f --tail 20 web
  hull logs -t --since 10m web
  hull logs --vm web`,
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			options.Tail = -1
			if tail != "all" {
				if options.Tail, err = strconv.Atoi(tail); err != nil {
					return fmt.Errorf("--tail %q: must be a number or \"all\"", tail)
				}
			}
			now := time.Now()
			if options.Since, err = parseTime(since, now); err != nil {
				return fmt.Errorf("invalid value for \"since\": %w", err)
			}
			if options.Until, err = parseTime(until, now); err != nil {
				return fmt.Errorf("invalid value for \"until\": %w", err)
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			outs := map[string]*bufio.Writer{"stdout": bufio.NewWriter(a.stdout), "stderr": bufio.NewWriter(a.stderr)}
			outs[engine.VMLogStream] = outs["stdout"]
			var last *bufio.Writer
			err = e.Logs(ctx, args[0], options, func(entry engine.LogEntry) error {
				out := outs[entry.Stream]
				if out == nil {
					return nil
				}
				if last != nil && last != out { // both may lead to one place, such as a terminal
					if err := last.Flush(); err != nil {
						return err
					}
				}
				last = out
				if timestamps {
					fmt.Fprint(out, entry.Time.UTC().Format(logTime), " ")
				}
				out.WriteString(entry.Log)
				if options.Follow {
					return out.Flush()
				}
				return nil
			})
			for _, out := range outs {
				if flushErr := out.Flush(); err == nil {
					err = flushErr
				}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&options.Follow, "follow", "f", false, "Go on with what is written until the container ends")
	f.StringVarP(&tail, "tail", "n", "all", "`Number` of lines to show from the end")
	f.StringVar(&since, "since", "", "Show what was written after a `time`")
	f.StringVar(&until, "until", "", "Show what was written before a `time`")
	f.BoolVar(&options.VM, "vm", false, "Show what became of the container's VM instead (see run --vm-log-level)")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "Show when each line was written")
	return cmd
}

// logTime is how docker writes times in front of lines: RFC 3339 with all nine digits.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// parseTime reads a time as docker's --since takes it; "" is the zero time.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && seconds >= 0 && seconds < 1e11 {
		whole := int64(seconds)
		return time.Unix(whole, int64((seconds-float64(whole))*1e9)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("failed to parse value as time or duration: %q", s)
}
