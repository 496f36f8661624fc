package vmm

import (
	"fmt"

	"github.com/hullvm/hull/kvm"
)

// CPUTemplate changes what guests see of a processor, so that they see the same on different hosts. It is applied to
// what hull would give them otherwise, on all vCPUs.
type CPUTemplate struct {
	CPUID []CPUIDChange `json:"cpuid,omitempty"`
	MSRs  []MSRChange   `json:"msrs,omitempty"`
}

// BitChange puts Value in the place of the bits that are set in Mask.
type BitChange struct {
	Mask  uint64 `json:"mask"`
	Value uint64 `json:"value"`
}

func (b BitChange) apply(v uint64) uint64 { return v&^b.Mask | b.Value&b.Mask }

// CPUIDChange changes the four registers of one CPUID leaf, which must be there.
type CPUIDChange struct {
	Leaf    uint32    `json:"leaf"`
	Subleaf uint32    `json:"subleaf"`
	EAX     BitChange `json:"eax,omitzero"`
	EBX     BitChange `json:"ebx,omitzero"`
	ECX     BitChange `json:"ecx,omitzero"`
	EDX     BitChange `json:"edx,omitzero"`
}

// MSRChange changes a model-specific register, which KVM must know.
type MSRChange struct {
	Index uint32 `json:"index"`
	BitChange
}

// changeCPUID changes leaves as the template says; a nil template says nothing.
func (t *CPUTemplate) changeCPUID(leaves []kvm.CPUIDEntry) error {
	if t == nil {
		return nil
	}
	for _, c := range t.CPUID {
		found := false
		for i := range leaves {
			e := &leaves[i]
			if e.Function != c.Leaf || e.Index != c.Subleaf {
				continue
			}
			found = true
			e.EAX, e.EBX = uint32(c.EAX.apply(uint64(e.EAX))), uint32(c.EBX.apply(uint64(e.EBX)))
			e.ECX, e.EDX = uint32(c.ECX.apply(uint64(e.ECX))), uint32(c.EDX.apply(uint64(e.EDX)))
		}
		if !found {
			return fmt.Errorf("CPU template: this host's KVM has no CPUID leaf %#x with subleaf %#x", c.Leaf, c.Subleaf)
		}
	}
	return nil
}

// changeMSRs changes the registers of a vCPU as the template says.
func (t *CPUTemplate) changeMSRs(v *kvm.VCPU) error {
	if t == nil {
		return nil
	}
	for _, c := range t.MSRs {
		msr := []kvm.MSREntry{{Index: c.Index}}
		if n, err := v.ReadMSRs(msr); err != nil || n == 0 {
			return fmt.Errorf("CPU template: MSR %#x: KVM does not know it (%v)", c.Index, err)
		}
		msr[0].Data = c.apply(msr[0].Data)
		if err := v.SetMSRs(msr); err != nil {
			return fmt.Errorf("CPU template: MSR %#x: %w", c.Index, err)
		}
	}
	return nil
}
