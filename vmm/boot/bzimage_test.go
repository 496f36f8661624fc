package boot

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
)

// testBzImage makes a bzImage with the header fields of Linux 6.12 and a
// payload of size bytes.
func testBzImage(size int, patch func([]byte) []byte) []byte {
	const setup = 5 * bzSector // setup_sects 4
	size = (size + bzParagraph - 1) / bzParagraph * bzParagraph
	b := make([]byte, setup, setup+size)
	b[0x1ef] = 0xff // sentinel: a loader that copies it is clumsy
	b[hdrSetupSects] = 4
	le.PutUint32(b[hdrSyssize:], uint32(size/bzParagraph))
	le.PutUint16(b[hdrBootFlag:], 0xaa55)
	b[0x200], b[0x201] = 0xeb, 0x6a // jmp to 0x26c
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[hdrVersion:], 0x020f)
	b[hdrLoadflags] = loadflagLoadedHigh | loadflagUseHeap | loadflagQuiet
	le.PutUint16(b[hdrHeapEndPtr:], 0x1234)
	le.PutUint32(b[hdrInitrdAddrMax:], 0x7fff_ffff)
	le.PutUint32(b[hdrKernelAlignment:], 0x20_0000)
	b[0x234] = 1 // relocatable_kernel
	le.PutUint16(b[hdrXloadflags:], 0x7f)
	le.PutUint32(b[hdrCmdlineSize:], 2047)
	le.PutUint64(b[hdrSetupData:], 0x666) // must not be believed
	le.PutUint64(b[hdrPrefAddress:], 0x100_0000)
	le.PutUint32(b[hdrInitSize:], 0x40_0000)
	b = append(b, bytes.Repeat([]byte("0123456789abcdef"), size/bzParagraph)...)
	if patch != nil {
		b = patch(b)
	}
	return b
}

func bzImage(b []byte) Image { return ReaderImage("bzImage", bytes.NewReader(b), int64(len(b))) }

func TestBzImage(t *testing.T) {
	file := testBzImage(0x3_0000, nil)
	for name, im := range map[string]Image{"mapped": fileImage(t, file), "read": bzImage(file)} {
		t.Run(name, func(t *testing.T) {
			mem := newMemory(t, 64<<20)
			s, err := Load(mem, Params{Kernel: im, CommandLine: "quiet"})
			if err != nil {
				t.Fatal(err)
			}
			if s.Protocol != ProtocolBzImage || s.Mode != Long64 || s.RIP != 0x100_0200 || s.RSI != ZeroPage {
				t.Errorf("state %+v", s)
			}
			got, err := mem.Slice(0x100_0000, 0x3_0010)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[:0x3_0000], file[5*bzSector:]) || !bytes.Equal(got[0x3_0000:], make([]byte, 16)) {
				t.Error("the protected-mode part is not at 16 MiB")
			}
			zp, err := mem.Slice(ZeroPage, 4096)
			if err != nil {
				t.Fatal(err)
			}
			// Offsets from Documentation/arch/x86/boot.rst.
			if zp[0x1ef] != 0 {
				t.Error("sentinel was copied")
			}
			if string(zp[0x202:0x206]) != "HdrS" || le.Uint16(zp[0x206:]) != 0x20f || le.Uint64(zp[0x258:]) != 0x100_0000 || le.Uint32(zp[0x260:]) != 0x40_0000 {
				t.Error("the setup header was not copied")
			}
			if zp[0x210] != 0xff || zp[0x211] != 1 || le.Uint16(zp[0x224:]) != 0 || le.Uint16(zp[0x1fa:]) != 0xffff {
				t.Errorf("loader %#x, flags %#x, heap %#x", zp[0x210], zp[0x211], le.Uint16(zp[0x224:]))
			}
			if le.Uint32(zp[0x228:]) != CommandLine || le.Uint64(zp[0x250:]) != 0 || le.Uint32(zp[0x214:]) != 0x100_0000 {
				t.Errorf("command line at %#x, setup data at %#x, code32_start %#x", le.Uint32(zp[0x228:]), le.Uint64(zp[0x250:]), le.Uint32(zp[0x214:]))
			}
			if !bytes.Equal(zp[0x26c:0x290], make([]byte, 0x24)) {
				t.Error("more than the setup header was copied")
			}
		})
	}
}

func TestBadBzImage(t *testing.T) {
	put := func(off int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[off:], v); return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	for _, tt := range []struct {
		name  string
		patch func([]byte) []byte
		want  error
		says  string
	}{
		{"header cut", cut(0x240), ErrTruncated, "headers"},
		{"payload cut", cut(0x2000), ErrTruncated, "promises"},
		{"last byte cut", cut(5*bzSector + 0x2fff), ErrTruncated, "promises"},
		{"no boot flag", put(hdrBootFlag, 0, 0), ErrNotKernel, "setup header"},
		{"protocol 2.11", put(hdrVersion, 0x0b, 2), ErrUnsupported, "2.11"},
		{"protocol 1.00", put(hdrVersion, 0, 1), ErrUnsupported, "1.00"},
		{"zImage", put(hdrLoadflags, 0), ErrUnsupported, "zImage"},
		{"no 64-bit entry", put(hdrXloadflags, 0x7e, 0), ErrUnsupported, "no 64-bit entry"},
		{"header too short", put(0x201, 0x10), ErrMalformed, "header ends"},
		{"header too long", put(0x201, 0xff), ErrMalformed, "header ends"},
		{"setup_sects 255", put(hdrSetupSects, 255), ErrTruncated, "promises"},
		{"setup_sects 0 is 4", put(hdrSetupSects, 0), nil, ""},
		{"setup_sects into the header", put(hdrSetupSects, 0xff), ErrTruncated, "promises"},
		{"syssize 0", put(hdrSyssize, 0, 0, 0, 0), ErrMalformed, "no kernel"},
		{"syssize before the entry", put(hdrSyssize, 0x20, 0, 0, 0), ErrMalformed, "no kernel"},
		{"syssize 2^32-1", put(hdrSyssize, 0xff, 0xff, 0xff, 0xff), ErrTruncated, "promises"},
		{"prefers 0", put(hdrPrefAddress, 0, 0, 0, 0), ErrMalformed, "pref_address"},
		{"prefers the boot structures", put(hdrPrefAddress, 0, 0, 1, 0), ErrMalformed, "pref_address"},
		{"prefers the hole", put(hdrPrefAddress, 0, 0, 0, 0xd0), ErrNoRoom, "has 64 MiB"},
		{"prefers 2^64", put(hdrPrefAddress, 0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), ErrNoRoom, "has 64 MiB"},
		{"init_size past memory", put(hdrInitSize, 0, 0, 0, 4), ErrNoRoom, "unpack itself"},
		{"init_size 2^32-1", put(hdrInitSize, 0xff, 0xff, 0xff, 0xff), ErrNoRoom, "unpack itself"},
		{"init_size 0", put(hdrInitSize, 0, 0, 0, 0), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(newMemory(t, 64<<20), Params{Kernel: bzImage(testBzImage(0x3000, tt.patch))})
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v saying %q", err, tt.want, tt.says)
			}
		})
	}
}

func TestBzImageLimits(t *testing.T) {
	put32 := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint32(b[off:], v); return b }
	}
	initrd := ReaderImage("initrd", strings.NewReader("070701"), 6)

	short := Params{Kernel: bzImage(testBzImage(0x3000, put32(hdrCmdlineSize, 10))), CommandLine: "0123456789", Platform: PlatformNone}
	if _, err := Load(newMemory(t, 64<<20), short); err != nil {
		t.Error(err)
	}
	short.CommandLine += "x"
	if _, err := Load(newMemory(t, 64<<20), short); !errors.Is(err, ErrCommandLine) {
		t.Errorf("command line of 11 bytes for 10: %v", err)
	}

	// The last byte of the initrd may be at initrd_addr_max.
	low := Params{Kernel: bzImage(testBzImage(0x3000, put32(hdrInitrdAddrMax, 0x30_0fff))), Initrd: []Image{initrd}}
	s, err := Load(newMemory(t, 64<<20), low)
	if err != nil {
		t.Fatal(err)
	}
	if s.InitrdAddr != 0x30_0000 || s.InitrdSize != 6 {
		t.Errorf("initrd at %#x+%#x", s.InitrdAddr, s.InitrdSize)
	}
	low.Kernel = bzImage(testBzImage(0x3000, put32(hdrInitrdAddrMax, HighMemory)))
	if _, err := Load(newMemory(t, 64<<20), low); !errors.Is(err, ErrNoRoom) {
		t.Errorf("no room below initrd_addr_max: %v", err)
	}
	low.Kernel = bzImage(testBzImage(0x3000, put32(hdrInitrdAddrMax, 0xffff_ffff)))
	s, err = Load(newMemory(t, 64<<20), low)
	if err != nil {
		t.Fatal(err)
	}
	if s.InitrdAddr != 64<<20-memory.PageSize {
		t.Errorf("initrd at %#x, want the last page of RAM", s.InitrdAddr)
	}
}
