package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hullvm/hull/vmm"
)

// metricsPatience bounds how long one container may keep the others' metrics waiting.
const metricsPatience = greetPatience

// ContainerMetrics is what a container's VM has counted, and what this host has given to it.
type ContainerMetrics struct {
	Record *Record
	VM     vmm.Metrics
	Host   GroupUsage // CPU time and memory of its process where it has no cgroup
}

// Metrics returns those of all containers that run. One that ends meanwhile is left out; an error about one does not keep the others
// from being there.
func (e *Engine) Metrics(ctx context.Context) ([]ContainerMetrics, error) {
	records, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	found, errs := make([]*ContainerMetrics, len(records)), make([]error, len(records))
	var all sync.WaitGroup
	for i, r := range records {
		if r.State.Alive() {
			all.Go(func() { found[i], errs[i] = e.metrics(ctx, r) })
		}
	}
	all.Wait()
	var out []ContainerMetrics
	for i, m := range found {
		if errors.Is(errs[i], ErrNotRunning) {
			errs[i] = nil
		} else if m != nil {
			out = append(out, *m)
		}
	}
	return out, errors.Join(errs...)
}

func (e *Engine) metrics(ctx context.Context, r *Record) (*ContainerMetrics, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, metricsPatience, errors.New("its supervisor takes too long"))
	defer cancel()
	a, err := e.ask(ctx, r.ID, request{Op: opMetrics})
	if err != nil {
		return nil, fmt.Errorf("container %s: metrics: %w", r.Name, err)
	}
	if a.Metrics == nil {
		return nil, fmt.Errorf("container %s: metrics: its supervisor has none", r.Name)
	}
	return r.metrics(*a.Metrics)
}

// metrics puts beside what a container's VM has counted what this host has given to it.
func (r *Record) metrics(vm vmm.Metrics) (*ContainerMetrics, error) {
	m := &ContainerMetrics{Record: r, VM: vm}
	use, ok := r.State.Group.Usage()
	if m.Host = use; !ok || use.Memory == 0 {
		cpu, memory, err := r.State.VM.usage()
		if err != nil {
			return nil, fmt.Errorf("container %s %w", r.ID, ErrNotRunning)
		}
		m.Host.Memory = memory
		if !ok {
			m.Host.CPU = cpu
		}
	}
	return m, nil
}

// metrics asks the VM's process.
func (s *supervisor) metrics(ctx context.Context) (*vmm.Metrics, error) {
	life, err := s.running()
	if err != nil {
		return nil, err
	}
	vm := life.machine()
	if vm == nil {
		return nil, fmt.Errorf("container %s %w", s.id, ErrNotRunning)
	}
	e, err := vm.ask(ctx, vmm.Command{Command: vmm.CommandMetrics})
	return e.Metrics, err
}

// Exposition writes metrics as Prometheus scrapes them.
func Exposition(all []ContainerMetrics) string {
	var machines []vmm.Scraped
	series := map[string][]vmm.Sample{}
	for _, m := range all {
		labels := vmm.Labels{"container", m.Record.ID, "name", m.Record.Name}
		machines = append(machines, vmm.Scraped{Labels: labels, Metrics: m.VM})
		running := 0
		if m.Record.State.Status == StatusRunning {
			running = 1
		}
		for name, v := range map[string]any{
			"running": running, "host_memory_bytes": m.Host.Memory, "host_cpu_seconds_total": m.Host.CPU.Seconds(),
			"host_throttled_seconds_total": m.Host.Throttled.Seconds(),
		} {
			series[name] = append(series[name], vmm.Sample{Labels: labels, Value: v})
		}
	}
	var x vmm.Exposition
	x.Series("running", "Whether the guest runs.", "gauge", series["running"]...)
	x.Series("host_memory_bytes", "Memory of this host that is charged to the VM.", "gauge", series["host_memory_bytes"]...)
	x.Series("host_cpu_seconds_total", "CPU time that this host has given to the VM.", "counter", series["host_cpu_seconds_total"]...)
	x.Series("host_throttled_seconds_total", "Time for which the VM has waited because it had used up its share.", "counter", series["host_throttled_seconds_total"]...)
	x.Machines(machines)
	return x.String()
}

// metricsPath is what an HTTP client asks of a control socket. There is nothing else for one.
const metricsPath = "/metrics/prometheus"

// maxHTTPHeader bounds a request by HTTP, in bytes.
const maxHTTPHeader = 8 << 10

// serveHTTP answers a request that is none of frames.
func (s *supervisor) serveHTTP(conn net.Conn, rest io.Reader) {
	r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(rest, maxHTTPHeader)))
	if err != nil {
		return
	}
	status, text := http.StatusOK, ""
	if r.URL.Path != metricsPath {
		status, text = http.StatusNotFound, "there is only "+metricsPath+"\n"
	} else {
		ctx, cancel := context.WithTimeout(s.ctx, metricsPatience)
		defer cancel()
		m, err := s.metrics(ctx)
		if err == nil {
			var of *ContainerMetrics
			if of, err = s.latest().metrics(*m); err == nil {
				text = Exposition([]ContainerMetrics{*of})
			}
		}
		if err != nil {
			status, text = http.StatusServiceUnavailable, err.Error()+"\n"
		}
	}
	answer := http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Close: true, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
		Header: http.Header{"Content-Type": {"text/plain; version=0.0.4"}},
	}
	conn.SetWriteDeadline(time.Now().Add(controlPatience))
	_ = answer.Write(conn) // if it fails there is nobody to tell
}
