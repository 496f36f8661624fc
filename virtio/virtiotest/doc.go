// Package virtiotest is the driver's side of virtio, for tests: guest memory, a driver that speaks the registers of
// virtio-mmio, rings that can be filled with anything, and two suites that every device has to pass.
//
// A device package describes itself with a Suite (how to make one, how to connect it, a few requests with the right
// answers) and calls
//
//	func TestConformance(t *testing.T) { suite.Conformance(t) } // what a device must keep
//	func TestHostile(t *testing.T)     { suite.Hostile(t) }     // what a guest may try
//	func FuzzRing(f *testing.F)        { suite.FuzzRing(f) }    // random memory and ring state
//	func FuzzRegisters(f *testing.F)   { suite.FuzzRegisters(f) }
//
// or Run for the first two. Its constants are written down from the standard a second time, and not taken from the
// packages under test.
//
// Start reading at Suite, then Driver and Ring.
package virtiotest

import (
	"testing"

	"github.com/hullvm/hull/virtio"
)

// Transport is what the suites need of a virtio-mmio transport; *mmio.Transport is one.
type Transport interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
	NotifyFDs() []int
	Failure() error
	Pause() error
	Resume() error
	Close() error
	State() (virtio.State, error)
	Restore(virtio.State) error
}

// Suite describes a device to the tests.
type Suite struct {
	// New makes a device of its usual kind, with all features. The suites close what is connected; what is the
	// device's own goes with t.Cleanup.
	New func(t testing.TB) virtio.Device

	// Connect puts a device on a transport.
	Connect func(dev virtio.Device, mem virtio.Memory, irq IRQ) (Transport, error)

	// Requests are valid requests, at least one. They are sent many times and in any order.
	Requests []Request

	// ConfigLen is the number of bytes in the configuration space.
	ConfigLen int
}

// IRQ is an interrupt line; it fits devices.IRQ.
type IRQ interface{ Trigger() }

// Request is something that a driver may ask.
type Request struct {
	Name  string
	Queue int
	// Out are the bytes that the device reads.
	Out []byte
	// In is the number of bytes that it may write.
	In int
	// Needs are the feature bits, as a mask, that must have been negotiated.
	Needs uint64
	// Check looks at the answer: in has In bytes, the first written of which the device claims to have written. Bytes
	// that the device did not touch are Untouched.
	Check func(t testing.TB, in []byte, written int)
}

// Untouched fills what the device may write before it does.
const Untouched = 0xa5

// Run runs both suites.
func Run(t *testing.T, s Suite) {
	t.Run("conformance", s.Conformance)
	t.Run("hostile", s.Hostile)
}
