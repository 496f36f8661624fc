package pmem

import (
	"bytes"
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// What SaveState returns: a version, and struct virtio_pmem_config.
const (
	stateVersion = 1
	stateLen     = 1 + configSize
)

// SaveState implements virtio.Snapshotter. What is in the memory is in its file, as with a disk.
func (d *Device) SaveState() ([]byte, error) {
	return append([]byte{stateVersion}, d.config[:]...), nil
}

// RestoreState implements virtio.Snapshotter. The memory must be where it was, and as long: a driver asks for both only once.
func (d *Device) RestoreState(p []byte) error {
	if len(p) != stateLen || p[0] != stateVersion {
		return fmt.Errorf("persistent memory: %w: %d bytes, % x", virtio.ErrState, len(p), p[:min(len(p), stateLen)])
	}
	if !bytes.Equal(p[1:], d.config[:]) {
		return fmt.Errorf("persistent memory: %w: the file has another size than the one that was saved, or lies elsewhere", virtio.ErrState)
	}
	return nil
}
