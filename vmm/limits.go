package vmm

import (
	"errors"
	"fmt"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/blk"
	"github.com/hullvm/hull/virtio/net"
	"github.com/hullvm/hull/virtio/pmem"
)

// What a device may do, under the names by which users of this package need no other.
type (
	Rate       = virtio.Rate
	DiskLimits = blk.Limits
	NICLimits  = net.Limits
	PmemLimits = pmem.Limits
)

// ErrNoDevice is wrapped by the errors of methods that are given the number of no device.
var ErrNoDevice = errors.New("there is no such device")

// SetDiskLimits changes the limits of the disk with this ID, also while the guest runs. What waits already waits anew.
func (m *Machine) SetDiskLimits(id string, l DiskLimits) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == stateClosed {
		return fmt.Errorf("limit a disk: %w", ErrState)
	}
	d, err := m.findDisk(id)
	if err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	if err := d.device.SetLimits(l); err != nil {
		return fmt.Errorf("limit disk %q: %w", id, err)
	}
	d.config.Limits = l
	return nil
}

// DiskLimits returns the limits of the disk with this ID.
func (m *Machine) DiskLimits(id string) (DiskLimits, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.findDisk(id)
	if err != nil {
		return DiskLimits{}, err
	}
	return d.config.Limits, nil
}

// SetNICLimits changes the limits of a network card, counted from 0 in the order of the configuration.
func (m *Machine) SetNICLimits(nic int, rx, tx NICLimits) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if nic < 0 || nic >= len(m.nics) {
		return fmt.Errorf("limit network card %d: %w", nic, ErrNoDevice)
	}
	return m.withDeviceStopped(m.nics[nic], func() error { return m.nics[nic].SetLimits(rx, tx) })
}

// SetPmemLimits changes the limits of a persistent memory, counted from 0 in the order of the configuration.
func (m *Machine) SetPmemLimits(i int, l PmemLimits) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i < 0 || i >= len(m.pmems) {
		return fmt.Errorf("limit persistent memory %d: %w", i, ErrNoDevice)
	}
	return m.withDeviceStopped(m.pmems[i], func() error { return m.pmems[i].SetLimits(l) })
}

// withDeviceStopped runs change while d is not active. Its driver does not notice. mu is held.
func (m *Machine) withDeviceStopped(d virtio.Device, change func() error) error {
	if m.state == stateClosed {
		return fmt.Errorf("change a device: %w", ErrState)
	}
	for _, t := range m.slots {
		if t.Machine().Device() != d {
			continue
		}
		if m.state == statePaused {
			return change() // with all of them
		}
		if err := t.Pause(); err != nil {
			return err
		}
		return errors.Join(change(), t.Resume())
	}
	return ErrNoDevice
}
