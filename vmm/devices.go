package vmm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

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
	for _, d := range []struct {
		base, size uint64
		dev        devices.Device
	}{
		{i8042.Port, 1, i8042.New(m.power)},
		{boot.ACPIPort, boot.ACPIPortSize, acpipm.New(m.power)},
		{boot.PVPanicPort, pvpanic.Size, pvpanic.New(m.power)},
	} {
		if err := m.ports.Insert(d.base, d.size, d.dev); err != nil {
			return nil, err
		}
	}
	if err := legacy.Insert(&m.ports, m.cfg.PIT); err != nil {
		return nil, err
	}
	return m.attachVirtio()
}

// attachSerial puts COM1 on the port bus.
func (m *Machine) attachSerial() error {
	var output io.Writer = m.tail
	if f := m.cfg.Serial.Output; f != nil {
		out, err := f.Open(os.O_WRONLY | os.O_APPEND)
		if err != nil {
			return fmt.Errorf("serial port: output: %w", err)
		}
		m.closing(out.Close)
		output = io.MultiWriter(m.tail, out)
	}
	m.serial = serial.New(serial.Config{IRQ: pin{m.vm, boot.COM1GSI}, Output: output})
	m.closing(func() error { return m.flushSerial() })
	if f := m.cfg.Serial.Input; f != nil {
		in, err := f.Open(os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("serial port: input: %w", err)
		}
		go m.feedSerial(in)
	}
	return m.ports.Insert(boot.COM1Port, serial.Size, m.serial)
}

// feedSerial hands what is read to the guest, no faster than the guest takes
// it, until the input or the machine ends. It owns in. A read that is under way
// when the machine ends cannot be interrupted on every kind of file; then this
// goroutine stays until the next byte or the end of the process.
func (m *Machine) feedSerial(in *os.File) {
	defer in.Close()
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		for p := buf[:n]; len(p) > 0; {
			if p = p[m.serial.Feed(p):]; len(p) == 0 {
				break
			}
			select {
			case <-m.serial.Space():
			case <-m.ended:
				return
			}
		}
		if err != nil || m.hasEnded() {
			return
		}
	}
}

// flushTimeout is how long the end of a VM waits for a reader of its serial
// port who does not read.
const flushTimeout = time.Second

func (m *Machine) flushSerial() error {
	if m.serial == nil {
		return nil
	}
	if err := m.serial.Close(flushTimeout); err != nil && !errors.Is(err, serial.ErrTimeout) {
		return fmt.Errorf("serial port: %w", err)
	}
	return nil
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
