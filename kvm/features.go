package kvm

import "fmt"

// cpuidRegister is one of the four that CPUID answers in.
type cpuidRegister int

const (
	regEAX cpuidRegister = iota
	regEBX
	regECX
	regEDX
)

func (r cpuidRegister) String() string { return [...]string{"EAX", "EBX", "ECX", "EDX"}[r] }

func (e *CPUIDEntry) register(r cpuidRegister) uint32 {
	return [...]uint32{e.EAX, e.EBX, e.ECX, e.EDX}[r]
}

// featureWord is a register of a leaf each bit of which stands for a feature.
type featureWord struct {
	function, index uint32
	register        cpuidRegister
	// own are bits that do not stand for a feature of the host's: the guest or
	// GuestCPUID decides them.
	own   uint32
	names map[int]string // of bits, as /proc/cpuinfo has them; not of all
}

// featureWords lists what a guest that was started with it cannot do without.
// Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E.
var featureWords = []featureWord{
	{0x1, 0, regECX, 1<<31 | 1<<27 | 1<<24 | 1<<21 | 1<<3, map[int]string{
		0: "pni", 1: "pclmulqdq", 5: "vmx", 9: "ssse3", 12: "fma", 13: "cx16", 17: "pcid", 19: "sse4_1", 20: "sse4_2",
		22: "movbe", 23: "popcnt", 25: "aes", 26: "xsave", 28: "avx", 29: "f16c", 30: "rdrand"}},
	{0x1, 0, regEDX, 1<<28 | 1<<9, map[int]string{
		0: "fpu", 3: "pse", 4: "tsc", 5: "msr", 6: "pae", 8: "cx8", 13: "pge", 15: "cmov", 16: "pat", 19: "clflush",
		23: "mmx", 24: "fxsr", 25: "sse", 26: "sse2"}},
	{0x7, 0, regEBX, 0, map[int]string{
		0: "fsgsbase", 3: "bmi1", 4: "hle", 5: "avx2", 7: "smep", 8: "bmi2", 9: "erms", 10: "invpcid", 11: "rtm", 14: "mpx",
		16: "avx512f", 17: "avx512dq", 18: "rdseed", 19: "adx", 20: "smap", 21: "avx512ifma", 23: "clflushopt", 24: "clwb",
		28: "avx512cd", 29: "sha_ni", 30: "avx512bw", 31: "avx512vl"}},
	{0x7, 0, regECX, 1 << 4, map[int]string{
		1: "avx512vbmi", 2: "umip", 3: "pku", 6: "avx512_vbmi2", 8: "gfni", 9: "vaes", 10: "vpclmulqdq", 11: "avx512_vnni",
		12: "avx512_bitalg", 14: "avx512_vpopcntdq", 16: "la57", 22: "rdpid", 25: "cldemote", 27: "movdiri", 28: "movdir64b"}},
	{0x7, 0, regEDX, 0, map[int]string{
		4: "fsrm", 8: "avx512_vp2intersect", 14: "serialize", 22: "amx_bf16", 23: "avx512_fp16", 24: "amx_tile", 25: "amx_int8",
		26: "ibrs", 27: "stibp", 28: "flush_l1d", 29: "arch_capabilities", 31: "ssbd"}},
	{0x7, 1, regEAX, 0, map[int]string{4: "avx_vnni", 5: "avx512_bf16"}},
	{0xd, 0, regEAX, 0, map[int]string{0: "x87 state", 1: "SSE state", 2: "AVX state"}},
	{0xd, 1, regEAX, 0, map[int]string{0: "xsaveopt", 1: "xsavec", 2: "xgetbv1", 3: "xsaves"}},
	{0x80000001, 0, regECX, 0, map[int]string{
		0: "lahf_lm", 2: "svm", 4: "cr8_legacy", 5: "abm", 6: "sse4a", 7: "misalignsse", 8: "3dnowprefetch", 11: "xop",
		16: "fma4", 21: "tbm", 22: "topoext"}},
	{0x80000001, 0, regEDX, 1 << 9, map[int]string{
		11: "syscall", 20: "nx", 22: "mmxext", 25: "fxsr_opt", 26: "pdpe1gb", 27: "rdtscp", 29: "lm"}},
	{0x80000008, 0, regEBX, 0, map[int]string{0: "clzero", 9: "wbnoinvd", 12: "ibpb", 14: "ibrs", 15: "stibp", 24: "ssbd"}},
	{leafKVMFeatures, 0, regEAX, 0, map[int]string{0: "kvmclock", 3: "kvmclock2", 4: "kvm async page faults", 6: "kvm pv eoi", 24: "kvmclock stable"}},
}

// MissingFeatures names the features that guest, a vCPU's leaves, has and host,
// what KVM supports, has not: a vCPU that has run with the first cannot go on
// with the second.
func MissingFeatures(guest, host []CPUIDEntry) []string {
	var missing []string
	for _, w := range featureWords {
		has, _ := findLeaf(guest, w.function, w.index)
		can, _ := findLeaf(host, w.function, w.index)
		bits := has.register(w.register) &^ can.register(w.register) &^ w.own
		for bit := range 32 {
			if bits&(1<<bit) == 0 {
				continue
			}
			where := fmt.Sprintf("CPUID leaf %#x.%d %v bit %d", w.function, w.index, w.register, bit)
			if name := w.names[bit]; name != "" {
				where = name + " (" + where + ")"
			}
			missing = append(missing, where)
		}
	}
	return missing
}

func findLeaf(entries []CPUIDEntry, function, index uint32) (CPUIDEntry, bool) {
	for _, e := range entries {
		if e.Function == function && (e.Index == index || e.Flags&KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0) {
			return e, true
		}
	}
	return CPUIDEntry{}, false
}
