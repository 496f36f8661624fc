// Package devices is what a vCPU sees outside of memory: the Device interface, the Bus that finds a
// device by port or physical address, interrupt lines, and the events by which a guest ends its machine.
//
// Start reading at Device (two methods) and Bus (how an exit reaches it). The models themselves are
// small packages of their own: serial, i8042, acpipm, pvpanic, legacy. Virtio devices arrive through
// virtio/mmio, whose Transport is a Device too.
//
// Promises that hold for every Device here:
//   - Read and Write are called from any number of vCPU threads at once.
//   - They never panic, whatever the offset and the length are; what makes no sense is ignored on
//     write and reads as all ones or zero.
//   - They never wait for the outside world (a terminal, a disk), so a vCPU can always be paused.
package devices

import "fmt"

// Device answers port or memory-mapped accesses inside the range that it was inserted at.
type Device interface {
	// Read fills p with what the guest reads at byte offset off from the start of the range. len(p) is
	// the width of the access: 1, 2, 4 or 8, or anything else that an instruction may produce.
	Read(off uint64, p []byte)

	// Write takes what the guest writes at byte offset off. p is only valid during the call.
	Write(off uint64, p []byte)
}

// Snapshotter is a Device with a state that a snapshot must keep. No vCPU runs while its methods are called. A Device that is
// none has nothing to keep, or is a virtio transport, which has more to say.
type Snapshotter interface {
	// SaveState returns the state in a form of the device's own, with a version, in a few kilobytes.
	SaveState() ([]byte, error)

	// RestoreState loads what SaveState has returned, perhaps in another process, into a device that no guest has used
	// yet. p is not trusted. On error nothing has changed.
	RestoreState(p []byte) error
}

// IRQ is an interrupt line of a device towards the interrupt controllers.
type IRQ interface {
	// Trigger sends one edge. It never blocks; edges that come faster than the guest takes them merge.
	Trigger()
}

// IRQFunc makes an IRQ of a function.
type IRQFunc func()

// Trigger calls f.
func (f IRQFunc) Trigger() { f() }

// NoIRQ is a line that leads nowhere.
type NoIRQ struct{}

// Trigger does nothing.
func (NoIRQ) Trigger() {}

// PowerEvent is what a guest asked for, or ran into, through a device that ends or restarts machines.
type PowerEvent uint8

const (
	// PowerOff is an orderly end: ACPI S5.
	PowerOff PowerEvent = iota + 1
	// Reset is a reboot: the keyboard controller's pulse or the ACPI reset register.
	Reset
	// Panicked is a kernel that reports its own crash through pvpanic.
	Panicked
)

func (e PowerEvent) String() string {
	switch e {
	case PowerOff:
		return "power-off"
	case Reset:
		return "reset"
	case Panicked:
		return "panic"
	}
	return fmt.Sprintf("power event %d", uint8(e))
}

// PowerFunc receives power events. It is called on the vCPU thread that caused the event, possibly more
// than once, and must return at once: it records the event and asks the machine to stop.
type PowerFunc func(PowerEvent)
