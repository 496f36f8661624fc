package kvm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMissingFeatures(t *testing.T) {
	host := []CPUIDEntry{
		{Function: 1, ECX: 1 << 19, EDX: 1<<25 | 1<<26},
		{Function: 7, Index: 0, Flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, EBX: 1 << 3},
	}
	for name, tt := range map[string]struct {
		guest []CPUIDEntry
		want  []string
	}{
		"the same":        {host, nil},
		"fewer":           {host[:1], nil},
		"a leaf of names": {[]CPUIDEntry{{Function: 1, ECX: 1<<19 | 1<<28}}, []string{"avx (CPUID leaf 0x1.0 ECX bit 28)"}},
		"several": {
			[]CPUIDEntry{host[0], {Function: 7, Index: 0, Flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, EBX: 1<<3 | 1<<5 | 1<<16}},
			[]string{"avx2 (CPUID leaf 0x7.0 EBX bit 5)", "avx512f (CPUID leaf 0x7.0 EBX bit 16)"},
		},
		"another subleaf": {
			[]CPUIDEntry{{Function: 7, Index: 1, Flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, EAX: 1 << 5}},
			[]string{"avx512_bf16 (CPUID leaf 0x7.1 EAX bit 5)"},
		},
		"without a name": {[]CPUIDEntry{{Function: 7, EBX: 1 << 30, ECX: 1 << 31}}, []string{
			"avx512bw (CPUID leaf 0x7.0 EBX bit 30)", "CPUID leaf 0x7.0 ECX bit 31"}},
		"what the guest decides": {[]CPUIDEntry{{Function: 1, ECX: 1<<27 | 1<<31, EDX: 1 << 28}}, nil},
		"no feature":             {[]CPUIDEntry{{Function: 0x80000008, EAX: ^uint32(0)}, {Function: 4, EAX: 1}}, nil},
	} {
		if diff := cmp.Diff(tt.want, MissingFeatures(tt.guest, host)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
