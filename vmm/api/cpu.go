package api

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hullvm/hull/vmm"
)

// putCPUConfig takes a custom CPU template.
func (s *Server) putCPUConfig(c *cpuConfig) (any, error) {
	switch {
	case len(c.KVMCapabilities) > 0:
		return nil, notOffered("kvm_capabilities in CPU templates")
	case len(c.RegModifiers) > 0 || len(c.VCPUFeatures) > 0:
		return nil, notOffered("reg_modifiers and vcpu_features, which are of another architecture")
	}
	t, err := c.template()
	if err != nil {
		return nil, err
	}
	s.resources.cpu, s.resources.cpuConfig = t, c
	return nil, nil
}

// template is the template as package vmm has it.
func (c *cpuConfig) template() (*vmm.CPUTemplate, error) {
	t := &vmm.CPUTemplate{}
	for _, m := range c.CPUIDModifiers {
		var change vmm.CPUIDChange
		var err error
		if change.Leaf, err = number(m.Leaf); err != nil {
			return nil, err
		}
		if change.Subleaf, err = number(m.Subleaf); err != nil {
			return nil, err
		}
		for _, r := range m.Modifiers {
			bits, err := bitmap(r.Bitmap, 32)
			if err != nil {
				return nil, err
			}
			switch r.Register {
			case "eax":
				change.EAX = bits
			case "ebx":
				change.EBX = bits
			case "ecx":
				change.ECX = bits
			case "edx":
				change.EDX = bits
			}
		}
		t.CPUID = append(t.CPUID, change)
	}
	for _, m := range c.MSRModifiers {
		index, err := number(m.Addr)
		if err != nil {
			return nil, err
		}
		bits, err := bitmap(m.Bitmap, 64)
		if err != nil {
			return nil, err
		}
		t.MSRs = append(t.MSRs, vmm.MSRChange{Index: index, BitChange: bits})
	}
	return t, nil
}

// number is one of 32 bits as a template has it: "0x10a", "0b1010" or "266".
func number(text string) (uint32, error) {
	digits, base := text, 10
	if rest, ok := strings.CutPrefix(text, "0x"); ok {
		digits, base = rest, 16
	} else if rest, ok := strings.CutPrefix(text, "0b"); ok {
		digits, base = rest, 2
	}
	v, err := strconv.ParseUint(digits, base, 32)
	if err != nil {
		return 0, &jsonError{message: fmt.Sprintf("Failed to parse string [%s] as a number for CPU template -", text)}
	}
	return uint32(v), nil
}

// bitmap is "0b" and up to width characters, of the lowest bits: 0 and 1 are what the bit becomes, x leaves it. Underscores mean
// nothing.
func bitmap(text string, width int) (b vmm.BitChange, err error) {
	bad := func(why string) (vmm.BitChange, error) {
		return vmm.BitChange{}, &jsonError{message: fmt.Sprintf("Failed to parse string [%s] as a bitmap: %s", text, why)}
	}
	digits, ok := strings.CutPrefix(strings.ReplaceAll(text, "_", ""), "0b")
	switch {
	case !ok:
		return bad("it does not begin with 0b")
	case digits == "" || len(digits) > width:
		return bad(fmt.Sprintf("it must have 1 to %d bits", width))
	}
	for _, r := range digits {
		b.Mask, b.Value = b.Mask<<1, b.Value<<1
		switch r {
		case '1':
			b.Mask, b.Value = b.Mask|1, b.Value|1
		case '0':
			b.Mask |= 1
		case 'x':
		default:
			return bad("its bits must be 0, 1 or x")
		}
	}
	return b, nil
}
