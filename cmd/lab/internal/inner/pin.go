package inner

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Requests of KVM (linux/kvm.h).
const (
	kvmCreateVM      = 0xae01
	kvmCreateVCPU    = 0xae41
	kvmCreateIRQChip = 0xae60
	kvmGetSregs      = 0x8138ae83
	kvmSetSregs      = 0x4138ae84
)

const (
	sregsSize         = 0x138             // as in the request numbers
	sregsAPICBase     = 8*24 + 2*16 + 6*8 // after 8 segments, 2 tables and 6 registers
	apicBaseEnableBit = 11
)

// pinKVM creates virtual machines that are never run and never closed.
//
// KVM rewrites its own code (static keys) when the first machine appears and the
// last one goes, when the first vCPU without a local APIC does, and when one has
// its APIC disabled. TCG now and then runs such code half rewritten on another
// CPU, and the kernel dies of a stray int3. With these machines in place the keys
// never change again. It is called while only one CPU is online.
func pinKVM() error {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lab init: opening /dev/kvm: %w", err)
	}
	for _, pin := range []struct{ irqchip, apicOff bool }{
		{irqchip: true},                // an APIC switched off in software, as after every reset
		{irqchip: true, apicOff: true}, // one disabled in its base register
		{irqchip: false},               // none
	} {
		vm, err := unix.IoctlRetInt(kvm, kvmCreateVM)
		if err == nil && pin.irqchip {
			err = unix.IoctlSetInt(vm, kvmCreateIRQChip, 0)
		}
		var cpu int
		if err == nil {
			cpu, err = unix.IoctlRetInt(vm, kvmCreateVCPU)
		}
		if err == nil && pin.apicOff {
			err = disableAPIC(cpu)
		}
		if err != nil {
			return fmt.Errorf("lab init: creating a virtual machine to be kept: %w", err)
		}
	}
	return nil
}

// onlineCPUs starts the CPUs that the kernel was told to leave alone (maxcpus=1).
func onlineCPUs() error {
	paths, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/online")
	if err != nil {
		return err
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err == nil && len(b) > 0 && b[0] == '0' {
			err = os.WriteFile(path, []byte("1"), 0)
		}
		if err != nil {
			return fmt.Errorf("lab init: starting a CPU: %w", err)
		}
	}
	return nil
}
