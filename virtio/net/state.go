package net

import (
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// stateVersion is the first byte of what SaveState returns; the second is the number of pairs that the driver uses
// (5.1.6.5.5). Whether the link is up is the host's affair: the driver is told when it is not as it was.
const stateVersion = 1

// SaveState implements virtio.Snapshotter.
func (d *Device) SaveState() ([]byte, error) { return []byte{stateVersion, byte(d.used)}, nil }

// RestoreState implements virtio.Snapshotter.
func (d *Device) RestoreState(p []byte) error {
	if len(p) != 2 || p[0] != stateVersion || p[1] < 1 || int(p[1]) > len(d.pairs) {
		return fmt.Errorf("virtio-net: %w: % x, of %d queue pairs", virtio.ErrState, p[:min(len(p), 8)], len(d.pairs))
	}
	d.used = int(p[1])
	return nil
}
