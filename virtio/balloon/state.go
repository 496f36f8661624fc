package balloon

import (
	"encoding/binary"
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// What SaveState returns: a version, the target, and what the driver says is in the balloon, both in pages.
const (
	stateVersion = 1
	stateLen     = 1 + 4 + 4
)

// SaveState implements virtio.Snapshotter. Statistics are not kept: the driver's next report comes at once, for it gets
// the buffer of the last one back.
func (d *Device) SaveState() ([]byte, error) {
	p := []byte{stateVersion}
	p = binary.LittleEndian.AppendUint32(p, d.target.Load())
	return binary.LittleEndian.AppendUint32(p, d.actual.Load()), nil
}

// RestoreState implements virtio.Snapshotter.
func (d *Device) RestoreState(p []byte) error {
	if len(p) != stateLen || p[0] != stateVersion {
		return fmt.Errorf("virtio-balloon: %w: %d bytes, %x", virtio.ErrState, len(p), p[:min(len(p), stateLen)])
	}
	d.target.Store(binary.LittleEndian.Uint32(p[1:]))
	d.actual.Store(binary.LittleEndian.Uint32(p[5:]))
	return nil
}
