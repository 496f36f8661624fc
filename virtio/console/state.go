package console

import (
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// What SaveState returns: a version, whether the driver has a terminal, and the input that it has not got yet.
const (
	stateVersion = 1
	stateHeader  = 2
)

// SaveState implements virtio.Snapshotter. Output that has not been written yet is not kept: it is this host's, which writes it.
func (d *Device) SaveState() ([]byte, error) {
	p := []byte{stateVersion, 0}
	if d.listening.Load() {
		p[1] = 1
	}
	return d.in.save(p), nil
}

// RestoreState implements virtio.Snapshotter.
func (d *Device) RestoreState(p []byte) error {
	if len(p) < stateHeader || len(p) > stateHeader+restoredLimit || p[0] != stateVersion || p[1] > 1 {
		return fmt.Errorf("virtio-console: %w: %d bytes, % x", virtio.ErrState, len(p), p[:min(len(p), stateHeader)])
	}
	d.in.restore(p[stateHeader:])
	d.listening.Store(p[1] == 1)
	return nil
}
