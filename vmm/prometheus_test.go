package vmm

import (
	"strings"
	"testing"
	"time"

	"github.com/hullvm/hull/virtio/net"
)

// TestExposition: each series is there once, with the samples of all machines, and names cannot leave their place.
func TestExposition(t *testing.T) {
	disk := DiskMetrics{ID: "d"}
	disk.Reads, disk.Times.Throttled = 3, 1500*time.Millisecond
	disk.Times.Read.Counts[0], disk.Times.Read.Counts[len(disk.Times.Read.Counts)-1], disk.Times.Read.Sum = 2, 1, 9*time.Second
	one := Metrics{
		CPUs: []CPUMetrics{{map[string]uint64{"io": 7}}}, Disks: []DiskMetrics{disk}, NICs: []net.Counters{{RxFrames: 5, TxThrottled: time.Second}},
		Stages: map[string]time.Duration{"kvm": 2 * time.Millisecond}, BalloonThrottled: 2 * time.Second, PmemThrottled: []time.Duration{0, 3 * time.Second},
	}
	var x Exposition
	x.Machines([]Scraped{
		{Labels: Labels{"name", "a\"b\\c\nd"}, Metrics: one},
		{Labels: Labels{"name", "two"}, Metrics: one, Drives: func(id string) string { return "the " + id }, Cards: func(int) string { return "eth" }},
	})
	got := x.String()
	for _, want := range []string{
		`hull_boot_stage_seconds{name="two",stage="kvm"} 0.002`,
		`hull_vcpu_exits_total{name="a\"b\\c\nd",vcpu="0",reason="io"} 7`,
		`hull_disk_reads_total{name="two",drive="the d"} 3`,
		`hull_disk_throttled_seconds_total{name="two",drive="the d"} 1.5`,
		`hull_disk_request_seconds_bucket{name="two",drive="the d",kind="read",le="1.6e-05"} 2`,
		`hull_disk_request_seconds_bucket{name="two",drive="the d",kind="read",le="4"} 2`,
		`hull_disk_request_seconds_bucket{name="two",drive="the d",kind="read",le="+Inf"} 3`,
		`hull_disk_request_seconds_sum{name="two",drive="the d",kind="read"} 9`,
		`hull_disk_request_seconds_count{name="two",drive="the d",kind="read"} 3`,
		`hull_network_frames_total{name="two",iface="eth",direction="rx"} 5`,
		`hull_network_throttled_seconds_total{name="a\"b\\c\nd",iface="0",direction="tx"} 1`,
		`hull_pmem_throttled_seconds_total{name="two",pmem="1"} 3`,
		`hull_balloon_throttled_seconds_total{name="two"} 2`,
		"# TYPE hull_disk_request_seconds histogram",
	} {
		if strings.Count(got, want+"\n") != 1 {
			t.Errorf("%q is not there once:\n%s", want, got)
		}
	}
	x = Exposition{}
	if x.Machines(nil); x.String() != "" {
		t.Errorf("of no machine: %s", x.String())
	}
}
