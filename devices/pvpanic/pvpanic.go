// Package pvpanic lets a guest kernel say that it has crashed: QEMU's pvpanic device (docs/specs/pvpanic in QEMU),
// in its MMIO flavour. The DSDT describes it as a device with _HID "QEMU0001" and one byte of memory.
package pvpanic

import "github.com/hullvm/hull/devices"

// Size is the length of the device's register in bytes.
const Size = 1

// eventPanicked is PVPANIC_PANICKED, the only event offered: a guest that goes on to a crash kernel is left alone.
const eventPanicked = 1 << 0

// Device is the register.
type Device struct {
	power devices.PowerFunc
}

// New makes a device that reports devices.Panicked to power.
func New(power devices.PowerFunc) *Device { return &Device{power} }

// Read answers which events the device knows.
func (*Device) Read(off uint64, p []byte) {
	clear(p)
	if off == 0 && len(p) > 0 {
		p[0] = eventPanicked
	}
}

// Write takes events.
func (d *Device) Write(off uint64, p []byte) {
	if off == 0 && len(p) > 0 && p[0]&eventPanicked != 0 && d.power != nil {
		d.power(devices.Panicked)
	}
}
