package kvm

import "slices"

// Topology places one vCPU in a guest's processor package.
type Topology struct {
	APICID uint32 // of this vCPU
	CPUs   int    // in the whole machine: cores of one package, a thread each
	TSCKHz int    // of the guest's time stamp counter; 0 when unknown
}

// CPUID leaves that are rewritten for a guest. Intel SDM vol. 2A, CPUID; AMD
// APM vol. 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.
const (
	leafBasic       = 0x1
	leafCache       = 0x4
	leafThermal     = 0x6
	leafPerfMon     = 0xa
	leafTopology    = 0xb
	leafTSC         = 0x15
	leafFrequency   = 0x16
	leafTopologyV2  = 0x1f
	leafHypervisor  = 0x40000000
	leafKVMFeatures = 0x40000001
	leafKVMTiming   = 0x40000010
	leafAMDSizes    = 0x80000008
	leafAMDCache    = 0x8000001d
	leafAMDTopology = 0x8000001e

	ecxX2APIC      = 1 << 21 // leaf 1
	ecxTSCDeadline = 1 << 24
	ecxHypervisor  = 1 << 31
	edxHTT         = 1 << 28
	eaxARAT        = 1 << 2 // leaf 6: the APIC timer runs in every C-state
	ecxFlexLevel   = 1 << 8 // leaf 0xb: level types in ECX[15:8]
	levelSMT       = 1
	levelCore      = 2
)

// crystalKHz is the core crystal clock that leaf 0x15 claims. Guests multiply
// it by EBX/EAX to get the TSC's frequency; KVM's APIC timer counts at 1 GHz.
const crystalKHz = 1000000

// GuestCPUID derives a vCPU's leaves from those that KVM supports: the
// hypervisor bit and KVM's own leaves, the topology of t, the TSC's frequency so
// that a guest need not measure it, the deadline timer, and no performance
// counters. deadline tells whether KVM has KVM_CAP_TSC_DEADLINE_TIMER.
func GuestCPUID(supported []CPUIDEntry, t Topology, deadline bool) []CPUIDEntry {
	amd := vendorIsAMD(supported)
	out := make([]CPUIDEntry, 0, len(supported)+8)
	for _, e := range supported {
		switch e.Function {
		case leafTopology, leafTopologyV2, leafTSC, leafFrequency, leafKVMTiming, leafPerfMon:
			continue // made below, or left out
		case leafBasic:
			e.EBX = e.EBX&0x0000ffff | uint32(min(t.CPUs, 255))<<16 | t.APICID<<24
			e.ECX |= ecxHypervisor
			if deadline {
				e.ECX |= ecxTSCDeadline
			}
			e.EDX &^= edxHTT
			if t.CPUs > 1 {
				e.EDX |= edxHTT
			}
		case leafCache:
			// EAX[31:26]: cores a package, EAX[25:14]: threads sharing the
			// cache, each less one. The last level is shared by all cores.
			if e.EAX&0x1f != 0 {
				e.EAX &= 0x3fff
				e.EAX |= uint32(t.CPUs-1) & 0x3f << 26
				if e.EAX>>5&7 >= 3 {
					e.EAX |= uint32(t.CPUs-1) & 0xfff << 14
				}
			}
		case leafThermal:
			e.EAX, e.EBX, e.ECX, e.EDX = eaxARAT, 0, 0, 0
		case leafKVMFeatures:
			// The host's features as they are.
		case leafAMDSizes:
			e.ECX = 0
			if amd {
				e.ECX = uint32(t.CPUs-1)&0xff | coreIDBits(t.CPUs)<<12
			}
		case leafAMDCache:
			if e.EAX&0x1f != 0 {
				e.EAX &= 0x3fff
				if e.EAX>>5&7 >= 3 {
					e.EAX |= uint32(t.CPUs-1) & 0xfff << 14
				}
			}
		case leafAMDTopology:
			e.EAX, e.EBX, e.ECX = t.APICID, t.APICID&0xff, 0
		}
		out = append(out, e)
	}
	for _, leaf := range []uint32{leafTopology, leafTopologyV2} {
		if leaf == leafTopologyV2 && !hasLeaf(supported, leaf) {
			continue
		}
		out = append(out,
			CPUIDEntry{Function: leaf, Index: 0, Flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
				EAX: 0, EBX: 1, ECX: levelSMT << 8, EDX: t.APICID},
			CPUIDEntry{Function: leaf, Index: 1, Flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
				EAX: coreIDBits(t.CPUs), EBX: uint32(t.CPUs), ECX: 1 | levelCore<<8, EDX: t.APICID},
			CPUIDEntry{Function: leaf, Index: 2, Flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ECX: 2, EDX: t.APICID})
	}
	if t.TSCKHz > 0 {
		khz := uint32(t.TSCKHz)
		// EBX/EAX × ECX Hz: the ratio is kHz to the crystal's kHz.
		out = append(out,
			CPUIDEntry{Function: leafTSC, EAX: crystalKHz, EBX: khz, ECX: crystalKHz * 1000},
			CPUIDEntry{Function: leafFrequency, EAX: khz / 1000, EBX: khz / 1000, ECX: 1000})
		out = append(out, CPUIDEntry{Function: leafKVMTiming, EAX: khz, EBX: crystalKHz})
	}
	raise(out, 0, maxLeaf(out, 0))
	raise(out, leafHypervisor, maxLeaf(out, leafHypervisor))
	slices.SortStableFunc(out, func(a, b CPUIDEntry) int {
		if a.Function != b.Function {
			if a.Function < b.Function {
				return -1
			}
			return 1
		}
		return int(a.Index) - int(b.Index)
	})
	return out
}

// coreIDBits is how many bits of an APIC ID number the cores of a package.
func coreIDBits(cpus int) (bits uint32) {
	for 1<<bits < cpus {
		bits++
	}
	return bits
}

func hasLeaf(entries []CPUIDEntry, f uint32) bool {
	return slices.ContainsFunc(entries, func(e CPUIDEntry) bool { return e.Function == f })
}

// maxLeaf is the highest leaf of the range that starts at base.
func maxLeaf(entries []CPUIDEntry, base uint32) uint32 {
	m := base
	for _, e := range entries {
		if e.Function >= base && e.Function < base+0x10000 {
			m = max(m, e.Function)
		}
	}
	return m
}

// raise makes leaf base announce top as the highest of its range.
func raise(entries []CPUIDEntry, base, top uint32) {
	for i := range entries {
		if entries[i].Function == base {
			entries[i].EAX = max(entries[i].EAX, top)
		}
	}
}

func vendorIsAMD(entries []CPUIDEntry) bool {
	for _, e := range entries {
		if e.Function == 0 {
			// "Auth" of AuthenticAMD, "Hygo" of HygonGenuine.
			return e.EBX == 0x68747541 || e.EBX == 0x6f677948
		}
	}
	return false
}

// PhysicalAddressBits is how many bits a guest's physical addresses have with these leaves, 36 to 52.
func PhysicalAddressBits(leaves []CPUIDEntry) int {
	const fewest, most = 36, 52 // Intel SDM vol. 3A, 4.1.4: 36 without the leaf, MAXPHYADDR is at most 52
	for _, e := range leaves {
		if e.Function == leafAMDSizes {
			return min(max(int(e.EAX&0xff), fewest), most)
		}
	}
	return fewest
}
