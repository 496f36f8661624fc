package api

import (
	"context"
	"net/http"
	"time"

	"github.com/hullvm/hull/vmm"
)

const (
	mib      = 1 << 20
	pageSize = 4096

	// reportPatience is how long a guest may take to report on its memory: it is asked again afterwards.
	reportPatience = 30 * time.Second
)

var errNoBalloon = refuse("Balloon config error: No balloon device found.")

func (s *Server) putBalloon(b *balloon) (any, error) {
	s.resources.touched = true
	switch {
	case b.FreePageHinting:
		return nil, notOffered("free page hinting: free_page_reporting does without being asked")
	case uint64(b.AmountMiB) > s.resources.machine.MemSizeMiB:
		return nil, refuse("Balloon config error: Amount of pages requested is too large.")
	case s.resources.machine.HugePages == hugePages2M:
		return nil, refuse("Balloon config error: Firecracker's huge pages support is incompatible with memory ballooning.")
	}
	s.resources.balloon = b
	return nil, nil
}

// options is the balloon as package vmm has it.
func (b *balloon) options() vmm.BalloonOptions {
	return vmm.BalloonOptions{
		Target: uint64(b.AmountMiB) * mib, NoDeflateOnOOM: !b.DeflateOnOOM, NoStats: b.StatsPollingIntervalS == 0,
		NoReporting: !b.FreePageReporting,
	}
}

func (s *Server) getBalloon(rest []string) (any, error) {
	switch part(rest, 0) {
	case "":
		return s.locked(always, func() (any, error) {
			if s.resources.balloon == nil {
				return nil, errNoBalloon
			}
			return *s.resources.balloon, nil
		})
	case "statistics":
		return s.locked(postBoot, s.balloonStatistics)
	case "hinting":
		if part(rest, 1) == "status" {
			return s.locked(postBoot, s.noHinting)
		}
		return nil, refuse("Unrecognized GET request path `/hinting/%s`.", part(rest, 1))
	}
	return nil, refuse("Unrecognized GET request path `%s`.", rest[0])
}

func (s *Server) noHinting() (any, error) {
	if s.resources.balloon == nil {
		return nil, errNoBalloon
	}
	return nil, refuse("Balloon update error: Hinting is not enabled for this balloon device.")
}

func (s *Server) patchBalloon(rest []string, body []byte) (any, error) {
	if part(rest, 0) == "hinting" {
		switch part(rest, 1) {
		case "start":
			if len(body) > 0 {
				return do(s, body, postBoot, func(*hintingStart) (any, error) { return s.noHinting() })
			}
			fallthrough
		case "stop":
			return s.locked(postBoot, s.noHinting)
		}
		return nil, refuse("Unrecognized %s request path `/hinting/%s`.", http.MethodPatch, part(rest, 1))
	}
	if len(body) == 0 {
		return nil, refuse("Empty PATCH request.")
	}
	if part(rest, 0) == "statistics" {
		return do(s, body, postBoot, s.patchBalloonStats)
	}
	return do(s, body, postBoot, func(p *balloonPatch) (any, error) {
		switch {
		case s.resources.balloon == nil:
			return nil, refuse("Balloon update error: No balloon device found.")
		case uint64(p.AmountMiB) > s.resources.machine.MemSizeMiB:
			return nil, refuse("Balloon update error: Amount of pages requested is too large.")
		}
		if err := s.machine.SetBalloon(uint64(p.AmountMiB) * mib); err != nil {
			return nil, refuse("Balloon update error: %v", err)
		}
		s.resources.balloon.AmountMiB = p.AmountMiB
		return nil, nil
	})
}

func (s *Server) patchBalloonStats(p *balloonStatsPatch) (any, error) {
	switch b := s.resources.balloon; {
	case b == nil:
		return nil, refuse("Balloon update error: No balloon device found.")
	case (b.StatsPollingIntervalS == 0) != (p.StatsPollingIntervalS == 0):
		return nil, refuse("Balloon update error: Cannot enable/disable the statistics after boot.")
	}
	s.resources.balloon.StatsPollingIntervalS = p.StatsPollingIntervalS
	s.pollBalloon()
	return nil, nil
}

// pollBalloon asks the guest for statistics now and at the interval from then on, in place of what was asked before. mu is held.
func (s *Server) pollBalloon() {
	if s.poll != nil {
		s.poll()
		s.poll = nil
	}
	b := s.resources.balloon
	if b == nil || b.StatsPollingIntervalS == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.poll = cancel
	go func(m *vmm.Machine, interval time.Duration) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			s.takeStats(ctx, m)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			case <-m.Done():
				return
			}
		}
	}(s.machine, time.Duration(b.StatsPollingIntervalS)*time.Second)
}

// takeStats asks the guest once, and keeps what it says.
func (s *Server) takeStats(ctx context.Context, m *vmm.Machine) {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	stats, err := m.BalloonStats(ctx)
	if err != nil || len(stats.Guest) == 0 {
		return // it has no driver yet, or is slow
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() == nil {
		s.stats = stats.Guest
	}
}

func (s *Server) balloonStatistics() (any, error) {
	switch {
	case s.resources.balloon == nil:
		return nil, errNoBalloon
	case s.resources.balloon.StatsPollingIntervalS == 0:
		return nil, refuse("Balloon config error: Statistics for the balloon device are not enabled")
	}
	target, actual, err := s.machine.BalloonSize()
	if err != nil {
		return nil, refuse("Balloon config error: %v", err)
	}
	out := balloonStats{TargetPages: target / pageSize, ActualPages: actual / pageSize, TargetMiB: target / mib, ActualMiB: actual / mib}
	for name, to := range map[string]**uint64{
		"swap_in": &out.SwapIn, "swap_out": &out.SwapOut, "major_faults": &out.MajorFaults, "minor_faults": &out.MinorFaults,
		"free_memory": &out.FreeMemory, "total_memory": &out.TotalMemory, "available_memory": &out.AvailableMemory,
		"disk_caches": &out.DiskCaches, "hugetlb_allocations": &out.HugetlbAllocations, "hugetlb_failures": &out.HugetlbFailures,
		"oom_kill": &out.OOMKill, "alloc_stall": &out.AllocStall, "async_scan": &out.AsyncScan, "direct_scan": &out.DirectScan,
		"async_reclaim": &out.AsyncReclaim, "direct_reclaim": &out.DirectReclaim,
	} {
		if v, ok := s.stats[name]; ok {
			*to = &v
		}
	}
	return out, nil
}
