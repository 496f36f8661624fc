package vmm

import (
	"fmt"

	"github.com/hullvm/hull/devices"
	"github.com/hullvm/hull/devices/acpipm"
	"github.com/hullvm/hull/devices/i8042"
	"github.com/hullvm/hull/devices/legacy"
	"github.com/hullvm/hull/devices/pvpanic"
	"github.com/hullvm/hull/devices/serial"
	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/vmm/boot"
)

// attachDevices puts all devices on the buses and returns the virtio ones, as
// the guest is to be told of them.
func (m *Machine) attachDevices() ([]boot.Device, error) {
	if err := m.attachSerial(); err != nil {
		return nil, err
	}
	var controller devices.Device = i8042.New(m.power)
	if m.cfg.Keyboard {
		m.keyboard = i8042.NewKeyboard(m.power, newPin(m.vm, boot.KeyboardGSI))
		controller = m.keyboard.Command()
		if err := m.ports.Insert(boot.KeyboardData, 1, m.keyboard.Data()); err != nil {
			return nil, err
		}
	}
	for _, d := range []struct {
		base, size uint64
		dev        devices.Device
	}{
		{boot.KeyboardCommand, 1, controller},
		{boot.ACPIPort, boot.ACPIPortSize, acpipm.New(m.power)},
		{boot.PVPanicPort, pvpanic.Size, pvpanic.New(m.power)},
	} {
		if err := m.ports.Insert(d.base, d.size, d.dev); err != nil {
			return nil, err
		}
	}
	clock, err := legacy.Insert(&m.ports, m.cfg.PIT, m.cfg.Keyboard)
	if err != nil {
		return nil, err
	}
	if m.keyboard != nil {
		m.portDevices["keyboard"] = m.keyboard
	}
	m.portDevices["serial port"], m.portDevices["CMOS clock"] = m.serial, clock
	return m.attachVirtio()
}

// attachSerial puts COM1 on the port bus.
func (m *Machine) attachSerial() error {
	output, err := m.openOutput(m.cfg.Serial.Output, virtio.NewLimiter(m.cfg.Serial.Rate))
	if err != nil {
		return fmt.Errorf("serial port: %w", err)
	}
	m.serial = serial.New(serial.Config{IRQ: newPin(m.vm, boot.COM1GSI), Output: output})
	m.closing(m.flushSerial)
	if err := m.openInput(m.cfg.Serial.Input, m.serial); err != nil {
		return fmt.Errorf("serial port: %w", err)
	}
	return m.ports.Insert(boot.COM1Port, serial.Size, m.serial)
}

// attachVirtio makes the virtio devices that the configuration asks for.
func (m *Machine) attachVirtio() ([]boot.Device, error) {
	var slots []boot.Device
	add := func(name string, d virtio.Device) error {
		if len(slots) == boot.MaxDevices {
			return fmt.Errorf("%s: there are %d virtio devices already, the most there can be", name, len(slots))
		}
		slot := boot.VirtioDevice(len(slots))
		if err := m.attachSlot(slot, d); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m.slotNames = append(m.slotNames, name)
		slots = append(slots, slot)
		return nil
	}
	for _, d := range m.virtioDevices() {
		dev, err := d.make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		if err := add(d.name, dev); err != nil {
			return nil, err
		}
	}
	return slots, nil
}

// attachSlot puts one virtio device on the memory bus, with an interrupt line
// and doorbells that spare the vCPU its exits.
func (m *Machine) attachSlot(slot boot.Device, dev virtio.Device) error {
	line, err := newIRQLine(func(fd int) error { return m.vm.IRQFD(fd, slot.GSI) })
	if err != nil {
		return err
	}
	m.closing(line.Close)
	t, err := mmio.New(dev, m.mem, line, mmio.Options{})
	if err != nil {
		return err
	}
	m.slots = append(m.slots, t)
	m.closing(t.Close)
	for i, fd := range t.NotifyFDs() {
		at := slot.Base + mmio.QueueNotify
		if err := m.vm.IOEventFD(fd, at, uint32(i)); err != nil {
			return err
		}
		m.closing(func() error { return m.vm.DeassignIOEventFD(fd, at, uint32(i)) })
	}
	return m.mmio.Insert(slot.Base, slot.Size, t)
}
