package boot

import (
	"errors"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
)

// translate walks 4-level page tables in mem as a processor without 1 GiB
// pages does (Intel SDM vol. 3, 4.5.4).
func translate(t testing.TB, mem *memory.Memory, cr3, addr uint64) (phys uint64, ok bool) {
	t.Helper()
	table := cr3 &^ 0xfff
	for _, shift := range []uint{39, 30, 21, 12} {
		b, err := mem.Slice(table+addr>>shift%512*8, 8)
		if err != nil {
			t.Fatal(err)
		}
		e := le.Uint64(b)
		if e&pagePresent == 0 {
			return 0, false
		}
		if e&(pageWritable|pageUser) != pageWritable|pageUser {
			t.Fatalf("entry %#x for %#x is read-only or for the kernel only", e, addr)
		}
		base := e & 0x000f_ffff_ffff_f000
		if e&pageLarge != 0 {
			if shift != 21 {
				t.Fatalf("page of %d bytes for %#x", uint64(1)<<shift, addr)
			}
			if base&(1<<21-1) != 0 {
				t.Fatalf("reserved bits set in %#x", e)
			}
			return base | addr&(1<<21-1), true
		}
		table = base
	}
	return table | addr&0xfff, true
}

func TestPageTables(t *testing.T) {
	mem := newMemory(t, 64<<20)
	s, err := Load(mem, Params{Kernel: flat("\xf4"), Protocol: ProtocolFlat64, FlatAddress: 0x1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []uint64{0, 0x1000, StackTop - 8, 1<<20 + 17, memory.LowEnd, VirtioBase, LocalAPIC, 1<<32 - 1} {
		if phys, ok := translate(t, mem, s.CR3, addr); !ok || phys != addr {
			t.Errorf("%#x is mapped to %#x, %v", addr, phys, ok)
		}
	}
	for _, addr := range []uint64{1 << 32, 5 << 30, 1 << 39, 0xffff_8000_0000_0000} {
		if phys, ok := translate(t, mem, s.CR3, addr); ok {
			t.Errorf("%#x is mapped to %#x", addr, phys)
		}
	}
}

func TestPageTablesAbove4GiB(t *testing.T) {
	const size = 6 << 30
	mem, err := memory.New(size, memory.Options{})
	if errors.Is(err, memory.ErrHostMemory) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	const at = 6<<30 - 0x1000
	e := testELF{entry: at, segments: []testSegment{{paddr: at, vaddr: at, data: []byte("\xf4"), memsz: 0x2000}}}
	s, err := Load(mem, Params{Kernel: ReaderImage("high", e.reader(), e.size())})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []uint64{0, 0xffff_ffff, at, at + 0x1fff} { // over a GiB boundary
		if phys, ok := translate(t, mem, s.CR3, addr); !ok || phys != addr {
			t.Errorf("%#x is mapped to %#x, %v", addr, phys, ok)
		}
	}
	if _, ok := translate(t, mem, s.CR3, 4<<30); ok {
		t.Error("more is mapped than what is used")
	}
}

func TestTooManyPageDirectories(t *testing.T) {
	l := &loader{mem: newMemory(t, 1<<20)}
	if err := l.used.add(4<<30, 13<<30, "a wide kernel"); err != nil {
		t.Fatal(err)
	}
	if err := l.writePageTables(); !errors.Is(err, ErrNoRoom) {
		t.Errorf("error %v", err)
	}
	l.used = nil
	if err := l.used.add(512<<30, 1, "a far kernel"); err != nil {
		t.Fatal(err)
	}
	if err := l.writePageTables(); !errors.Is(err, ErrNoRoom) {
		t.Errorf("error %v", err)
	}
}
