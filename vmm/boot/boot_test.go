package boot

import (
	"errors"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
)

func newMemory(t testing.TB, size uint64) *memory.Memory {
	t.Helper()
	m, err := memory.New(size, memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func openImage(t testing.TB, path string) Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	im, err := FileImage(f)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestBadParams(t *testing.T) {
	device := func(base, size uint64, gsi uint32) Params {
		return Params{Devices: []Device{{Base: base, Size: size, GSI: gsi}}}
	}
	for _, tt := range []struct {
		name string
		p    Params
	}{
		{"65 vCPUs", Params{APICIDs: make([]uint32, 65)}},
		{"1000 vCPUs", Params{APICIDs: make([]uint32, 1000)}},
		{"the same APIC ID twice", Params{APICIDs: []uint32{0, 1, 1}}},
		{"the broadcast APIC ID", Params{APICIDs: []uint32{255}}},
		{"APIC ID 2^32-1", Params{APICIDs: []uint32{math.MaxUint32}}},
		{"too many devices", Params{Devices: make([]Device, MaxDevices+1)}},
		{"device in RAM", device(0x10_0000, 0x1000, 5)},
		{"device of no size", device(VirtioBase, 0, 5)},
		{"device not on a page", device(VirtioBase+8, 0x1000, 5)},
		{"device over the IOAPIC", device(IOAPIC-0x1000, 0x2000, 5)},
		{"device above 4 GiB", device(1<<32, 0x1000, 5)},
		{"device wraps", device(1<<64-0x1000, 0x2000, 5)},
		{"device of 2^64-1 bytes", device(VirtioBase, math.MaxUint64, 5)},
		{"GSI 24", device(VirtioBase, 0x1000, 24)},
		{"seed of 31 bytes", Params{RandomSeed: make([]byte, 31)}},
		{"seed of 65 bytes", Params{RandomSeed: make([]byte, 65)}},
		{"platform", Params{Platform: "devicetree"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.p.Kernel = simple().image()
			if _, err := Load(newMemory(t, 16<<20), tt.p); !errors.Is(err, ErrParams) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestMemoryTooSmall(t *testing.T) {
	for _, size := range []uint64{4096, 64 << 10, 1<<20 - 4096} {
		if _, err := Load(newMemory(t, size), Params{Kernel: simple().image()}); !errors.Is(err, ErrNoRoom) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	m, err := memory.New(16<<20, memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(m, Params{Kernel: simple().image()}); !errors.Is(err, memory.ErrClosed) {
		t.Errorf("closed memory: %v", err)
	}
}

func TestFlat(t *testing.T) {
	for _, tt := range []struct {
		protocol Protocol
		addr     uint64
		want     error
		mode     Mode
		rip, cs  uint64
	}{
		{ProtocolFlat64, 0x1000, nil, Long64, 0x1000, 0},
		{ProtocolFlat64, 0x7c00, nil, Long64, 0x7c00, 0},
		{ProtocolFlat32, 0x10_0000, nil, Protected32, 0x10_0000, 0},
		{ProtocolFlat16, 0x7c00, nil, Real16, 0x7c00, 0},
		{ProtocolFlat16, ZeroPage, nil, Real16, 0, ZeroPage},
		{ProtocolFlat16, 0x10_0000, ErrParams, 0, 0, 0},
		{ProtocolFlat16, 0x1_0001, ErrParams, 0, 0, 0},
		{ProtocolFlat64, ZeroPage, ErrOverlap, 0, 0, 0},
		{ProtocolFlat64, 1 << 32, ErrParams, 0, 0, 0},
		{ProtocolFlat64, 16<<20 - 1, ErrNoRoom, 0, 0, 0},
		{ProtocolFlat64, memory.LowEnd, ErrNoRoom, 0, 0, 0},
	} {
		t.Run(fmt.Sprintf("%s at %#x", tt.protocol, tt.addr), func(t *testing.T) {
			mem := newMemory(t, 16<<20)
			s, err := Load(mem, Params{Kernel: flat("\xf4\xeb\xfd"), Protocol: tt.protocol, FlatAddress: tt.addr})
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if s.Mode != tt.mode || s.RIP != tt.rip || s.CS.Base != tt.cs || uint64(s.CS.Selector)*16 != tt.cs && tt.mode == Real16 {
				t.Errorf("state %+v", s)
			}
			if b, err := mem.Slice(tt.addr, 3); err != nil || string(b) != "\xf4\xeb\xfd" {
				t.Errorf("% x, %v", b, err)
			}
		})
	}
	for name, im := range map[string]Image{"empty": flat(""), "large": ReaderImage("large", nil, 1<<40)} {
		_, err := Load(newMemory(t, 16<<20), Params{Kernel: im, Protocol: ProtocolFlat64})
		if !errors.Is(err, ErrNotKernel) && !errors.Is(err, ErrParams) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestModeNames(t *testing.T) {
	for m, want := range map[Mode]string{Real16: "16-bit real mode", Protected32: "32-bit protected mode", Long64: "64-bit mode", -1: "mode -1", 3: "mode 3"} {
		if got := m.String(); got != want {
			t.Errorf("%d: %q, want %q", int(m), got, want)
		}
	}
}
