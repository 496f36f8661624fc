package blk

import (
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// stateVersion is the first byte of what SaveState returns; the second is the writeback field (5.2.5.2).
const stateVersion = 1

// SaveState implements virtio.Snapshotter. The file of an overlay that is kept says then what the disk is.
func (d *Device) SaveState() ([]byte, error) {
	d.state.Lock()
	defer d.state.Unlock()
	if o, ok := d.backend.(*Overlay); ok {
		if err := o.Keep(); err != nil {
			return nil, fmt.Errorf("disk: %w", err)
		}
	}
	p := []byte{stateVersion, 0}
	if d.writeBack.Load() {
		p[1] = 1
	}
	return p, nil
}

// RestoreState implements virtio.Snapshotter. The size is the backend's: a disk that has another than the driver knows is
// announced by the transport.
func (d *Device) RestoreState(p []byte) error {
	if len(p) != 2 || p[0] != stateVersion || p[1] > 1 {
		return fmt.Errorf("disk: %w: % x", virtio.ErrState, p[:min(len(p), 8)])
	}
	d.setWriteBack(p[1] == 1 || d.cfg.Unsafe)
	return nil
}
