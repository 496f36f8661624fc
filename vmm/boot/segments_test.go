package boot

import "testing"

func TestDescriptors(t *testing.T) {
	flat := Segment{Limit: 0xffff_ffff, Present: true, S: true, G: true}
	code64, code32, data := flat, flat, flat
	code64.Type, code64.L = segCode, true
	code32.Type, code32.DB = segCode, true
	data.Type, data.DB = segData, true
	for _, tt := range []struct {
		name string
		s    Segment
		want uint64
	}{
		{"not present", Segment{}, 0},
		{"64-bit code", code64, 0x00af_9b00_0000_ffff},
		{"32-bit code", code32, 0x00cf_9b00_0000_ffff},
		{"data", data, 0x00cf_9300_0000_ffff},
		{"TSS", Segment{Limit: 0x67, Type: segTSS32Busy, Present: true}, 0x0000_8b00_0000_0067},
		{"everything", Segment{Base: 0x1234_5678, Limit: 0xabcde, Type: 2, DPL: 3, Present: true, S: true, AVL: true}, 0x121a_f234_5678_bcde},
	} {
		if got := tt.s.descriptor(); got != tt.want {
			t.Errorf("%s: %#016x, want %#016x", tt.name, got, tt.want)
		}
	}
}

// TestDescriptorTable: registers must agree with the table that they point to,
// or a guest that reloads them gets others.
func TestDescriptorTable(t *testing.T) {
	for _, protocol := range []Protocol{ProtocolFlat64, ProtocolFlat32} {
		mem := newMemory(t, 1<<20)
		s, err := Load(mem, Params{Kernel: flat("\xf4"), Protocol: protocol, FlatAddress: 0x1000})
		if err != nil {
			t.Fatal(err)
		}
		gdt, err := mem.Slice(s.GDT.Base, int(s.GDT.Limit)+1)
		if err != nil {
			t.Fatal(err)
		}
		for _, seg := range []Segment{s.CS, s.Data, s.TR} {
			if got := le.Uint64(gdt[seg.Selector:]); got != seg.descriptor() {
				t.Errorf("%s: selector %#x has descriptor %#x, want %#x", protocol, seg.Selector, got, seg.descriptor())
			}
		}
		if s.CS.Selector != 0x10 || s.Data.Selector != 0x18 { // __BOOT_CS, __BOOT_DS
			t.Errorf("%s: selectors %#x, %#x", protocol, s.CS.Selector, s.Data.Selector)
		}
		if s.CS.L != (protocol == ProtocolFlat64) || s.CS.DB == s.CS.L || s.LDT.Present {
			t.Errorf("%s: state %+v", protocol, s)
		}
	}
}
