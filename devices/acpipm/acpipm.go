// Package acpipm is the power management hardware of a hardware-reduced ACPI machine (ACPI 6.4, 4.8.3.7 and 4.8.3.6):
// the sleep control and sleep status registers, and the register that resets the machine.
//
// The FADT describes them: SLEEP_CONTROL_REG and SLEEP_STATUS_REG with 8 bits at SleepControl and SleepStatus, RESET_REG
// with 8 bits at ResetRegister and RESET_VALUE = ResetValue, and the flags HW_REDUCED_ACPI and RESET_REG_SUP. The DSDT
// holds \_S5 = Package{SleepTypeS5, …}. The device does not care whether it is on the port or the MMIO bus.
package acpipm

import (
	"github.com/hullvm/hull/devices"
)

// Offsets of the registers, one byte each.
const (
	SleepControl  = 0
	SleepStatus   = 1
	ResetRegister = 2

	// Size is the length of the register block in bytes.
	Size = 4
)

// SleepTypeS5 is the value of SLP_TYP that \_S5 names for soft-off.
const SleepTypeS5 = 5

// ResetValue is what the FADT tells the guest to write to ResetRegister.
const ResetValue = 1

// Bits of the sleep control register (4.8.3.7.1).
const (
	slpTypShift = 2
	slpTypMask  = 7
	slpEn       = 1 << 5
)

// Registers is the register block.
type Registers struct {
	power devices.PowerFunc
}

// New makes a register block that reports devices.PowerOff and devices.Reset to power.
func New(power devices.PowerFunc) *Registers { return &Registers{power} }

// Read answers 0: no sleep under way (WAK_STS clear), nothing enabled.
func (*Registers) Read(_ uint64, p []byte) { clear(p) }

// Write takes each byte for the register at its offset.
func (r *Registers) Write(off uint64, p []byte) {
	if r.power == nil || off >= Size {
		return
	}
	for i, v := range p {
		switch off + uint64(i) {
		case SleepControl:
			// Other sleep states are not offered; asking for one does nothing.
			if v&slpEn != 0 && v>>slpTypShift&slpTypMask == SleepTypeS5 {
				r.power(devices.PowerOff)
			}
		case ResetRegister:
			if v == ResetValue {
				r.power(devices.Reset)
			}
		}
	}
}
