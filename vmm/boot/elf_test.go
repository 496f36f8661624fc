package boot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
	"pgregory.net/rapid"
)

// testELF makes an ELF64 executable.
type testELF struct {
	entry    uint64
	segments []testSegment
	patch    func(file []byte) []byte // last change, to break it
}

type testSegment struct {
	kind         uint32 // 0 is PT_LOAD
	vaddr, paddr uint64
	data         []byte
	memsz        uint64 // 0 is len(data)
	off          uint64 // in the file; 0 is the next free page with paddr's offset in it
}

func (e testELF) bytes() []byte {
	var file []byte
	put := func(off uint64, b []byte) {
		if end := off + uint64(len(b)); end > uint64(len(file)) {
			file = append(file, make([]byte, end-uint64(len(file)))...)
		}
		copy(file[off:], b)
	}
	h := make([]byte, elfHeaderSize)
	copy(h, elfMagic+"\x02\x01\x01")
	le.PutUint16(h[16:], etExec)
	le.PutUint16(h[18:], emX8664)
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], e.entry)
	le.PutUint64(h[32:], elfHeaderSize)
	le.PutUint16(h[52:], elfHeaderSize)
	le.PutUint16(h[54:], elfProgramSize)
	le.PutUint16(h[56:], uint16(len(e.segments)))
	put(0, h)
	next := uint64(0x1000)
	for i, s := range e.segments {
		p := make([]byte, elfProgramSize)
		kind := max(s.kind, ptLoad)
		off := s.off
		if off == 0 {
			off = next + s.paddr%0x1000
		}
		le.PutUint32(p[0:], kind)
		le.PutUint64(p[8:], off)
		le.PutUint64(p[16:], s.vaddr)
		le.PutUint64(p[24:], s.paddr)
		le.PutUint64(p[32:], uint64(len(s.data)))
		le.PutUint64(p[40:], max(s.memsz, uint64(len(s.data))))
		le.PutUint64(p[48:], 4)
		put(elfHeaderSize+uint64(i)*elfProgramSize, p)
		put(off, s.data)
		next = alignUp(max(next, off+uint64(len(s.data))), 0x1000)
	}
	if e.patch != nil {
		file = e.patch(file)
	}
	return file
}

func (e testELF) reader() *bytes.Reader { return bytes.NewReader(e.bytes()) }
func (e testELF) size() int64           { return int64(len(e.bytes())) }
func (e testELF) image() Image          { return ReaderImage("test.elf", e.reader(), e.size()) }

func flat(code string) Image { return ReaderImage("flat", strings.NewReader(code), int64(len(code))) }

// fileImage is the bytes in a file, to be mapped.
func fileImage(t testing.TB, b []byte) Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return openImage(t, path)
}

func programHeader(file []byte, i int) []byte {
	return file[elfHeaderSize+i*elfProgramSize:][:elfProgramSize]
}

// simple is an ELF file with code at 1 MiB and data with bss behind it.
func simple() testELF {
	return testELF{entry: 0x10_0000, segments: []testSegment{
		{paddr: 0x10_0000, vaddr: 0xffff_ffff_8000_0000, data: bytes.Repeat([]byte("code"), 40<<10)},
		{paddr: 0x20_0123, vaddr: 0xffff_ffff_8010_0123, data: bytes.Repeat([]byte("data"), 30<<10), memsz: 0x5_0000},
	}}
}

func TestELF(t *testing.T) {
	e := simple()
	for name, im := range map[string]Image{"mapped": fileImage(t, e.bytes()), "read": e.image()} {
		t.Run(name, func(t *testing.T) {
			mem := newMemory(t, 16<<20)
			s, err := Load(mem, Params{Kernel: im, Platform: PlatformNone})
			if err != nil {
				t.Fatal(err)
			}
			if s.Protocol != ProtocolELF || s.Mode != Long64 || s.RIP != 0x10_0000 || s.RSI != ZeroPage {
				t.Errorf("state %+v", s)
			}
			for _, seg := range e.segments {
				b, err := mem.Slice(seg.paddr, int(max(seg.memsz, uint64(len(seg.data)))))
				if err != nil {
					t.Fatal(err)
				}
				bss := b[len(seg.data):]
				if !bytes.Equal(b[:len(seg.data)], seg.data) || !bytes.Equal(bss, make([]byte, len(bss))) {
					t.Errorf("segment at %#x is wrong", seg.paddr)
				}
			}
		})
	}
}

func TestELFEntry(t *testing.T) {
	for _, tt := range []struct {
		name  string
		entry uint64
		want  uint64 // 0 is an error
	}{
		{"physical", 0x10_0040, 0x10_0040},
		{"virtual", 0xffff_ffff_8000_0040, 0x10_0040},
		{"virtual, in the other segment", 0xffff_ffff_8010_0123, 0x20_0123},
		{"the last byte", 0x20_0123 + 0x5_0000 - 1, 0x20_0123 + 0x5_0000 - 1},
		{"after the last byte", 0x20_0123 + 0x5_0000, 0},
		{"zero", 0, 0},
		{"before", 0x0f_ffff, 0},
		{"highest", 1<<64 - 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := simple()
			e.entry = tt.entry
			s, err := Load(newMemory(t, 16<<20), Params{Kernel: e.image()})
			switch {
			case tt.want == 0:
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("error %v", err)
				}
			case err != nil:
				t.Error(err)
			case s.RIP != tt.want:
				t.Errorf("starts at %#x, want %#x", s.RIP, tt.want)
			}
		})
	}
}

func TestBadELF(t *testing.T) {
	put64 := func(i, off int, v uint64) func([]byte) []byte {
		return func(f []byte) []byte { le.PutUint64(programHeader(f, i)[off:], v); return f }
	}
	header := func(off int, v ...byte) func([]byte) []byte {
		return func(f []byte) []byte { copy(f[off:], v); return f }
	}
	cut := func(n int) func([]byte) []byte { return func(f []byte) []byte { return f[:n] } }
	for _, tt := range []struct {
		name  string
		patch func([]byte) []byte
		want  error
		says  string
	}{
		{"header cut", cut(40), ErrTruncated, "ELF header"},
		{"program headers cut", cut(elfHeaderSize + 60), ErrTruncated, "program headers"},
		{"segment cut", cut(0x2000), ErrTruncated, "segment 0"},
		{"32-bit", header(eiClass, 1), ErrUnsupported, "not a 64-bit"},
		{"no class", header(eiClass, 0), ErrUnsupported, "not a 64-bit"},
		{"big endian", header(eiData, 2), ErrUnsupported, "another kind of processor"},
		{"arm64", header(18, 183), ErrUnsupported, "another kind of processor"},
		{"object file", header(16, 1), ErrNotKernel, "link it"},
		{"core", header(16, 4), ErrNotKernel, "not an executable"},
		{"no program headers", header(56, 0, 0), ErrNotKernel, "without program headers"},
		{"65535 program headers", header(56, 0xff, 0xff), ErrMalformed, "65535"},
		{"129 program headers", header(56, 129, 0), ErrMalformed, "129"},
		{"short program headers", header(54, 55, 0), ErrMalformed, "55 bytes"},
		{"program headers after the file", header(32, 0, 0, 0, 0x7f), ErrTruncated, "program headers"},
		{"program headers wrap", header(32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), ErrTruncated, "program headers"},
		{"nothing to load", func(f []byte) []byte {
			programHeader(f, 0)[0], programHeader(f, 1)[0] = 0, 6
			return f
		}, ErrNotKernel, "nothing in it"},
		{"file offset wraps", put64(0, 8, 1<<64-1), ErrTruncated, "segment 0"},
		{"file size wraps", put64(1, 32, 1<<64-1), ErrTruncated, "segment 1"},
		{"more in file than memory", put64(1, 40, 16), ErrMalformed, "more bytes in the file"},
		{"address wraps", put64(1, 24, 1<<64-16), ErrMalformed, "wrap around"},
		{"memory size wraps", put64(1, 40, 1<<64-1), ErrMalformed, "wrap around"},
		{"past memory", put64(1, 24, 16<<20), ErrNoRoom, "has 16 MiB"},
		{"over the end of memory", put64(1, 40, 16<<20), ErrNoRoom, "segment 1"},
		{"in the hole", put64(1, 24, memory.LowEnd), ErrNoRoom, "segment 1"},
		{"over each other", put64(1, 24, 0x10_1000), ErrOverlap, "segment 0"},
		{"same place", put64(1, 24, 0x10_0000), ErrOverlap, "segment 0"},
		{"over the zero page", put64(1, 24, 0), ErrOverlap, "the descriptor table"},
		{"over the page tables", put64(1, 24, PageTables+8), ErrOverlap, "page tables"},
		{"over the ACPI tables", put64(1, 24, ACPITables-0x100), ErrOverlap, "ACPI tables"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := simple()
			e.patch = tt.patch
			for name, im := range map[string]Image{"mapped": fileImage(t, e.bytes()), "read": e.image()} {
				_, err := Load(newMemory(t, 16<<20), Params{Kernel: im})
				if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s: error %v, want %v saying %q", name, err, tt.want, tt.says)
				}
			}
		})
	}
}

// TestELFProperties loads random segments, mapped and read, and compares all
// of memory with what must be there.
func TestELFProperties(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		const ram = 2 << 20
		e := testELF{}
		want := make([]byte, ram)
		next := uint64(HighMemory)
		for i := range rapid.IntRange(1, 4).Draw(rt, "segments") {
			next += rapid.Uint64Range(0, 0x3000).Draw(rt, "gap")
			n := rapid.IntRange(0, 0x1_8000).Draw(rt, "filesz")
			s := testSegment{
				paddr: next, vaddr: next + 1<<40,
				data:  bytes.Repeat([]byte{byte(i + 1), byte(n), 0x55}, n/3+1)[:n],
				memsz: uint64(n) + rapid.Uint64Range(0, 0x8000).Draw(rt, "bss"),
			}
			if rapid.Bool().Draw(rt, "unaligned in the file") {
				s.off = 0x1000 + uint64(i)*0x2_0000 + rapid.Uint64Range(0, 0xfff).Draw(rt, "off")
			} else {
				s.off = 0x1000 + uint64(i)*0x2_0000 + s.paddr%0x1000
			}
			copy(want[s.paddr:], s.data)
			next += s.memsz
			e.segments = append(e.segments, s)
		}
		e.segments[0].memsz++ // has a byte for the entry point
		e.entry = e.segments[0].paddr
		if len(e.segments) > 1 && e.segments[0].paddr+e.segments[0].memsz > e.segments[1].paddr {
			e.segments[0].memsz--
		}
		if e.segments[0].memsz == 0 {
			return
		}
		path := filepath.Join(dir, "image")
		// Bytes after a segment in the file must not get into its bss.
		if err := os.WriteFile(path, append(e.bytes(), bytes.Repeat([]byte{0xaa}, 0x2000)...), 0o600); err != nil {
			rt.Fatal(err)
		}
		for _, copyFiles := range []bool{false, true} {
			f, err := os.Open(path)
			if err != nil {
				rt.Fatal(err)
			}
			im, err := FileImage(f)
			if err != nil {
				rt.Fatal(err)
			}
			mem, err := memory.New(ram, memory.Options{})
			if err != nil {
				rt.Fatal(err)
			}
			_, err = Load(mem, Params{Kernel: im, CopyFiles: copyFiles})
			f.Close()
			if err != nil {
				rt.Fatal(err)
			}
			got, err := mem.Slice(HighMemory, ram-HighMemory)
			if err != nil {
				rt.Fatal(err)
			}
			same := bytes.Equal(got, want[HighMemory:])
			if err := mem.Close(); err != nil {
				rt.Fatal(err)
			}
			if !same {
				rt.Fatalf("memory differs (copied: %v)", copyFiles)
			}
		}
	})
}
