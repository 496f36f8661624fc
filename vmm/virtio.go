package vmm

import (
	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/rng"
)

// virtioDevice is a device to be made.
type virtioDevice struct {
	name string
	make func() (virtio.Device, error)
}

// virtioDevices lists the virtio devices of the configuration, in the order in
// which the guest numbers them: disks first, so that they are /dev/vda and on.
func (m *Machine) virtioDevices() []virtioDevice {
	var list []virtioDevice
	if m.cfg.RNG {
		list = append(list, virtioDevice{"entropy device", func() (virtio.Device, error) { return rng.New(nil), nil }})
	}
	return list
}
