package boot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
)

// distroKernel is a distribution's kernel on this host, a bzImage.
func distroKernel(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil || len(found) == 0 {
		t.Skip("no /boot/vmlinuz-* on this host")
	}
	return found[len(found)-1]
}

// builtKernel is hull's own kernel, an ELF file with a PVH note.
func builtKernel(t testing.TB) string {
	t.Helper()
	const path = "../../build/kernel/vmlinux"
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		t.Skip("build/kernel/vmlinux is not built (make kernel)")
	}
	return path
}

func TestDistroKernel(t *testing.T) {
	s, err := Load(newMemory(t, 256<<20), Params{Kernel: openImage(t, distroKernel(t)), CommandLine: "console=ttyS0"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Protocol != ProtocolBzImage || s.RIP%0x1000 != bzEntry64 {
		t.Errorf("state %+v", s)
	}
	if _, err := Load(newMemory(t, 32<<20), Params{Kernel: openImage(t, distroKernel(t))}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("in 32 MiB: %v", err)
	}
}

func TestBuiltKernel(t *testing.T) {
	im := openImage(t, builtKernel(t))
	for protocol, want := range map[Protocol]Mode{ProtocolAuto: Long64, ProtocolELF: Long64, ProtocolPVH: Protected32} {
		s, err := Load(newMemory(t, 128<<20), Params{Kernel: im, Protocol: protocol})
		if err != nil {
			t.Fatal(err)
		}
		if s.Mode != want || s.RIP < 16<<20 || s.RIP >= 64<<20 {
			t.Errorf("%q: state %+v", protocol, s)
		}
	}
}

// syntheticKernel is an ELF file of 15 MB, as hull's own is.
func syntheticKernel(b *testing.B) Image {
	return fileImage(b, testELF{entry: 0x100_0000, segments: []testSegment{
		{paddr: 0x100_0000, data: make([]byte, 11<<20)},
		{paddr: 0x200_0000, data: make([]byte, 3<<20)},
		{paddr: 0x230_0000, data: make([]byte, 1<<20), memsz: 3 << 20},
	}}.bytes())
}

// BenchmarkLoad is all of the loader's work for a VM, without creating and
// freeing its memory: kernel, initrd of 4 MB, ACPI for 4 vCPUs and 5 devices.
func BenchmarkLoad(b *testing.B) {
	for _, bb := range []struct {
		name   string
		kernel func(b *testing.B) Image
		p      Params
	}{
		{"ELF 15 MB", syntheticKernel, Params{}},
		{"ELF 15 MB, MP table", syntheticKernel, Params{Platform: PlatformMPTable}},
		{"ELF 15 MB, copied", syntheticKernel, Params{CopyFiles: true}},
		{"own kernel", func(b *testing.B) Image { return openImage(b, builtKernel(b)) }, Params{}},
		{"own kernel, PVH", func(b *testing.B) Image { return openImage(b, builtKernel(b)) }, Params{Protocol: ProtocolPVH}},
		{"distribution's bzImage", func(b *testing.B) Image { return openImage(b, distroKernel(b)) }, Params{}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p := bb.p
			p.Kernel = bb.kernel(b)
			p.Initrd = []Image{fileImage(b, make([]byte, 4<<20))}
			p.APICIDs, p.Devices, p.Serial, p.PVPanic = []uint32{0, 1, 2, 3}, aMachine(1, 5).Devices, true, true
			p.RandomSeed = make([]byte, 64)
			for b.Loop() {
				b.StopTimer()
				mem, err := memory.New(512<<20, memory.Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := Load(mem, p); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := mem.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
