// Package mmio is the virtio transport over memory-mapped registers, version 2 (VIRTIO 1.2, section 4.2).
//
// A Transport translates register accesses to calls of virtio.Machine, where all that transports have in common
// lives. It is a devices.Device of Size bytes. KVM takes the two paths that matter for speed: an ioeventfd at
// QueueNotify rings a queue's doorbell without an exit to this process, and the IRQ is an irqfd.
//
// Registers are 32 bits wide and are accessed in that width only (4.2.2.2); other accesses below the configuration
// space read 0 and write nothing. No write can do harm: what the standard forbids is ignored.
package mmio

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/hullvm/hull/devices"
	"github.com/hullvm/hull/virtio"
)

// Size is the length in bytes of a device's register window.
const Size = 0x1000

// QueueNotify is the offset of the register that a driver writes a queue's index to: the address of
// KVM_IOEVENTFD, with a 4-byte datamatch of the queue's index.
const QueueNotify = 0x050

// Register offsets (4.2.2, table "MMIO Device Register Layout").
const (
	regMagicValue        = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regVendorID          = 0x00c
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueNumMax       = 0x034
	regQueueNum          = 0x038
	regQueueReady        = 0x044
	regInterruptStatus   = 0x060
	regInterruptACK      = 0x064
	regStatus            = 0x070
	regQueueDescLow      = 0x080
	regQueueDescHigh     = 0x084
	regQueueDriverLow    = 0x090
	regQueueDriverHigh   = 0x094
	regQueueDeviceLow    = 0x0a0
	regQueueDeviceHigh   = 0x0a4
	regSHMSel            = 0x0ac
	regSHMLenLow         = 0x0b0
	regSHMLenHigh        = 0x0b4
	regSHMBaseLow        = 0x0b8
	regSHMBaseHigh       = 0x0bc
	regQueueReset        = 0x0c0
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100
)

const (
	magicValue = 0x74726976 // "virt"
	version    = 2
	// defaultVendor reads "hull".
	defaultVendor = 0x6c6c7568
)

// Options of New. The zero value is good.
type Options struct {
	// VendorID is what the VendorID register reads; 0 means the default.
	VendorID uint32
}

// Transport is a virtio device on the MMIO bus.
type Transport struct {
	machine *virtio.Machine
	id      uint32
	vendor  uint32

	// What the selector registers hold. Drivers serialise their accesses; if one does not, it gets the answer for
	// another queue and nothing worse.
	deviceFeaturesSel atomic.Uint32
	driverFeaturesSel atomic.Uint32
	queueSel          atomic.Uint32
	shmSel            atomic.Uint32
}

var _ devices.Device = (*Transport)(nil)

// New puts dev on a transport. irq gets an edge for each notification.
func New(dev virtio.Device, mem virtio.Memory, irq devices.IRQ, opts Options) (*Transport, error) {
	m, err := virtio.NewMachine(dev, mem, irq.Trigger)
	if err != nil {
		return nil, fmt.Errorf("virtio-mmio transport: %w", err)
	}
	t := &Transport{machine: m, id: dev.ID(), vendor: opts.VendorID}
	if t.vendor == 0 {
		t.vendor = defaultVendor
	}
	return t, nil
}

// Machine returns the transport-independent part.
func (t *Transport) Machine() *virtio.Machine { return t.machine }

// NotifyFDs returns one eventfd for each queue, in order. They stay open and the same until Close. Writing a queue's
// index to QueueNotify without KVM's help does the same as writing to its eventfd.
func (t *Transport) NotifyFDs() []int {
	kicks := t.machine.Kicks()
	fds := make([]int, len(kicks))
	for i, k := range kicks {
		fds[i] = k.FD()
	}
	return fds
}

// Failure returns why the device has stopped and waits for a reset, or nil.
func (t *Transport) Failure() error { return t.machine.Failure() }

// Pause stops the device's goroutines and keeps everything for Resume. When it returns, guest memory is not touched.
func (t *Transport) Pause() error { return t.machine.Pause() }

// Resume starts again what Pause has stopped.
func (t *Transport) Resume() error { return t.machine.Resume() }

// selectors returns the selector registers, in the order in which State keeps them.
func (t *Transport) selectors() []*atomic.Uint32 {
	return []*atomic.Uint32{&t.deviceFeaturesSel, &t.driverFeaturesSel, &t.queueSel, &t.shmSel}
}

// State returns the state of a transport that is paused. Unlike Machine's it has the selector registers.
func (t *Transport) State() (virtio.State, error) {
	s, err := t.machine.State()
	if err != nil {
		return virtio.State{}, err
	}
	for _, r := range t.selectors() {
		s.Selectors = append(s.Selectors, r.Load())
	}
	return s, nil
}

// Restore loads a state, which is not trusted, into a transport that no driver has used yet, and leaves it paused. On error
// nothing has changed.
func (t *Transport) Restore(s virtio.State) error {
	selectors := t.selectors()
	if n := len(s.Selectors); n != len(selectors) {
		return fmt.Errorf("restore virtio-mmio transport: %w: %d selector registers instead of %d", virtio.ErrState, n, len(selectors))
	}
	if err := t.machine.Restore(s); err != nil {
		return err
	}
	for i, r := range selectors {
		r.Store(s.Selectors[i])
	}
	return nil
}

// Close deactivates the device and closes the eventfds. vCPUs must have stopped, or the transport must be off the bus,
// and KVM must have let go of the eventfds.
func (t *Transport) Close() error { return t.machine.Close() }

// Read implements devices.Device.
func (t *Transport) Read(off uint64, p []byte) {
	if off >= regConfig {
		t.machine.ReadConfig(off-regConfig, p)
		return
	}
	if len(p) != 4 || off%4 != 0 {
		clear(p)
		return
	}
	binary.LittleEndian.PutUint32(p, t.read(off))
}

// Write implements devices.Device.
func (t *Transport) Write(off uint64, p []byte) {
	if off >= regConfig {
		t.machine.WriteConfig(off-regConfig, p)
		return
	}
	if len(p) == 4 && off%4 == 0 {
		t.write(off, binary.LittleEndian.Uint32(p))
	}
}

func (t *Transport) read(off uint64) uint32 {
	m := t.machine
	switch off {
	case regMagicValue:
		return magicValue
	case regVersion:
		return version
	case regDeviceID:
		return t.id
	case regVendorID:
		return t.vendor
	case regDeviceFeatures:
		switch t.deviceFeaturesSel.Load() {
		case 0:
			return uint32(m.Features())
		case 1:
			return uint32(m.Features() >> 32)
		}
	case regQueueNumMax:
		return uint32(m.QueueMax(t.queueSel.Load()))
	case regQueueReady:
		return bit(m.QueueReady(t.queueSel.Load()))
	case regInterruptStatus:
		return m.ISR()
	case regStatus:
		return m.Status()
	case regSHMLenLow, regSHMLenHigh, regSHMBaseLow, regSHMBaseHigh:
		return t.readSHM(off)
	case regQueueReset:
		return bit(m.QueueResetting(t.queueSel.Load()))
	case regConfigGeneration:
		return m.Generation()
	}
	return 0 // write-only and reserved registers
}

func (t *Transport) write(off uint64, v uint32) {
	m := t.machine
	switch off {
	case regDeviceFeaturesSel:
		t.deviceFeaturesSel.Store(v)
	case regDriverFeatures:
		m.SetDriverFeatures(t.driverFeaturesSel.Load(), v)
	case regDriverFeaturesSel:
		t.driverFeaturesSel.Store(v)
	case regQueueSel:
		t.queueSel.Store(v)
	case regQueueReady:
		// 4.2.2: only 0 and 1 have a meaning.
		if v <= 1 {
			m.SetQueueReady(t.queueSel.Load(), v == 1)
		}
	case QueueNotify:
		m.Notify(v)
	case regInterruptACK:
		m.Ack(v)
	case regStatus:
		m.SetStatus(v)
	case regQueueReset:
		if v == 1 {
			m.ResetQueue(t.queueSel.Load())
		}
	case regSHMSel:
		t.shmSel.Store(v)
	default:
		t.writeQueue(off, v)
	}
}

// writeQueue writes a register of the selected queue's configuration.
func (t *Transport) writeQueue(off uint64, v uint32) {
	var change func(q *virtio.QueueState)
	switch off {
	case regQueueNum:
		change = func(q *virtio.QueueState) {
			q.Size = 0 // not a size: the queue cannot be made ready
			if v <= virtio.MaxQueueSize {
				q.Size = uint16(v)
			}
		}
	case regQueueDescLow:
		change = func(q *virtio.QueueState) { setLow(&q.Desc, v) }
	case regQueueDescHigh:
		change = func(q *virtio.QueueState) { setHigh(&q.Desc, v) }
	case regQueueDriverLow:
		change = func(q *virtio.QueueState) { setLow(&q.Avail, v) }
	case regQueueDriverHigh:
		change = func(q *virtio.QueueState) { setHigh(&q.Avail, v) }
	case regQueueDeviceLow:
		change = func(q *virtio.QueueState) { setLow(&q.Used, v) }
	case regQueueDeviceHigh:
		change = func(q *virtio.QueueState) { setHigh(&q.Used, v) }
	default:
		return // read-only and reserved registers
	}
	t.machine.ConfigureQueue(t.queueSel.Load(), change)
}

// readSHM reads the length or the base of the selected shared memory region; a region that is not there has all ones
// in both (4.2.2).
func (t *Transport) readSHM(off uint64) uint32 {
	base, size := ^uint64(0), ^uint64(0)
	if d, ok := t.machine.Device().(virtio.SharedMemoryDevice); ok {
		if id := t.shmSel.Load(); id <= 0xff {
			if b, n, ok := d.SharedMemory(uint8(id)); ok {
				base, size = b, n
			}
		}
	}
	switch off {
	case regSHMLenLow:
		return uint32(size)
	case regSHMLenHigh:
		return uint32(size >> 32)
	case regSHMBaseLow:
		return uint32(base)
	default:
		return uint32(base >> 32)
	}
}

func setLow(p *uint64, v uint32)  { *p = *p&^0xffffffff | uint64(v) }
func setHigh(p *uint64, v uint32) { *p = *p&0xffffffff | uint64(v)<<32 }

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
