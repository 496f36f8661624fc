package balloon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/hullvm/hull/virtio"
)

// Tag names a statistic (5.5.6.4; those from 10 on are Linux's).
type Tag uint16

// Statistics. All but the counts are in bytes.
const (
	SwapIn          Tag = 0 // VIRTIO_BALLOON_S_SWAP_IN
	SwapOut         Tag = 1 // VIRTIO_BALLOON_S_SWAP_OUT
	MajorFaults     Tag = 2 // VIRTIO_BALLOON_S_MAJFLT, a count
	MinorFaults     Tag = 3 // VIRTIO_BALLOON_S_MINFLT, a count
	FreeMemory      Tag = 4 // VIRTIO_BALLOON_S_MEMFREE
	TotalMemory     Tag = 5 // VIRTIO_BALLOON_S_MEMTOT
	AvailableMemory Tag = 6 // VIRTIO_BALLOON_S_AVAIL: free, or free soon without swapping
	DiskCaches      Tag = 7 // VIRTIO_BALLOON_S_CACHES
	HugePages       Tag = 8 // VIRTIO_BALLOON_S_HTLB_PGALLOC, a count
	HugePageFails   Tag = 9 // VIRTIO_BALLOON_S_HTLB_PGFAIL, a count

	OOMKills        Tag = 10 // VIRTIO_BALLOON_S_OOM_KILL, a count
	AllocStalls     Tag = 11 // VIRTIO_BALLOON_S_ALLOC_STALL, a count
	AsyncScanned    Tag = 12 // VIRTIO_BALLOON_S_ASYNC_SCAN
	DirectScanned   Tag = 13 // VIRTIO_BALLOON_S_DIRECT_SCAN
	AsyncReclaimed  Tag = 14 // VIRTIO_BALLOON_S_ASYNC_RECLAIM
	DirectReclaimed Tag = 15 // VIRTIO_BALLOON_S_DIRECT_RECLAIM

	tagLimit Tag = 16 // tags from here on are unknown, and ignored
)

var tagNames = [...]string{
	SwapIn: "swap_in", SwapOut: "swap_out", MajorFaults: "major_faults", MinorFaults: "minor_faults",
	FreeMemory: "free_memory", TotalMemory: "total_memory", AvailableMemory: "available_memory", DiskCaches: "disk_caches",
	HugePages: "hugetlb_allocations", HugePageFails: "hugetlb_failures",
	OOMKills: "oom_kill", AllocStalls: "alloc_stall", AsyncScanned: "async_scan", DirectScanned: "direct_scan",
	AsyncReclaimed: "async_reclaim", DirectReclaimed: "direct_reclaim",
}

func (t Tag) String() string {
	if int(t) < len(tagNames) {
		return tagNames[t]
	}
	return "tag_" + strconv.Itoa(int(t))
}

// Stats are the statistics of a guest's memory. A driver reports what it likes.
type Stats struct {
	Values map[Tag]uint64
	// Serial counts the reports: it tells a new one from the one before. 0: there has been none.
	Serial uint64
}

const (
	entryLen = 10 // bytes: tag and value
	// maxStats bounds what is read of a report, in bytes.
	maxStats = 64 * entryLen
)

// ErrNoStats is what Report returns when there is no driver that reports.
var ErrNoStats = errors.New("the guest reports no statistics")

// Report asks the driver for a new report and waits for one until ctx ends.
func (d *Device) Report(ctx context.Context) (Stats, error) {
	d.mu.Lock()
	fresh := d.fresh
	d.mu.Unlock()
	if !d.AskStats() {
		return Stats{}, ErrNoStats
	}
	select {
	case <-fresh:
		return d.Stats(), nil
	case <-ctx.Done():
		return Stats{}, fmt.Errorf("virtio-balloon: wait for the guest's statistics: %w", ctx.Err())
	}
}

// Stats returns the last report.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Stats{Values: maps.Clone(d.latest.Values), Serial: d.latest.Serial}
}

// AskStats asks the driver for a new report and does not wait for it. It returns false when there is no driver that
// reports.
func (d *Device) AskStats() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.active || d.stats == nil {
		return false
	}
	d.asked = true
	d.stats.Wake()
	return true
}

// takeStats serves the statistics queue, which is the wrong way round: the driver offers a buffer with a report, and the
// device keeps it until it wants the next one (5.5.6.3).
func (d *Device) takeStats(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if err != nil {
			return err
		}
		if c != nil {
			if !d.pay(w, chainCost) {
				q.Unpop(c)
				return nil
			}
			d.keep(c)
			if d.held != nil { // the driver broke the rule of the one buffer: it gets the old one back
				q.Push(d.held, 0)
			}
			d.held = c
		}
		if d.held != nil && d.takeAsked() {
			q.Push(d.held, 0)
			d.held = nil
			q.Signal()
		}
		if c == nil {
			return nil
		}
	}
	return nil
}

// takeAsked tells whether a new report is wanted, once.
func (d *Device) takeAsked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = false
	return asked
}

// keep takes the report out of the driver's buffer, which may be of any length, in any order, and with tags that are not
// known here.
func (d *Device) keep(c *virtio.Chain) {
	var raw [maxStats]byte
	n := c.Readable.Read(raw[:])
	values := make(map[Tag]uint64, tagLimit)
	for i := 0; i+entryLen <= n; i += entryLen {
		if tag := Tag(binary.LittleEndian.Uint16(raw[i:])); tag < tagLimit {
			values[tag] = binary.LittleEndian.Uint64(raw[i+2:])
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.latest = Stats{Values: values, Serial: d.latest.Serial + 1}
	close(d.fresh)
	d.fresh = make(chan struct{})
}
