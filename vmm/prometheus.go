package vmm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/net"
)

// Labels are names of what a sample is of, and their values in turn.
type Labels []string

// String writes labels as Prometheus reads them.
func (l Labels) String() string {
	if len(l) == 0 {
		return ""
	}
	// These three are what its text format has escapes for.
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	var b strings.Builder
	for i := 0; i+1 < len(l); i += 2 {
		fmt.Fprintf(&b, `,%s="%s"`, l[i], escape.Replace(l[i+1]))
	}
	return "{" + b.String()[1:] + "}"
}

// Sample is a value of a series.
type Sample struct {
	Labels Labels
	Value  any    // a number
	Suffix string // of a histogram: "_bucket", "_sum" or "_count"
}

// Exposition is a text in the format that Prometheus scrapes. The zero value is an empty one.
type Exposition struct{ b strings.Builder }

// Series adds the samples of one name, which follows "hull_". kind is "counter", "gauge" or "histogram". No samples are no series.
func (x *Exposition) Series(name, help, kind string, samples ...Sample) {
	if len(samples) == 0 {
		return
	}
	fmt.Fprintf(&x.b, "# HELP hull_%s %s\n# TYPE hull_%s %s\n", name, help, name, kind)
	for _, s := range samples {
		fmt.Fprintf(&x.b, "hull_%s%s%s %v\n", name, s.Suffix, s.Labels, s.Value)
	}
}

// String is the text.
func (x *Exposition) String() string { return x.b.String() }

// Scraped is a machine as Prometheus is told of it.
type Scraped struct {
	Labels  Labels // of all its samples
	Metrics Metrics
	Drives  func(id string) string // names disks; nil: by their IDs
	Cards   func(i int) string     // names network cards; nil: by their numbers
}

// Machines adds what machines have counted.
func (x *Exposition) Machines(machines []Scraped) {
	// of makes the samples of all machines.
	of := func(samples func(m *Scraped, add func(v any, labels ...string))) (all []Sample) {
		for i := range machines {
			m := &machines[i]
			samples(m, func(v any, labels ...string) {
				all = append(all, Sample{Labels: slices.Concat(m.Labels, labels), Value: v})
			})
		}
		return all
	}
	x.Series("boot_stage_seconds", "Time from the first stage of the start to each of the others.", "gauge", of(func(m *Scraped, add func(any, ...string)) {
		for _, name := range slices.Sorted(maps.Keys(m.Metrics.Stages)) {
			add(m.Metrics.Stages[name].Seconds(), "stage", name)
		}
	})...)
	x.Series("vcpu_exits_total", "Exits of the guest to the monitor by reason.", "counter", of(func(m *Scraped, add func(any, ...string)) {
		for i, c := range m.Metrics.CPUs {
			for _, reason := range slices.Sorted(maps.Keys(c.Exits)) {
				add(c.Exits[reason], "vcpu", fmt.Sprint(i), "reason", reason)
			}
		}
	})...)
	for _, c := range []struct {
		name, help string
		of         func(*DiskMetrics) any
	}{
		{"reads", "Requests to read by disk.", func(d *DiskMetrics) any { return d.Reads }},
		{"read_bytes", "Bytes read by disk.", func(d *DiskMetrics) any { return d.ReadBytes }},
		{"writes", "Requests to write by disk.", func(d *DiskMetrics) any { return d.Writes }},
		{"written_bytes", "Bytes written by disk.", func(d *DiskMetrics) any { return d.WriteBytes }},
		{"flushes", "Requests to flush by disk.", func(d *DiskMetrics) any { return d.Flushes }},
		{"failed", "Requests that failed by disk.", func(d *DiskMetrics) any { return d.Failed }},
		{"throttled_seconds", "Time for which limits have kept a disk's queues waiting.", func(d *DiskMetrics) any { return d.Throttled.Seconds() }},
	} {
		x.Series("disk_"+c.name+"_total", c.help, "counter", of(func(m *Scraped, add func(any, ...string)) {
			for i := range m.Metrics.Disks {
				d := &m.Metrics.Disks[i]
				add(c.of(d), "drive", m.drive(d.ID))
			}
		})...)
	}
	var times []Sample
	for i := range machines {
		m := &machines[i]
		for _, d := range m.Metrics.Disks {
			for _, kind := range []struct {
				name string
				took virtio.Latency
			}{{"read", d.Times.Read}, {"write", d.Times.Write}, {"flush", d.Times.Flush}} {
				times = append(times, histogram(slices.Concat(m.Labels, Labels{"drive", m.drive(d.ID), "kind", kind.name}), kind.took)...)
			}
		}
	}
	x.Series("disk_request_seconds", "How long requests took that went well, by disk.", "histogram", times...)
	for _, c := range []struct {
		name, help string
		rx, tx     func(n *net.Counters) any
	}{
		{"frames", "Frames", func(n *net.Counters) any { return n.RxFrames }, func(n *net.Counters) any { return n.TxFrames }},
		{"bytes", "Bytes of frames", func(n *net.Counters) any { return n.RxBytes }, func(n *net.Counters) any { return n.TxBytes }},
		{"dropped", "Frames dropped", func(n *net.Counters) any { return n.RxDropped }, func(n *net.Counters) any { return n.TxDropped }},
		{"throttled_seconds", "Time for which limits have kept frames waiting", func(n *net.Counters) any { return n.RxThrottled.Seconds() },
			func(n *net.Counters) any { return n.TxThrottled.Seconds() }},
	} {
		x.Series("network_"+c.name+"_total", c.help+" by network card: rx to the guest, tx from it.", "counter", of(func(m *Scraped, add func(any, ...string)) {
			for i := range m.Metrics.NICs {
				n := &m.Metrics.NICs[i]
				add(c.rx(n), "iface", m.card(i), "direction", "rx")
				add(c.tx(n), "iface", m.card(i), "direction", "tx")
			}
		})...)
	}
	x.Series("pmem_throttled_seconds_total", "Time for which limits have kept flushes of persistent memory waiting.", "counter", of(func(m *Scraped, add func(any, ...string)) {
		for i, t := range m.Metrics.PmemThrottled {
			add(t.Seconds(), "pmem", fmt.Sprint(i))
		}
	})...)
	for _, c := range []struct {
		name, help string
		of         func(*Metrics) any
	}{
		{"entropy_requests", "Requests for random bytes.", func(m *Metrics) any { return m.RNGRequests }},
		{"entropy_bytes", "Random bytes given.", func(m *Metrics) any { return m.RNGBytes }},
		{"entropy_throttled_seconds", "Time for which limits have kept requests for random bytes waiting.", func(m *Metrics) any { return m.RNGThrottled.Seconds() }},
		{"balloon_throttled_seconds", "Time for which its limit has kept the balloon's queues waiting.", func(m *Metrics) any { return m.BalloonThrottled.Seconds() }},
		{"serial_dropped_bytes", "Bytes of the serial port that its limit did not allow.", func(m *Metrics) any { return m.SerialDropped }},
	} {
		x.Series(c.name+"_total", c.help, "counter", of(func(m *Scraped, add func(any, ...string)) { add(c.of(&m.Metrics)) })...)
	}
}

func (m *Scraped) drive(id string) string {
	if m.Drives == nil {
		return id
	}
	return m.Drives(id)
}

func (m *Scraped) card(i int) string {
	if m.Cards == nil {
		return fmt.Sprint(i)
	}
	return m.Cards(i)
}

// histogram makes the samples of one, of which each bucket has all that is below its bound.
func histogram(labels Labels, l virtio.Latency) (all []Sample) {
	sum := uint64(0)
	for i, n := range l.Counts {
		sum += n
		bound := "+Inf"
		if i < len(virtio.LatencyBounds) {
			bound = fmt.Sprint(virtio.LatencyBounds[i].Seconds())
		}
		all = append(all, Sample{slices.Concat(labels, Labels{"le", bound}), sum, "_bucket"})
	}
	return append(all, Sample{labels, time.Duration(l.Sum).Seconds(), "_sum"}, Sample{labels, sum, "_count"})
}
