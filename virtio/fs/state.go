package fs

import (
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// stateVersion is all that SaveState returns.
const stateVersion = 1

// errMounted wraps virtio.ErrUnsaved.
var errMounted = fmt.Errorf("%w: the guest has a directory of this host mounted, and what it knows of its files is of no use elsewhere; "+
	"unmount it, or make the snapshot of a VM without shared directories", virtio.ErrUnsaved)

// SaveState implements virtio.Snapshotter. It fails while the guest has the file system mounted: the guest's kernel remembers
// node numbers and file handles, and what they stand for, open files of this process, cannot be written down so that it would
// surely mean the same files later.
func (d *Device) SaveState() ([]byte, error) {
	d.session.mu.RLock()
	defer d.session.mu.RUnlock()
	if d.session.server != nil {
		return nil, fmt.Errorf("share %q: %w", d.cfg.Tag, errMounted)
	}
	return []byte{stateVersion}, nil
}

// RestoreState implements virtio.Snapshotter: the device begins without a session, as it was saved.
func (d *Device) RestoreState(p []byte) error {
	if len(p) != 1 || p[0] != stateVersion {
		return fmt.Errorf("share %q: %w: %d bytes, % x", d.cfg.Tag, virtio.ErrState, len(p), p[:min(len(p), 8)])
	}
	return nil
}
