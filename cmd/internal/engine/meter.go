package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
	"github.com/hullvm/hull/guestinit/proto"
)

// ProcessList is what a guest tells of a container's processes.
type ProcessList = proto.Processes

// ProcessInfo is one of them.
type ProcessInfo = proto.ProcessInfo

// Processes lists the processes of a running container.
func (e *Engine) Processes(ctx context.Context, ref string) (*ProcessList, error) {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	g, err := e.enter(ctx, r, proto.FeatureProcesses)
	if err != nil {
		return nil, err
	}
	defer g.end()
	ctx, cancel := context.WithTimeout(ctx, greetPatience)
	defer cancel()
	g.emit("top", nil)
	list, err := g.client.Processes(ctx)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", r.Name, err)
	}
	return list, nil
}

// Meter reads what a running container uses, as often as one likes.
type Meter struct {
	inside *inside
	vm     ProcessRef
	group  *GroupState
}

// Sample is what a container uses at a moment, in the guest and of this host. Counters begin with the container.
type Sample struct {
	At    time.Time
	Guest proto.Usage
	// HostCPU is the time that this host has given to the VM's process, HostMemory what it holds of this host's memory, in bytes: what
	// is charged to its cgroup if it has one.
	HostCPU    time.Duration
	HostMemory uint64
}

// Meter connects to the agent of a running container.
func (e *Engine) Meter(ctx context.Context, r *Record) (*Meter, error) {
	g, err := e.enter(ctx, r, proto.FeatureProcesses)
	if err != nil {
		return nil, err
	}
	return &Meter{inside: g, vm: r.State.VM, group: r.State.Group}, nil
}

// Close ends the connection.
func (m *Meter) Close() error { return m.inside.end() }

// Read reads what the container uses now.
func (m *Meter) Read(ctx context.Context) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, greetPatience)
	defer cancel()
	use, err := m.inside.client.Usage(ctx)
	if err != nil {
		return Sample{}, fmt.Errorf("container %s: %w", m.inside.record.Name, err)
	}
	s := Sample{At: time.Now(), Guest: *use}
	if s.HostCPU, s.HostMemory, err = m.vm.usage(); err != nil {
		return Sample{}, fmt.Errorf("container %s: %w", m.inside.record.Name, err)
	}
	if u, ok := m.group.Usage(); ok {
		s.HostCPU = u.CPU
		if slices.Contains(m.group.Controllers, cgroup.Memory) {
			s.HostMemory = u.Memory
		}
	}
	return s, nil
}

// clockTick is the unit of times in /proc: USER_HZ, part of the kernel's ABI.
const clockTick = time.Second / 100

// usage tells what a process has used of the CPU and holds of memory.
func (p ProcessRef) usage() (cpu time.Duration, memory uint64, err error) {
	dir := "/proc/" + strconv.Itoa(p.PID)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0, 0, err
	}
	if start, err := parseStartTime(stat); err != nil || start != p.Start {
		return 0, 0, fmt.Errorf("process %d has ended", p.PID)
	}
	if cpu, err = parseCPUTime(stat); err != nil {
		return 0, 0, err
	}
	// What it shares with others, such as the kernel's image, is shared out; but only its owner may know.
	if rollup, err := os.ReadFile(dir + "/smaps_rollup"); err == nil {
		if pss, ok := parsePSS(rollup); ok {
			return cpu, pss, nil
		}
	}
	statm, err := os.ReadFile(dir + "/statm")
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0, 0, fmt.Errorf("%s/statm has %d fields", dir, len(fields))
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	return cpu, pages * uint64(os.Getpagesize()), err
}

// parseCPUTime takes fields 14 and 15, utime and stime, out of a stat line, proc(5).
func parseCPUTime(stat []byte) (time.Duration, error) {
	const utime, stime = 14 - 3, 15 - 3 // index in the fields after the name
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= stime {
		return 0, fmt.Errorf("process status has %d fields after the name, want more than %d", len(fields), stime)
	}
	var sum time.Duration
	for _, i := range []int{utime, stime} {
		ticks, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ticks) * clockTick
	}
	return sum, nil
}

// parsePSS reads the proportional set size out of smaps_rollup, in bytes.
func parsePSS(rollup []byte) (uint64, bool) {
	for line := range bytes.Lines(rollup) {
		if fields := bytes.Fields(line); len(fields) >= 2 && string(fields[0]) == "Pss:" {
			kib, err := strconv.ParseUint(string(fields[1]), 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}
