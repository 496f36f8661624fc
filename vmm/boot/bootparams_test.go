package boot

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hullvm/hull/vmm/memory"
)

// e820 reads the memory map from a zero page, by the offsets of
// Documentation/arch/x86/zero-page.rst.
func e820(zp []byte) (m [][3]uint64) {
	for i := range int(zp[0x1e8]) {
		e := zp[0x2d0+20*i:]
		m = append(m, [3]uint64{le.Uint64(e), le.Uint64(e[8:]), uint64(le.Uint32(e[16:]))})
	}
	return m
}

func TestZeroPage(t *testing.T) {
	mem := newMemory(t, 64<<20)
	seed := bytes.Repeat([]byte{0xa5, 1}, 24)
	s, err := Load(mem, Params{
		Kernel: simple().image(), CommandLine: "console=ttyS0 quiet", RandomSeed: seed,
		Initrd: []Image{flat("070701, or so")},
	})
	if err != nil {
		t.Fatal(err)
	}
	at := func(gpa uint64, n int) []byte {
		b, err := mem.Slice(gpa, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	zp := at(s.RSI, 4096)
	// What arch/x86/kernel/setup.c and head64.c look at.
	if le.Uint16(zp[0x1fe:]) != 0xaa55 || string(zp[0x202:0x206]) != "HdrS" || le.Uint16(zp[0x206:]) < 0x20c {
		t.Errorf("header % x", zp[0x1f1:0x210])
	}
	if zp[0x1ef] != 0 {
		t.Error("the sentinel is set: Linux would clear the initrd's address")
	}
	if zp[0x210] == 0 || zp[0x211]&1 == 0 {
		t.Errorf("type_of_loader %#x, loadflags %#x: Linux would ignore the initrd", zp[0x210], zp[0x211])
	}
	if le.Uint32(zp[0x236-2:])>>16&1 != 1 {
		t.Error("XLF_KERNEL_64 is not set")
	}
	if le.Uint64(zp[0x070:]) != ACPITables {
		t.Errorf("acpi_rsdp_addr %#x", le.Uint64(zp[0x070:]))
	}
	if line := at(uint64(le.Uint32(zp[0x228:])), 20); string(line) != "console=ttyS0 quiet\x00" {
		t.Errorf("command line %q", line)
	}
	if addr, size := uint64(le.Uint32(zp[0x218:])), le.Uint32(zp[0x21c:]); size != 13 || string(at(addr, 13)) != "070701, or so" {
		t.Errorf("initrd at %#x+%d", addr, size)
	}
	if want := ([][3]uint64{{0, 0x9_fc00, 1}, {0x9_fc00, 0x6_0400, 2}, {0x10_0000, 63 << 20, 1}}); !cmp.Equal(want, e820(zp)) {
		t.Errorf("memory map %x", e820(zp))
	}
	// arch/x86/include/uapi/asm/setup_data.h: struct setup_data.
	data := at(le.Uint64(zp[0x250:]), 16+len(seed))
	if le.Uint64(data) != 0 || le.Uint32(data[8:]) != 9 || int(le.Uint32(data[12:])) != len(seed) || !bytes.Equal(data[16:], seed) {
		t.Errorf("setup data % x", data)
	}
}

func TestMemoryMaps(t *testing.T) {
	for _, tt := range []struct {
		size uint64
		want [][3]uint64
	}{
		{1 << 20, [][3]uint64{{0, 0x9_fc00, 1}, {0x9_fc00, 0x6_0400, 2}}},
		{3 << 30, [][3]uint64{{0, 0x9_fc00, 1}, {0x9_fc00, 0x6_0400, 2}, {0x10_0000, 3<<30 - 1<<20, 1}}},
		{5 << 30, [][3]uint64{{0, 0x9_fc00, 1}, {0x9_fc00, 0x6_0400, 2}, {0x10_0000, 3<<30 - 1<<20, 1}, {4 << 30, 2 << 30, 1}}},
	} {
		mem, err := memory.New(tt.size, memory.Options{})
		if errors.Is(err, memory.ErrHostMemory) {
			t.Logf("skipping %d MiB: %v", tt.size>>20, err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := Load(mem, Params{Kernel: flat("\xf4"), Protocol: ProtocolFlat64, FlatAddress: 0x1000})
		if err != nil {
			t.Fatal(err)
		}
		zp, err := mem.Slice(s.RSI, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, e820(zp)); diff != "" {
			t.Errorf("%d MiB: %s", tt.size>>20, diff)
		}
		if err := mem.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
