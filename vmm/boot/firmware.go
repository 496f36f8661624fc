package boot

import "fmt"

// resetCode is the 16-bit code at ResetVector: it resets the machine by the
// register that the FADT names, and waits for that to happen.
//
// Linux gets here when it reboots: on a hardware-reduced ACPI machine a kernel
// built with CONFIG_EFI takes EFI's reset before ACPI's, finds no EFI, and
// falls back to the BIOS (arch/x86/kernel/reboot.c, reboot_init and
// native_machine_emergency_restart). Without code here it would run through
// zeros for ever.
func resetCode() []byte {
	return []byte{
		0xba, ACPIResetPort & 0xff, ACPIResetPort >> 8, // mov $ACPIResetPort, %dx
		0xb0, ACPIResetValue, // mov $ACPIResetValue, %al
		0xee,       // out %al, (%dx)
		0xf4,       // 1: hlt
		0xeb, 0xfd, // jmp 1b
	}
}

func (l *loader) writeFirmware() error {
	if _, err := l.mem.WriteAt(resetCode(), ResetVector); err != nil {
		return fmt.Errorf("boot: reset vector: %w", err)
	}
	return nil
}
