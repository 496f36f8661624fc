package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// statsInterval is the time between two samples, as docker has it.
const statsInterval = time.Second

func newStats(a *app) *cobra.Command {
	var all, noStream, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Show what containers use",
		Long: `Show what running containers use, anew each second until interrupted: CPU, memory,
network, disks and processes as the guest counts them, and beside them CPU time and memory
that this host charges to the container's VM.`,
		Example: `  hull stats
  hull stats --no-stream web
  hull stats --no-stream --format '{{.Name}}: {{.CPUPerc}} of the guest, {{.HostCPUPerc}} of the host'`,
		ValidArgsFunction: completeRunning(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			s := &statsView{engine: e, refs: args, all: all, noTrunc: noTrunc, meters: make(map[string]*statsMeter)}
			defer s.close()
			if err := s.sample(ctx); err != nil { // what is used in a second takes two of them
				return err
			}
			tick := time.NewTicker(statsInterval)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return ctx.Err()
				}
				if err := s.sample(ctx); err != nil {
					return err
				}
				if !noStream && isTerminal(a.stdout) {
					fmt.Fprint(a.stdout, "\033[2J\033[H") // clear, and to the top
				}
				if err := writeFormat(a.stdout, format, statsColumns(), s.rows(), column{"CONTAINER", "Container"}); err != nil || noStream {
					return err
				}
			}
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show all containers, not only running ones")
	f.BoolVar(&noStream, "no-stream", false, "Show it once")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten what is shown")
	f.StringVar(&format, "format", "", "\"table\", \"json\" or a Go `template`")
	return cmd
}

func statsColumns() []column {
	return []column{
		{"CONTAINER ID", "ID"}, {"NAME", "Name"}, {"CPU %", "CPUPerc"}, {"MEM USAGE / LIMIT", "MemUsage"}, {"MEM %", "MemPerc"},
		{"NET I/O", "NetIO"}, {"BLOCK I/O", "BlockIO"}, {"PIDS", "PIDs"}, {"HOST CPU %", "HostCPUPerc"}, {"HOST MEM", "HostMem"},
	}
}

// statsView is what is known of the containers that are shown.
type statsView struct {
	engine       *engine.Engine
	refs         []string // none: all of them
	all, noTrunc bool
	shown        []*engine.Record
	meters       map[string]*statsMeter // by ID; running containers only
}

// statsMeter has the last two samples of a container.
type statsMeter struct {
	*engine.Meter
	before, now engine.Sample
	samples     int
	failed      bool
}

// sample reads what all containers use now.
func (s *statsView) sample(ctx context.Context) error {
	if err := s.find(ctx); err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, m := range s.meters {
		all.Go(func() {
			sample, err := m.Read(ctx)
			if m.failed = err != nil; !m.failed { // one that has just ended
				m.before, m.now = m.now, sample
				m.samples++
			}
		})
	}
	all.Wait()
	for id, m := range s.meters {
		if m.failed {
			m.Close()
			delete(s.meters, id)
		}
	}
	return ctx.Err()
}

// find finds out which containers there are, and begins to measure those that are new.
func (s *statsView) find(ctx context.Context) error {
	records, err := s.records(ctx)
	if err != nil {
		return err
	}
	s.shown = records
	for _, r := range records {
		if r.State.Status != engine.StatusRunning || s.meters[r.ID] != nil {
			continue
		}
		m, err := s.engine.Meter(ctx, r)
		switch {
		case err == nil:
			s.meters[r.ID] = &statsMeter{Meter: m}
		case len(s.refs) > 0 && !errors.Is(err, engine.ErrNotRunning):
			return err
		}
	}
	return nil
}

func (s *statsView) records(ctx context.Context) ([]*engine.Record, error) {
	var records []*engine.Record
	for _, ref := range s.refs {
		r, err := s.engine.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	if len(s.refs) > 0 {
		return records, nil
	}
	found, err := s.engine.List(ctx)
	for _, r := range found {
		if s.all || r.State.Status == engine.StatusRunning {
			records = append(records, r)
		}
	}
	return records, err
}

func (s *statsView) close() {
	for _, m := range s.meters {
		m.Close()
	}
}

func (s *statsView) rows() []row {
	var rows []row
	for _, r := range s.shown {
		id := engine.ShortID(r.ID)
		if s.noTrunc {
			id = r.ID
		}
		out := row{"Container": id, "ID": id, "Name": r.Name}
		for _, c := range statsColumns()[2:] {
			out[c.field] = "--"
		}
		out["MemUsage"] = "-- / --"
		if m := s.meters[r.ID]; m != nil && m.samples > 1 {
			m.fill(out, r.Config.Memory)
		}
		rows = append(rows, out)
	}
	return rows
}

// fill puts what was measured into a row, in docker's units. limit is the memory that the container may have, in bytes.
func (m *statsMeter) fill(out row, limit uint64) {
	b, n := &m.before, &m.now
	size := func(v uint64) string { return units.HumanSizeWithPrecision(float64(v), 3) }
	memory := func(v uint64) string {
		return units.CustomSize("%.4g%s", float64(v), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB"})
	}
	out["CPUPerc"] = percent(float64(n.Guest.CPU-b.Guest.CPU), float64(n.Guest.Time-b.Guest.Time))
	out["MemUsage"] = memory(n.Guest.Memory) + " / " + memory(limit)
	out["MemPerc"] = percent(float64(n.Guest.Memory), float64(limit))
	out["NetIO"] = size(n.Guest.NetworkIn) + " / " + size(n.Guest.NetworkOut)
	out["BlockIO"] = size(n.Guest.BlockRead) + " / " + size(n.Guest.BlockWrite)
	out["PIDs"] = strconv.FormatUint(n.Guest.PIDs, 10)
	out["HostCPUPerc"] = percent(float64(n.HostCPU-b.HostCPU), float64(n.At.Sub(b.At)))
	out["HostMem"] = memory(n.HostMemory)
}

// percent is a share with two digits, as docker has it. The figures may be a guest's: nonsense is nothing.
func percent(part, whole float64) string {
	share := 0.0
	if whole > 0 && part > 0 {
		share = 100 * part / whole
	}
	return strconv.FormatFloat(share, 'f', 2, 64) + "%"
}
