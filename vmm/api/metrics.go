package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hullvm/hull/vmm"
)

// flushEvery is how often metrics are written without being asked for.
const flushEvery = time.Minute

// meter counts requests and keeps when the machine reached the stages of its start. It writes metrics to a file once it has
// one, a line of JSON each: what has been counted since the line before.
type meter struct {
	out output

	mu       sync.Mutex
	requests map[requestKey]uint64
	stages   []vmm.Event
	written  map[string]uint64 // all counts as of the last line
}

type requestKey struct {
	method string
	status int
}

// methods are those that are counted by name: clients may make up any number.
var methods = []string{http.MethodGet, http.MethodPut, http.MethodPatch}

func (m *meter) request(method string, status int) {
	if !slices.Contains(methods, method) {
		method = "other"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.requests == nil {
		m.requests = make(map[requestKey]uint64)
	}
	m.requests[requestKey{method, status}]++
}

// event takes a stage of the start, on any thread.
func (m *meter) event(e vmm.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Event == "stage" {
		m.stages = append(m.stages, e)
	}
}

func (s *Server) putMetrics(c *metricsConfig) (any, error) {
	if s.resources.metrics != nil {
		return nil, refuse("Metrics error: Reinitialization of metrics not allowed.")
	}
	if err := s.meter.out.open(c.MetricsPath); err != nil {
		return nil, refuse("Metrics error: %s", osError(err))
	}
	s.resources.metrics = c
	go func() {
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.mu.Lock()
				_ = s.flushMetrics() // who asks for them is told
				s.mu.Unlock()
			case <-s.quit:
				return
			}
		}
	}()
	return nil, nil
}

// groups are all counts, by what they are of. mu is held.
func (s *Server) groups() map[string]map[string]uint64 {
	out := map[string]map[string]uint64{}
	add := func(group, name string, v uint64) {
		if out[group] == nil {
			out[group] = map[string]uint64{}
		}
		out[group][name] += v
	}
	s.meter.mu.Lock()
	for key, n := range s.meter.requests {
		group := strings.ToLower(key.method) + "_api_requests"
		add(group, "count", n)
		if key.status >= http.StatusBadRequest {
			add(group, "fails", n)
		}
	}
	s.meter.mu.Unlock()
	add("logger", "missed_log_count", s.log.out.missed())
	add("logger", "missed_metrics_count", s.meter.out.missed())
	if s.machine == nil {
		return out
	}
	m := s.machine.Metrics()
	for _, c := range m.CPUs {
		for reason, n := range c.Exits {
			add("vcpu", "exit_"+reason, n)
		}
	}
	for _, d := range m.Disks {
		for _, group := range []string{"block", "block_" + s.driveName(d.ID)} {
			add(group, "read_count", d.Reads)
			add(group, "read_bytes", d.ReadBytes)
			add(group, "write_count", d.Writes)
			add(group, "write_bytes", d.WriteBytes)
			add(group, "flush_count", d.Flushes)
			add(group, "execute_fails", d.Failed)
		}
	}
	for i, n := range m.NICs {
		for _, group := range []string{"net", "net_" + s.resources.nicName(i)} {
			add(group, "rx_packets_count", n.RxFrames)
			add(group, "rx_bytes_count", n.RxBytes)
			add(group, "rx_fails", n.RxDropped)
			add(group, "tx_packets_count", n.TxFrames)
			add(group, "tx_bytes_count", n.TxBytes)
			add(group, "tx_fails", n.TxDropped)
		}
	}
	if s.resources.entropy != nil {
		add("entropy", "entropy_event_count", m.RNGRequests)
		add("entropy", "entropy_bytes", m.RNGBytes)
	}
	add("uart", "rate_limiter_dropped_bytes", m.SerialDropped)
	return out
}

// driveName is the API's name of a disk of the machine.
func (s *Server) driveName(id string) string {
	for _, d := range s.resources.drives {
		if s.resources.diskID(d) == id {
			return d.DriveID
		}
	}
	return id
}

func (r *resources) nicName(i int) string {
	if i < len(r.nics) {
		return r.nics[i].IfaceID
	}
	return strconv.Itoa(i)
}

// flushMetrics writes a line, if there is where to. mu is held.
func (s *Server) flushMetrics() error {
	if s.resources.metrics == nil {
		return nil
	}
	groups := s.groups()
	line := map[string]any{"utc_timestamp_ms": time.Now().UnixMilli()}
	if s.resources.metrics.EmitID {
		line["id"] = s.cfg.ID
	}
	if p := s.resources.metrics.Properties; len(p) > 0 {
		line["properties"] = p
	}
	now := map[string]uint64{}
	for group, counts := range groups {
		since := map[string]uint64{}
		for name, n := range counts {
			key := group + "." + name
			now[key] = n
			since[name] = n - s.meter.written[key]
		}
		line[group] = since
	}
	if stages := s.stages(); len(stages) > 0 {
		line["boot_us"] = stages
	}
	text, err := json.Marshal(line)
	if err == nil {
		err = s.meter.out.write(append(text, '\n'))
	}
	if err != nil {
		return refuse("Internal VMM error: Failed to write metrics: %s", osError(err))
	}
	s.meter.written = now
	return nil
}

// stages are the times from the start's first stage to each of the others, in microseconds.
func (s *Server) stages() map[string]int64 {
	s.meter.mu.Lock()
	defer s.meter.mu.Unlock()
	out := map[string]int64{}
	for _, e := range s.meter.stages {
		out[strings.ReplaceAll(e.Name, "-", "_")] = (e.Time - s.meter.stages[0].Time) / int64(time.Microsecond)
	}
	return out
}

// prometheus is all counts, from the beginning, as Prometheus scrapes them.
func (s *Server) prometheus() (any, error) {
	return s.locked(always, func() (any, error) {
		var b strings.Builder
		series := func(name, help, kind string, lines func(sample func(labels string, v any))) {
			fmt.Fprintf(&b, "# HELP hull_%s %s\n# TYPE hull_%s %s\n", name, help, name, kind)
			lines(func(labels string, v any) { fmt.Fprintf(&b, "hull_%s%s %v\n", name, labels, v) })
		}
		series("info", "The machine, and the version of its API.", "gauge", func(sample func(string, any)) {
			sample(fmt.Sprintf("{id=%q,version=%q}", oneLine(s.cfg.ID), Version), 1)
		})
		series("running", "Whether the guest runs.", "gauge", func(sample func(string, any)) {
			running := 0
			if s.machine != nil && !s.paused {
				running = 1
			}
			sample("", running)
		})
		series("api_requests_total", "Requests by method and status.", "counter", func(sample func(string, any)) {
			s.meter.mu.Lock()
			defer s.meter.mu.Unlock()
			keys := slices.SortedFunc(maps.Keys(s.meter.requests), func(a, b requestKey) int {
				if c := strings.Compare(a.method, b.method); c != 0 {
					return c
				}
				return a.status - b.status
			})
			for _, k := range keys {
				sample(fmt.Sprintf("{method=%q,status=\"%d\"}", k.method, k.status), s.meter.requests[k])
			}
		})
		series("boot_stage_seconds", "Time from the first stage of the start to each of the others.", "gauge", func(sample func(string, any)) {
			stages := s.stages()
			for _, name := range slices.Sorted(maps.Keys(stages)) {
				sample(fmt.Sprintf("{stage=%q}", name), time.Duration(stages[name]*int64(time.Microsecond)).Seconds())
			}
		})
		if s.machine == nil {
			return text(b.String()), nil
		}
		m := s.machine.Metrics()
		series("vcpu_exits_total", "Exits of the guest to the monitor by reason.", "counter", func(sample func(string, any)) {
			for i, c := range m.CPUs {
				for _, reason := range slices.Sorted(maps.Keys(c.Exits)) {
					sample(fmt.Sprintf("{vcpu=\"%d\",reason=%q}", i, reason), c.Exits[reason])
				}
			}
		})
		for _, c := range []struct {
			name, help string
			of         func(vmm.DiskMetrics) uint64
		}{
			{"reads", "Requests to read", func(d vmm.DiskMetrics) uint64 { return d.Reads }},
			{"read_bytes", "Bytes read", func(d vmm.DiskMetrics) uint64 { return d.ReadBytes }},
			{"writes", "Requests to write", func(d vmm.DiskMetrics) uint64 { return d.Writes }},
			{"written_bytes", "Bytes written", func(d vmm.DiskMetrics) uint64 { return d.WriteBytes }},
			{"flushes", "Requests to flush", func(d vmm.DiskMetrics) uint64 { return d.Flushes }},
			{"failed", "Requests that failed", func(d vmm.DiskMetrics) uint64 { return d.Failed }},
		} {
			series("disk_"+c.name+"_total", c.help+" by disk.", "counter", func(sample func(string, any)) {
				for _, d := range m.Disks {
					sample(fmt.Sprintf("{drive=%q}", oneLine(s.driveName(d.ID))), c.of(d))
				}
			})
		}
		for _, c := range []struct {
			name, help string
			rx, tx     func(n int) uint64
		}{
			{"frames", "Frames", func(n int) uint64 { return m.NICs[n].RxFrames }, func(n int) uint64 { return m.NICs[n].TxFrames }},
			{"bytes", "Bytes of frames", func(n int) uint64 { return m.NICs[n].RxBytes }, func(n int) uint64 { return m.NICs[n].TxBytes }},
			{"dropped", "Frames dropped", func(n int) uint64 { return m.NICs[n].RxDropped }, func(n int) uint64 { return m.NICs[n].TxDropped }},
		} {
			series("network_"+c.name+"_total", c.help+" by network card: rx to the guest, tx from it.", "counter", func(sample func(string, any)) {
				for i := range m.NICs {
					iface := s.resources.nicName(i)
					sample(fmt.Sprintf("{iface=%q,direction=\"rx\"}", iface), c.rx(i))
					sample(fmt.Sprintf("{iface=%q,direction=\"tx\"}", iface), c.tx(i))
				}
			})
		}
		series("entropy_requests_total", "Requests for random bytes.", "counter", func(sample func(string, any)) { sample("", m.RNGRequests) })
		series("entropy_bytes_total", "Random bytes given.", "counter", func(sample func(string, any)) { sample("", m.RNGBytes) })
		series("serial_dropped_bytes_total", "Bytes of the serial port that its limit did not allow.", "counter", func(sample func(string, any)) { sample("", m.SerialDropped) })
		return text(b.String()), nil
	})
}

// WriteMetrics does what a request to /metrics does.
func (s *Server) WriteMetrics(path string) error {
	_, err := s.locked(preBoot, func() (any, error) { return s.putMetrics(&metricsConfig{MetricsPath: path}) })
	return err
}
