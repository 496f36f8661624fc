package vmm

import (
	"context"
	"errors"
	"fmt"

	"github.com/hullvm/hull/virtio/balloon"
)

// BalloonStats tells how a guest's memory is used.
type BalloonStats struct {
	// Target is what was asked of the guest last, and Actual what it has given,
	// in bytes.
	Target uint64 `json:"target"`
	Actual uint64 `json:"actual"`
	// Guest is what the guest reports, such as "free_memory" in bytes or
	// "major_faults"; a guest reports what it likes, or nothing.
	Guest map[string]uint64 `json:"guest,omitempty"`
}

// BalloonOptions change what a balloon begins with; the zero value is all it can do, and nothing in it.
type BalloonOptions struct {
	Target         uint64 `json:"target,omitempty"` // bytes that the guest is asked for from the start
	NoDeflateOnOOM bool   `json:"no_deflate_on_oom,omitempty"`
	NoStats        bool   `json:"no_stats,omitempty"`
	NoReporting    bool   `json:"no_reporting,omitempty"` // of free pages
}

// without returns the feature bits that are not to be offered.
func (o *BalloonOptions) without() (bits uint64) {
	for _, f := range []struct {
		off bool
		bit uint
	}{{o.NoDeflateOnOOM, balloon.F_DEFLATE_ON_OOM}, {o.NoStats, balloon.F_STATS_VQ}, {o.NoReporting, balloon.F_REPORTING}} {
		if f.off {
			bits |= 1 << f.bit
		}
	}
	return bits
}

// BalloonSize returns what was asked of the guest last, and what it has given, in bytes.
func (m *Machine) BalloonSize() (target, actual uint64, err error) {
	if m.balloon == nil {
		return 0, 0, fmt.Errorf("ask for the balloon's size: %w", ErrNoBalloon)
	}
	return m.balloon.Target(), m.balloon.Actual(), nil
}

// ErrNoBalloon is wrapped by what methods about the balloon return for a machine
// without one.
var ErrNoBalloon = errors.New("the machine has no balloon")

// SetBalloon asks the guest for so many bytes of its memory, in all; 0 gives all
// back. It is a wish, which a guest fulfils as far and as fast as it likes.
func (m *Machine) SetBalloon(bytes uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.balloon == nil:
		return fmt.Errorf("set the balloon's target: %w", ErrNoBalloon)
	case m.state == stateClosed:
		return fmt.Errorf("set the balloon's target: %w", ErrState)
	case bytes > m.cfg.Memory:
		return fmt.Errorf("set the balloon's target: %d bytes: the guest has %d", bytes, m.cfg.Memory)
	}
	m.balloon.SetTarget(bytes)
	return nil
}

// BalloonStats asks the guest for statistics of its memory and waits for them until
// ctx ends. Without an answer, Guest is empty.
func (m *Machine) BalloonStats(ctx context.Context) (BalloonStats, error) {
	if m.balloon == nil {
		return BalloonStats{}, fmt.Errorf("ask for statistics of memory: %w", ErrNoBalloon)
	}
	report, err := m.balloon.Report(ctx)
	s := BalloonStats{Target: m.balloon.Target(), Actual: m.balloon.Actual()}
	if err == nil {
		s.Guest = make(map[string]uint64, len(report.Values))
		for tag, value := range report.Values {
			s.Guest[tag.String()] = value
		}
	}
	return s, nil
}
