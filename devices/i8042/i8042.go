// Package i8042 is what is left of the PC's keyboard controller: the pulse that resets the machine.
//
// Kernels that know no other way reboot by writing 0xfe to port 0x64 (Linux: reboot=k, and its last resort on any
// machine). Everything else about the controller is absent on purpose, and its status is what makes Linux see that soonest.
package i8042

import "github.com/hullvm/hull/devices"

// Port is where the controller's command and status register is, one byte long.
const Port = 0x64

// cmdReset pulses output line 0, which a PC wires to the CPUs' reset pin.
const cmdReset = 0xfe

// status has all bits set but one. Bit 0, output buffer full, never goes, which Linux's driver takes for "no controller"
// at once (with 0 it waits for half a second of instructions). Bit 1, input buffer full, is clear: reboot=k waits for that
// before it writes, again half a second if it never comes.
const status = 0xff &^ 0x02

// Controller is the register at Port.
type Controller struct {
	power devices.PowerFunc
}

// New makes a controller that reports devices.Reset to power.
func New(power devices.PowerFunc) *Controller { return &Controller{power} }

// Read answers that no controller is here.
func (*Controller) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = status
	}
}

// Write looks for the reset command.
func (c *Controller) Write(off uint64, p []byte) {
	if off == 0 && len(p) > 0 && p[0] == cmdReset && c.power != nil {
		c.power(devices.Reset)
	}
}
