package api

import (
	"cmp"
	"encoding/json"
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

// meter counts requests. It writes metrics to a file once it has one, a line of JSON each: what has been counted since the line
// before.
type meter struct {
	out output

	mu       sync.Mutex
	requests map[requestKey]uint64
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
			add(group, "rate_limiter_throttled_us", uint64(d.Throttled.Microseconds()))
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
			add(group, "rx_rate_limiter_throttled_us", uint64(n.RxThrottled.Microseconds()))
			add(group, "tx_rate_limiter_throttled_us", uint64(n.TxThrottled.Microseconds()))
		}
	}
	if s.resources.entropy != nil {
		add("entropy", "entropy_event_count", m.RNGRequests)
		add("entropy", "entropy_bytes", m.RNGBytes)
		add("entropy", "rate_limiter_throttled_us", uint64(m.RNGThrottled.Microseconds()))
	}
	for i, t := range m.PmemThrottled {
		for _, group := range []string{"pmem", "pmem_" + s.resources.pmems[i].ID} {
			add(group, "rate_limiter_throttled_us", uint64(t.Microseconds()))
		}
	}
	if s.resources.balloon != nil {
		add("balloon", "rate_limiter_throttled_us", uint64(m.BalloonThrottled.Microseconds()))
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
	if s.machine != nil {
		stages := map[string]int64{}
		for name, since := range s.machine.Metrics().Stages {
			stages[strings.ReplaceAll(name, "-", "_")] = since.Microseconds()
		}
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

// prometheus is all counts, from the beginning, as Prometheus scrapes them.
func (s *Server) prometheus() (any, error) {
	return s.locked(always, func() (any, error) {
		var x vmm.Exposition
		running := 0
		if s.machine != nil && !s.paused {
			running = 1
		}
		x.Series("info", "The machine, and the version of its API.", "gauge", vmm.Sample{Labels: vmm.Labels{"id", s.cfg.ID, "version", Version}, Value: 1})
		x.Series("running", "Whether the guest runs.", "gauge", vmm.Sample{Value: running})
		x.Series("api_requests_total", "Requests by method and status.", "counter", s.meter.samples()...)
		if s.machine != nil {
			x.Machines([]vmm.Scraped{{Metrics: s.machine.Metrics(), Drives: s.driveName, Cards: s.resources.nicName}})
		}
		return text(x.String()), nil
	})
}

// samples are the counts of requests.
func (m *meter) samples() (all []vmm.Sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(m.requests), func(a, b requestKey) int {
		return cmp.Or(strings.Compare(a.method, b.method), a.status-b.status)
	})
	for _, k := range keys {
		all = append(all, vmm.Sample{Labels: vmm.Labels{"method", k.method, "status", strconv.Itoa(k.status)}, Value: m.requests[k]})
	}
	return all
}

// WriteMetrics does what a request to /metrics does.
func (s *Server) WriteMetrics(path string) error {
	_, err := s.locked(preBoot, func() (any, error) { return s.putMetrics(&metricsConfig{MetricsPath: path}) })
	return err
}
