package vmm

import (
	"maps"
	"sync"
	"time"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/virtio/blk"
	"github.com/hullvm/hull/virtio/net"
)

// Metrics are counts of what a machine has done since it was made. They only grow.
type Metrics struct {
	CPUs  []CPUMetrics
	Disks []DiskMetrics
	NICs  []net.Counters

	RNGRequests, RNGBytes uint64
	RNGThrottled          time.Duration   // for which limits have kept requests waiting
	BalloonThrottled      time.Duration   // for which its limit has kept queues waiting, added up
	PmemThrottled         []time.Duration // by Config.Pmems: for which limits have kept flushes waiting
	SerialDropped         uint64          // bytes of output, by Serial.Rate

	// Stages are when those of the start were reached, from the first of them.
	Stages map[string]time.Duration
}

// CPUMetrics are of one vCPU.
type CPUMetrics struct {
	// Exits counts why KVM_RUN came back, by the kernel's name without KVM_EXIT_, in lower case: "io", "mmio".
	Exits map[string]uint64
}

// DiskMetrics are of the disk with this ID.
type DiskMetrics struct {
	ID string
	blk.Counters
	blk.Times
}

// exitNames are the reasons that are counted one by one.
var exitNames = map[string]kvm.ExitReason{
	"io": kvm.KVM_EXIT_IO, "mmio": kvm.KVM_EXIT_MMIO, "hlt": kvm.KVM_EXIT_HLT, "intr": kvm.KVM_EXIT_INTR,
	"irq_window_open": kvm.KVM_EXIT_IRQ_WINDOW_OPEN, "shutdown": kvm.KVM_EXIT_SHUTDOWN, "fail_entry": kvm.KVM_EXIT_FAIL_ENTRY,
	"internal_error": kvm.KVM_EXIT_INTERNAL_ERROR, "system_event": kvm.KVM_EXIT_SYSTEM_EVENT,
	"x86_rdmsr": kvm.KVM_EXIT_X86_RDMSR, "x86_wrmsr": kvm.KVM_EXIT_X86_WRMSR,
}

// Metrics returns what has been counted. It does not disturb the guest.
func (m *Machine) Metrics() Metrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := Metrics{SerialDropped: m.serialDropped.Load()}
	for _, c := range m.cpus {
		exits := make(map[string]uint64, len(exitNames))
		for name, reason := range exitNames {
			exits[name] = c.Exits(reason)
		}
		out.CPUs = append(out.CPUs, CPUMetrics{exits})
	}
	for _, d := range m.disks {
		out.Disks = append(out.Disks, DiskMetrics{d.config.ID, d.device.Counters(), d.device.Times()})
	}
	for _, n := range m.nics {
		out.NICs = append(out.NICs, n.Counters())
	}
	if m.rng != nil {
		out.RNGRequests, out.RNGBytes = m.rng.Counters()
		out.RNGThrottled = m.rng.Throttled()
	}
	if m.balloon != nil {
		out.BalloonThrottled = m.balloon.Throttled()
	}
	for _, p := range m.pmems {
		out.PmemThrottled = append(out.PmemThrottled, p.Throttled())
	}
	out.Stages = m.stages.times()
	return out
}

// stages are when those of the start were reached. The last of them is by a vCPU, which must not wait for who holds a Machine.
type stages struct {
	mu    sync.Mutex
	first int64 // on the monotonic clock, in ns
	since map[string]time.Duration
}

func (s *stages) reached(name string, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.first, s.since = now, make(map[string]time.Duration)
	}
	s.since[name] = time.Duration(now - s.first)
}

func (s *stages) times() map[string]time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.since)
}
