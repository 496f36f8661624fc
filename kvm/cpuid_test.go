package kvm

import "testing"

func find(t *testing.T, entries []CPUIDEntry, f, index uint32) CPUIDEntry {
	t.Helper()
	for _, e := range entries {
		if e.Function == f && e.Index == index {
			return e
		}
	}
	t.Fatalf("leaf %#x index %d is missing", f, index)
	return CPUIDEntry{}
}

func supportedSample(vendorEBX uint32) []CPUIDEntry {
	return []CPUIDEntry{
		{Function: 0, EAX: 0xd, EBX: vendorEBX},
		{Function: 1, EBX: 0x07100800, ECX: 1 << 21, EDX: 1 << 28},
		{Function: 4, Index: 0, Flags: 1, EAX: 0x1c004121},
		{Function: 4, Index: 3, Flags: 1, EAX: 0x1c03c163},
		{Function: 6, EAX: 0x77, ECX: 9},
		{Function: 0xa, EAX: 0x07300404},
		{Function: 0xb, Index: 0, Flags: 1, EAX: 1, EBX: 2, ECX: 0x100, EDX: 7},
		{Function: 0x40000000, EAX: 0x40000001, EBX: 0x4b4d564b},
		{Function: 0x40000001, EAX: 0x0100007b},
		{Function: 0x80000008, ECX: 0x7003},
		{Function: 0x8000001e, EAX: 7, EBX: 0x103},
	}
}

func TestGuestCPUIDTopology(t *testing.T) {
	for _, cpus := range []int{1, 2, 3, 4, 63, 64} {
		for id := range cpus {
			got := GuestCPUID(supportedSample(0x756e6547), Topology{APICID: uint32(id), CPUs: cpus, TSCKHz: 2_500_000}, true)
			one := find(t, got, 1, 0)
			if one.EBX>>24 != uint32(id) || one.EBX>>16&0xff != uint32(cpus) {
				t.Errorf("%d of %d: leaf 1 EBX = %#x", id, cpus, one.EBX)
			}
			if one.ECX&ecxHypervisor == 0 || one.ECX&ecxTSCDeadline == 0 || one.ECX&ecxX2APIC == 0 {
				t.Errorf("leaf 1 ECX = %#x: hypervisor, deadline timer or x2APIC missing", one.ECX)
			}
			if (one.EDX&edxHTT != 0) != (cpus > 1) {
				t.Errorf("%d CPUs: HTT = %v", cpus, one.EDX&edxHTT != 0)
			}
			core := find(t, got, 0xb, 1)
			if core.EBX != uint32(cpus) || core.EDX != uint32(id) || 1<<core.EAX < cpus {
				t.Errorf("%d of %d: leaf 0xb core level = %+v", id, cpus, core)
			}
			if l3 := find(t, got, 4, 3); l3.EAX>>26 != uint32(cpus-1) || l3.EAX>>14&0xfff != uint32(cpus-1) {
				t.Errorf("%d CPUs: leaf 4 L3 EAX = %#x", cpus, l3.EAX)
			}
		}
	}
}

func TestGuestCPUIDTellsTheTSCFrequency(t *testing.T) {
	got := GuestCPUID(supportedSample(0x756e6547), Topology{CPUs: 1, TSCKHz: 2_893_201}, false)
	e := find(t, got, leafTSC, 0)
	if hz := uint64(e.ECX) * uint64(e.EBX) / uint64(e.EAX); hz != 2_893_201_000 {
		t.Errorf("leaf 0x15 says %d Hz", hz)
	}
	if top := find(t, got, 0, 0).EAX; top < leafFrequency {
		t.Errorf("leaf 0 announces %#x as the highest", top)
	}
	if e := find(t, got, leafKVMTiming, 0); e.EAX != 2_893_201 {
		t.Errorf("leaf 0x40000010 says %d kHz", e.EAX)
	}
	if e := find(t, got, leafHypervisor, 0); e.EAX != leafKVMTiming {
		t.Errorf("leaf 0x40000000 announces %#x as the highest", e.EAX)
	}
	if find(t, got, 1, 0).ECX&ecxTSCDeadline != 0 {
		t.Error("deadline timer announced though KVM has none")
	}
	for _, e := range GuestCPUID(supportedSample(0x756e6547), Topology{CPUs: 1}, false) {
		if e.Function == leafTSC {
			t.Error("leaf 0x15 made up without a frequency")
		}
	}
}

func TestGuestCPUIDForAMD(t *testing.T) {
	got := GuestCPUID(supportedSample(0x68747541), Topology{APICID: 3, CPUs: 4}, true)
	if e := find(t, got, leafAMDSizes, 0); e.ECX != 3|2<<12 {
		t.Errorf("leaf 0x80000008 ECX = %#x", e.ECX)
	}
	if e := find(t, got, leafAMDTopology, 0); e.EAX != 3 || e.EBX != 3 {
		t.Errorf("leaf 0x8000001e = %+v", e)
	}
}

func TestPhysicalAddressBits(t *testing.T) {
	for eax, want := range map[uint32]int{0x3028: 40, 0x3930: 48, 52: 52, 255: 52, 1: 36} {
		if got := PhysicalAddressBits([]CPUIDEntry{{Function: 1}, {Function: leafAMDSizes, EAX: eax}}); got != want {
			t.Errorf("EAX %#x: %d bits, want %d", eax, got, want)
		}
	}
	if got := PhysicalAddressBits(nil); got != 36 {
		t.Errorf("without the leaf: %d bits", got)
	}
}
