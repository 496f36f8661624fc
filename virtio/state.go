package virtio

import "fmt"

// QueueState is a queue as the driver has configured it, and where it stands: what a snapshot keeps. One that comes
// from a file is checked like what a driver writes.
type QueueState struct {
	Size  uint16 `json:"size"`
	Ready bool   `json:"ready"`
	Reset bool   `json:"reset,omitempty"` // through F_RING_RESET, and not enabled since: may be configured after DRIVER_OK

	// Guest physical addresses.
	Desc  uint64 `json:"desc"`  // descriptor table
	Avail uint64 `json:"avail"` // available ring, the driver area
	Used  uint64 `json:"used"`  // used ring, the device area

	// Positions in the rings, free running.
	NextAvail uint16 `json:"next_avail"`
	NextUsed  uint16 `json:"next_used"`
}

// rings checks s and returns its rings in mem.
func (s *QueueState) rings(mem Memory) (ring, error) {
	if !validQueueSize(uint32(s.Size)) {
		return ring{}, fmt.Errorf("%w: %d", ErrQueueSize, s.Size)
	}
	if s.Desc%alignDesc != 0 || s.Avail%alignAvail != 0 || s.Used%alignUsed != 0 {
		return ring{}, fmt.Errorf("%w: descriptors %#x, available %#x, used %#x", ErrAlignment, s.Desc, s.Avail, s.Used)
	}
	// Without chains in flight, as many were pushed as were popped.
	if s.NextAvail != s.NextUsed {
		return ring{}, fmt.Errorf("%w: available position %d, used position %d", ErrState, s.NextAvail, s.NextUsed)
	}
	desc, err := slice(mem, "descriptor table", s.Desc, descBytes(s.Size))
	if err != nil {
		return ring{}, err
	}
	avail, err := slice(mem, "available ring", s.Avail, availBytes(s.Size))
	if err != nil {
		return ring{}, err
	}
	used, err := slice(mem, "used ring", s.Used, usedBytes(s.Size))
	if err != nil {
		return ring{}, err
	}
	return newRing(s.Size, desc, avail, used)
}

func slice(mem Memory, what string, gpa uint64, n int) ([]byte, error) {
	p, err := mem.Slice(gpa, n)
	if err != nil {
		return nil, fmt.Errorf("%w: %s at %#x, %#x long: %w", ErrMemory, what, gpa, n, err)
	}
	return p, nil
}
