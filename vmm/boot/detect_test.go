package boot

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestNotAKernel(t *testing.T) {
	sector := make([]byte, 512)
	sector[510], sector[511] = 0x55, 0xaa
	arm := make([]byte, 64)
	copy(arm[56:], "ARM\x64")
	for _, tt := range []struct{ name, content, says string }{
		{"empty", "", "empty"},
		{"one byte", "x", "neither an ELF file nor a bzImage"},
		{"text", strings.Repeat("hello ", 1000), "neither"},
		{"zeros", string(make([]byte, 1<<16)), "neither"},
		{"gzip", "\x1f\x8b\x08", "gzip"},
		{"zstd", "\x28\xb5\x2f\xfd......", "zstd"},
		{"xz", "\xfd7zXZ\x00....", "xz"},
		{"lz4", "\x02\x21\x4c\x18....", "LZ4"},
		{"initrd", "070701000000", "cpio"},
		{"script", "#!/bin/sh\n", "script"},
		{"arm64", string(arm), "arm64"},
		{"boot sector", string(sector), "boot sector"},
		{"part of the ELF magic", "\x7fEL", "neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, protocol := range []Protocol{ProtocolAuto, ProtocolELF, ProtocolPVH, ProtocolBzImage} {
				_, err := Load(newMemory(t, 16<<20), Params{Kernel: flat(tt.content), Protocol: protocol})
				if !errors.Is(err, ErrNotKernel) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%q: error %v, want one saying %q", protocol, err, tt.says)
				}
			}
		})
	}
}

func TestWrongProtocol(t *testing.T) {
	elf, bz := simple().image(), bzImage(testBzImage(0x3000, nil))
	for _, tt := range []struct {
		name     string
		kernel   Image
		protocol Protocol
		want     error
	}{
		{"ELF as bzImage", elf, ProtocolBzImage, ErrUnsupported},
		{"bzImage as ELF", bz, ProtocolELF, ErrUnsupported},
		{"bzImage as PVH", bz, ProtocolPVH, ErrUnsupported},
		{"unknown", elf, "multiboot", ErrParams},
		{"no kernel", Image{}, ProtocolAuto, ErrParams},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Load(newMemory(t, 64<<20), Params{Kernel: tt.kernel, Protocol: tt.protocol}); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestImages(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := FileImage(dir); !errors.Is(err, ErrParams) {
		t.Errorf("a directory: %v", err)
	}
	path := t.TempDir() + "/f"
	if err := os.WriteFile(path, []byte("xx0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := FileSectionImage(f, 2, 10)
	if err != nil || im.Size() != 10 || im.Name() != path {
		t.Fatalf("%+v, %v", im, err)
	}
	if b, err := im.read(3, 4); err != nil || string(b) != "3456" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := im.read(8, 3); !errors.Is(err, ErrTruncated) {
		t.Errorf("past the end: %v", err)
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, -1}, {0, 13}, {13, 0}, {1 << 62, 1 << 62}} {
		if _, err := FileSectionImage(f, bad[0], bad[1]); !errors.Is(err, ErrParams) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	// A section is mapped from where it starts.
	e := simple().bytes()
	whole := append(make([]byte, 4096), e...)
	if err := os.WriteFile(path, append(whole, "trailer"...), 0o600); err != nil {
		t.Fatal(err)
	}
	im, err = FileSectionImage(f, 4096, int64(len(e)))
	if err != nil {
		t.Fatal(err)
	}
	mem := newMemory(t, 16<<20)
	if _, err := Load(mem, Params{Kernel: im}); err != nil {
		t.Fatal(err)
	}
	if b, err := mem.Slice(0x10_0000, 8); err != nil || string(b) != "codecode" {
		t.Errorf("%q, %v", b, err)
	}
}
