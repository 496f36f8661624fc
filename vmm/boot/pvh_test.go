package boot

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// note encodes an ELF note.
func note(name string, kind uint32, desc []byte, align int) []byte {
	b := le.AppendUint32(nil, uint32(len(name)))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	pad := func() {
		for len(b)%align != 0 {
			b = append(b, 0)
		}
	}
	b = append(b, name...)
	pad()
	b = append(b, desc...)
	pad()
	return b
}

func TestPVHEntry(t *testing.T) {
	entry32, entry64 := []byte{0x40, 0, 0x10, 0}, []byte{0x40, 0, 0x10, 0, 0, 0, 0, 0}
	huge := le.AppendUint32(nil, 0xffff_ffff)
	for _, tt := range []struct {
		name  string
		notes []byte
		align uint64
		ok    bool
	}{
		{"8 bytes", note("Xen\x00", 18, entry64, 4), 4, true},
		{"4 bytes", note("Xen\x00", 18, entry32, 4), 4, true},
		{"aligned to 8", note("Xen\x00", 18, entry64, 8), 8, true},
		{"after others", concat(note("Linux\x00", 0x101, []byte{1}, 4), note("GNU\x00", 3, make([]byte, 20), 4), note("Xen\x00", 18, entry32, 4)), 4, true},
		{"without its padding", note("Xen\x00", 18, entry32, 4)[:20], 4, true},
		{"another kind", note("Xen\x00", 19, entry32, 4), 4, false},
		{"another owner", note("Foo\x00", 18, entry32, 4), 4, false},
		{"an owner without NUL", note("Xen", 18, entry32, 4), 4, false},
		{"6 bytes", note("Xen\x00", 18, make([]byte, 6), 4), 4, false},
		{"no bytes", note("Xen\x00", 18, nil, 4), 4, false},
		{"cut", note("Xen\x00", 18, entry64, 4)[:20], 4, false},
		{"header cut", note("Xen\x00", 18, entry64, 4)[:11], 4, false},
		{"nothing", nil, 4, false},
		{"huge name", append(huge, make([]byte, 40)...), 4, false},
		{"huge descriptor", concat(make([]byte, 4), huge, make([]byte, 40)), 4, false},
		{"all huge", bytes.Repeat([]byte{0xff}, 64), 8, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			entry, ok := pvhEntry(tt.notes, tt.align)
			if ok != tt.ok || ok && entry != 0x10_0040 {
				t.Errorf("entry %#x, %v", entry, ok)
			}
		})
	}
}

func concat(b ...[]byte) []byte { return bytes.Join(b, nil) }

// pvhELF is simple with a PVH entry point.
func pvhELF(entry uint64) testELF {
	e := simple()
	e.segments = append(e.segments, testSegment{kind: ptNote, data: note("Xen\x00", 18, le.AppendUint64(nil, entry), 4)})
	return e
}

func TestPVH(t *testing.T) {
	mem := newMemory(t, 32<<20)
	s, err := Load(mem, Params{
		Kernel: pvhELF(0x10_0040).image(), Protocol: ProtocolPVH, CommandLine: "console=ttyS0",
		Initrd: []Image{ReaderImage("initrd", strings.NewReader("070701 and more"), 15)},
	})
	if err != nil {
		t.Fatal(err)
	}
	// docs/misc/pvh.pandoc: EBX, CR0.PE, flat 32-bit segments, TR.
	if s.Mode != Protected32 || s.RIP != 0x10_0040 || s.CR0 != CR0PE|CR0ET || s.CR4 != 0 || s.EFER != 0 || s.RFLAGS != 2 {
		t.Errorf("state %+v", s)
	}
	if s.CS.Base != 0 || s.CS.Limit != 0xffff_ffff || !s.CS.DB || s.CS.L || s.Data.Limit != 0xffff_ffff || s.TR.Limit != 0x67 || s.TR.Base != 0 {
		t.Errorf("segments %+v", s)
	}
	at := func(gpa uint64, n int) []byte {
		b, err := mem.Slice(gpa, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// xen/include/public/arch-x86/hvm/start_info.h.
	info := at(s.RBX, 56)
	if le.Uint32(info) != 0x336ec578 || le.Uint32(info[4:]) != 1 || le.Uint32(info[8:]) != 0 || le.Uint32(info[12:]) != 1 {
		t.Errorf("start info % x", info)
	}
	if line := at(le.Uint64(info[24:]), 14); string(line) != "console=ttyS0\x00" {
		t.Errorf("command line %q", line)
	}
	if root := le.Uint64(info[32:]); root != ACPITables {
		t.Errorf("RSDP at %#x", root)
	}
	tablesByName(t, at(ACPITables, ACPITablesEnd-ACPITables), ACPITables)
	module := at(le.Uint64(info[16:]), 32)
	if addr, size := le.Uint64(module), le.Uint64(module[8:]); addr != s.InitrdAddr || size != 15 {
		t.Errorf("module at %#x+%#x", addr, size)
	} else if got := at(addr, 15); string(got) != "070701 and more" {
		t.Errorf("initrd %q", got)
	}
	var memmap [][3]uint64
	for i := range uint64(le.Uint32(info[48:])) {
		e := at(le.Uint64(info[40:])+24*i, 24)
		memmap = append(memmap, [3]uint64{le.Uint64(e), le.Uint64(e[8:]), uint64(le.Uint32(e[16:]))})
	}
	want := [][3]uint64{{0, 0x9_fc00, 1}, {0x9_fc00, 0x6_0400, 2}, {0x10_0000, 31 << 20, 1}}
	if diff := cmp.Diff(want, memmap); diff != "" {
		t.Errorf("memory map: %s", diff)
	}
}

func TestPVHChoice(t *testing.T) {
	e := pvhELF(0x10_0040)
	if s, err := Load(newMemory(t, 32<<20), Params{Kernel: e.image()}); err != nil || s.Protocol != ProtocolELF {
		t.Errorf("a kernel with both entry points: %v, %v", s, err)
	}
	e.entry = 0x10_0040
	if s, err := Load(newMemory(t, 32<<20), Params{Kernel: e.image()}); err != nil || s.Protocol != ProtocolPVH {
		t.Errorf("a kernel whose entry point is the PVH one: %v, %v", s, err)
	}
	if s, err := Load(newMemory(t, 32<<20), Params{Kernel: e.image(), Protocol: ProtocolELF}); err != nil || s.Protocol != ProtocolELF {
		t.Errorf("asked for the 64-bit entry: %v, %v", s, err)
	}
}

func TestBadPVH(t *testing.T) {
	for _, tt := range []struct {
		name string
		e    testELF
		want error
		says string
	}{
		{"no note", simple(), ErrUnsupported, "CONFIG_PVH"},
		{"entry in no segment", pvhELF(0x1000), ErrMalformed, "none of its segments"},
		{"entry is a virtual address", pvhELF(0xffff_ffff_8000_0040), ErrMalformed, "none of its segments"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(newMemory(t, 32<<20), Params{Kernel: tt.e.image(), Protocol: ProtocolPVH})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v saying %q", err, tt.want, tt.says)
			}
		})
	}
}

func FuzzPVHEntry(f *testing.F) {
	f.Add(note("Xen\x00", 18, make([]byte, 8), 4), false)
	f.Add(note("Xen\x00", 18, make([]byte, 4), 8), true)
	f.Add(concat(note("Linux\x00", 0x101, []byte{1}, 4), note("Xen\x00", 18, make([]byte, 8), 4)), false)
	f.Add(bytes.Repeat([]byte{0xff}, 30), true)
	f.Fuzz(func(t *testing.T, notes []byte, wide bool) {
		align := uint64(4)
		if wide {
			align = 8
		}
		entry, ok := pvhEntry(notes, align)
		if ok && !bytes.Contains(notes, le.AppendUint32(nil, uint32(entry))) {
			t.Errorf("entry %#x is not in the notes", entry)
		}
	})
}
