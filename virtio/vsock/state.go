package vsock

import (
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// stateVersion is all that SaveState returns.
const stateVersion = 1

// SaveState implements virtio.Snapshotter. There is nothing to keep: connections lead to programs of this host, and end with
// this device.
func (d *Device) SaveState() ([]byte, error) { return []byte{stateVersion}, nil }

// RestoreState implements virtio.Snapshotter. The guest has connections that the device knows nothing of: it is told to end
// them, and to read its CID again, before anything else.
func (d *Device) RestoreState(p []byte) error {
	if len(p) != 1 || p[0] != stateVersion {
		return fmt.Errorf("vsock device: %w: %d bytes, % x", virtio.ErrState, len(p), p[:min(len(p), 8)])
	}
	return d.ResetTransport()
}
