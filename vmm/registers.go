package vmm

import (
	"fmt"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm/boot"
)

// Model-specific registers that firmware sets before it starts a kernel.
// Intel SDM vol. 4; AMD APM vol. 2, 7.7.
const (
	msrMiscEnable = 0x1a0
	msrMTRRDef    = 0x2ff

	miscEnableFastString = 1 << 0
	mtrrEnable           = 1 << 11
	mtrrWriteBack        = 6
)

// Registers of the local APIC, by their offset. Intel SDM vol. 3, 11.4.1.
const (
	apicLINT0 = 0x350
	apicLINT1 = 0x360

	deliverNMI    = 4 << 8
	deliverExtINT = 7 << 8
)

// guestCPUID is what vCPU id of a machine that boots is told of its processor.
func guestCPUID(v *kvm.VCPU, supported []kvm.CPUIDEntry, id, cpus int, deadline bool) []kvm.CPUIDEntry {
	khz, err := v.TSCKHz()
	if err != nil {
		khz = 0 // a guest measures what it is not told
	}
	return kvm.GuestCPUID(supported, kvm.Topology{APICID: uint32(id), CPUs: cpus, TSCKHz: khz}, deadline)
}

// setupCPU readies vCPU id, which has its CPUID: all of them get MSRs and their
// interrupt pins as firmware leaves them; the first gets the registers of start
// as well, the others wait for their start-up interrupt.
func setupCPU(v *kvm.VCPU, id int, template *CPUTemplate, start *boot.State) error {
	err := v.SetMSRs([]kvm.MSREntry{
		{Index: msrMiscEnable, Data: miscEnableFastString},
		{Index: msrMTRRDef, Data: mtrrEnable | mtrrWriteBack},
	})
	if err != nil {
		return err
	}
	if err := template.changeMSRs(v); err != nil {
		return err
	}
	lapic, err := v.LAPIC()
	if err != nil {
		return err
	}
	lapic.Regs[apicLINT0+1] = deliverExtINT >> 8
	lapic.Regs[apicLINT1+1] = deliverNMI >> 8
	lapic.Regs[apicLINT0+2] = 0 // not masked
	lapic.Regs[apicLINT1+2] = 0
	if err := v.SetLAPIC(lapic); err != nil {
		return err
	}
	if id != 0 {
		return nil
	}
	return setStart(v, start)
}

// setStart puts the boot processor where the loader wants it.
func setStart(v *kvm.VCPU, s *boot.State) error {
	sregs, err := v.Sregs()
	if err != nil {
		return err
	}
	data := segment(s.Data)
	sregs.CS = segment(s.CS)
	sregs.DS, sregs.ES, sregs.FS, sregs.GS, sregs.SS = data, data, data, data, data
	sregs.TR, sregs.LDT = segment(s.TR), segment(s.LDT)
	sregs.GDT = kvm.Descriptor{Base: s.GDT.Base, Limit: s.GDT.Limit}
	sregs.IDT = kvm.Descriptor{Base: s.IDT.Base, Limit: s.IDT.Limit}
	sregs.CR0, sregs.CR3, sregs.CR4, sregs.EFER = s.CR0, s.CR3, s.CR4, s.EFER
	if err := v.SetSregs(&sregs); err != nil {
		return fmt.Errorf("start in %v: %w", s.Mode, err)
	}
	return v.SetRegs(&kvm.Regs{RIP: s.RIP, RSP: s.RSP, RSI: s.RSI, RBX: s.RBX, RFLAGS: s.RFLAGS})
}

func segment(s boot.Segment) kvm.Segment {
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Typ: s.Type, DPL: s.DPL,
		Present: bit(s.Present), S: bit(s.S), AVL: bit(s.AVL), L: bit(s.L), DB: bit(s.DB), G: bit(s.G),
		Unusable: bit(!s.Present),
	}
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
