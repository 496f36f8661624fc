package boot

import (
	"os"
	"path/filepath"
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

// distroKernel is a distribution's kernel on this host.
func distroKernel(t testing.TB) Image {
	t.Helper()
	found, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil || len(found) == 0 {
		t.Skip("no /boot/vmlinuz-* on this host to load")
	}
	return openImage(t, found[len(found)-1])
}

func TestLoadDistroKernel(t *testing.T) {
	kernel := distroKernel(t)
	mem := newMemory(t, 256<<20)
	s, err := Load(mem, Params{Kernel: kernel, CommandLine: "console=ttyS0"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Protocol != ProtocolBzImage || s.Mode != Long64 || s.RIP%0x1000 != bzEntry64 || s.RSI != ZeroPage {
		t.Errorf("state %+v", s)
	}
}
