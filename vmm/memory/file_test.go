package memory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// patternFile is a file of n bytes, no two pages alike.
func patternFile(t testing.TB, n int) (*os.File, []byte) {
	t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + i>>12 + 1)
	}
	path := filepath.Join(t.TempDir(), "pattern")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, b
}

func mustSlice(t testing.TB, m *Memory, gpa uint64, n int) []byte {
	t.Helper()
	b, err := m.Slice(gpa, n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMapFile(t *testing.T) {
	const n = 40 * PageSize
	f, content := patternFile(t, n)
	m := newMemory(t, 1<<20, Options{})
	if err := m.MapFile(8*PageSize, f, PageSize, n-PageSize); err != nil {
		t.Fatal(err)
	}
	got := mustSlice(t, m, 8*PageSize, n-PageSize)
	if !bytes.Equal(got, content[PageSize:]) {
		t.Error("RAM has not what the file has")
	}
	if before := mustSlice(t, m, 0, 8*PageSize); !bytes.Equal(before, make([]byte, len(before))) {
		t.Error("RAM before the mapping changed")
	}

	// What the guest writes stays its own, and the file may be closed.
	got[0] ^= 0xff
	onDisk := make([]byte, 1)
	if _, err := f.ReadAt(onDisk, PageSize); err != nil {
		t.Fatal(err)
	}
	if onDisk[0] != content[PageSize] {
		t.Error("writing to RAM changed the file")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got[n-2*PageSize] != content[n-PageSize] {
		t.Error("the mapping went with the file")
	}
}

func TestMapFileSharesPageCache(t *testing.T) {
	f, _ := patternFile(t, 16*PageSize)
	m := newMemory(t, 1<<20, Options{})
	if err := m.MapFile(0, f, 0, 16*PageSize); err != nil {
		t.Fatal(err)
	}
	// A page of a private mapping that nobody wrote to is the file's page.
	if _, err := f.WriteAt([]byte("shared"), 5*PageSize); err != nil {
		t.Fatal(err)
	}
	if got := mustSlice(t, m, 5*PageSize, 6); string(got) != "shared" {
		t.Errorf("RAM has %q: it was copied", got)
	}
}

func TestFileErrors(t *testing.T) {
	const size = 20 * PageSize
	f, _ := patternFile(t, size)
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	closed, _ := patternFile(t, PageSize)
	closed.Close()

	m := newMemory(t, 1<<20, Options{})
	for _, tt := range []struct {
		name   string
		gpa    uint64
		f      *os.File
		off    int64
		n      uint64
		want   error
		mapped bool // an error for MapFile only
	}{
		{"address not a page", 1, f, 0, PageSize, ErrFile, true},
		{"offset not a page", 0, f, 1, PageSize, ErrFile, true},
		{"length not a page", 0, f, 0, 1, ErrFile, true},
		{"nothing", 0, f, 0, 0, ErrFile, true},
		{"longer than the file", 0, f, 0, size + PageSize, ErrFile, false},
		{"ends after the file", 0, f, PageSize, size, ErrFile, false},
		{"starts after the file", 0, f, size + PageSize, PageSize, ErrFile, false},
		{"negative offset", 0, f, -PageSize, PageSize, ErrFile, false},
		{"longest", 0, f, 0, math.MaxUint64 &^ (PageSize - 1), ErrFile, false},
		{"offset and length wrap", 0, f, math.MaxInt64 &^ (PageSize - 1), math.MaxUint64 &^ (PageSize - 1), ErrFile, false},
		{"past RAM", 1<<20 - PageSize, f, 0, size, ErrRange, false},
		{"in the hole", LowEnd, f, 0, size, ErrRange, false},
		{"address wraps", math.MaxUint64 &^ (PageSize - 1), f, 0, size, ErrRange, false},
		{"a directory", 0, dir, 0, PageSize, ErrFile, false},
		{"a pipe", 0, pipe, 0, PageSize, ErrFile, false},
		{"a closed file", 0, closed, 0, PageSize, os.ErrClosed, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := m.MapFile(tt.gpa, tt.f, tt.off, tt.n); !errors.Is(err, tt.want) {
				t.Errorf("MapFile: %v, want %v", err, tt.want)
			}
			for name, load := range map[string]func(uint64, *os.File, int64, uint64) error{"LoadFile": m.LoadFile, "CopyFile": m.CopyFile} {
				err := load(tt.gpa, tt.f, tt.off, tt.n)
				if tt.mapped && err != nil {
					t.Errorf("%s: %v", name, err)
				} else if !tt.mapped && !errors.Is(err, tt.want) {
					t.Errorf("%s: %v, want %v", name, err, tt.want)
				}
			}
		})
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for name, load := range map[string]func(uint64, *os.File, int64, uint64) error{"MapFile": m.MapFile, "LoadFile": m.LoadFile, "CopyFile": m.CopyFile} {
		if err := load(0, f, 0, size); !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

// TestCopiedFileMayBeCut is the reason for CopyFile: a mapped file that is cut
// takes the pages away.
func TestCopiedFileMayBeCut(t *testing.T) {
	const n = 64 * PageSize
	f, content := patternFile(t, n)
	m := newMemory(t, 1<<20, Options{})
	if err := m.CopyFile(0, f, 0, n); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mustSlice(t, m, 0, n), content) {
		t.Error("RAM changed with the file")
	}
}

// TestShrinkingFile cuts the file between the check and the reading.
func TestShrinkingFile(t *testing.T) {
	m := newMemory(t, 1<<20, Options{})
	err := m.CopyFrom(0, bytes.NewReader(make([]byte, 100)), "short", 0, 200)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if err := m.CopyFrom(0, bytes.NewReader(make([]byte, 200)), "exact", 0, 200); err != nil {
		t.Error(err)
	}
	if err := m.CopyFrom(0, bytes.NewReader(nil), "huge", 0, math.MaxUint64); !errors.Is(err, ErrRange) {
		t.Errorf("error %v", err)
	}
}

// TestMapFileFailureLeavesRAM maps from a descriptor that the kernel refuses,
// after which RAM must still be there.
func TestMapFileFailureLeavesRAM(t *testing.T) {
	f, content := patternFile(t, 32*PageSize)
	writeOnly, err := os.OpenFile(f.Name(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writeOnly.Close()
	m := newMemory(t, 1<<20, Options{})
	if err := m.MapFile(0, writeOnly, 0, 32*PageSize); !errors.Is(err, unix.EACCES) {
		t.Fatalf("mapping a write-only file: %v", err)
	}
	b := mustSlice(t, m, 0, 32*PageSize)
	b[0], b[len(b)-1] = 1, 2
	if err := m.loadFile(0, f, 0, 32*PageSize, PageSize); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, content) {
		t.Error("RAM has not what the file has")
	}
}

func TestLoadFileMapsOnlyLargeFiles(t *testing.T) {
	m := newMemory(t, 128<<20, Options{})
	for _, n := range []uint64{minMapped - PageSize, minMapped} {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "sparse"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(int64(n)); err != nil {
			t.Fatal(err)
		}
		if err := m.LoadFile(HugePageSize, f, 0, n); err != nil {
			t.Fatal(err)
		}
		// It shows only where nothing was copied.
		if _, err := f.WriteAt([]byte{1}, 0); err != nil {
			t.Fatal(err)
		}
		if mapped := mustSlice(t, m, HugePageSize, 1)[0] == 1; mapped != (n >= minMapped) {
			t.Errorf("%d bytes are mapped: %v", n, mapped)
		}
	}
}

// TestCopyPrefersHugePages: on hosts that use them only where they are asked for.
func TestCopyPrefersHugePages(t *testing.T) {
	const n = 2*HugePageSize + PageSize
	for _, tt := range []struct {
		name string
		opts Options
		want bool
	}{{"by default", Options{}, true}, {"unless forbidden", Options{Transparent: THPNever}, false}} {
		t.Run(tt.name, func(t *testing.T) {
			f, _ := patternFile(t, n)
			m := newMemory(t, 16*HugePageSize, tt.opts)
			if err := m.CopyFile(HugePageSize, f, 0, n); err != nil {
				t.Fatal(err)
			}
			b := mustSlice(t, m, HugePageSize, n)
			got, ok := mappingFlag(t, hostAddress(b), "hg")
			if !ok {
				t.Skip("this kernel has no transparent huge pages")
			}
			if got != tt.want {
				t.Errorf("huge pages are asked for: %v, want %v", got, tt.want)
			}
		})
	}
}

// mappingFlag looks up one of the VmFlags of the mapping at an address of this
// process. ok is false if the kernel knows no transparent huge pages.
func mappingFlag(t *testing.T, addr uintptr, flag string) (set, ok bool) {
	t.Helper()
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		return false, false
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	within := false
	for line := range strings.Lines(string(smaps)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			within = addr >= from && addr < to
		}
		if flags, found := strings.CutPrefix(line, "VmFlags:"); found && within {
			return slices.Contains(strings.Fields(flags), flag), true
		}
	}
	t.Fatalf("%#x is in no mapping", addr)
	return false, false
}

// TestLoadFileProperties compares LoadFile with a copy, for any alignment.
func TestLoadFileProperties(t *testing.T) {
	const size = 64 * PageSize
	f, content := patternFile(t, size+123)
	rapid.Check(t, func(t *rapid.T) {
		m, err := New(128*PageSize, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		all, err := m.Slice(0, 128*PageSize)
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			all[i] = 0xee
		}
		want := bytes.Clone(all)
		off := rapid.Uint64Range(0, size).Draw(t, "off")
		n := rapid.Uint64Range(0, uint64(len(content))-off).Draw(t, "n")
		gpa := rapid.Uint64Range(0, 32*PageSize).Draw(t, "gpa")
		if rapid.Bool().Draw(t, "congruent") {
			gpa = gpa&^(PageSize-1) | off%PageSize
		}
		load := func(gpa uint64, f *os.File, off int64, n uint64) error {
			return m.loadFile(gpa, f, off, n, 16*PageSize)
		}
		if rapid.Bool().Draw(t, "copy") {
			load = m.CopyFile
		}
		if err := load(gpa, f, int64(off), n); err != nil {
			t.Fatal(err)
		}
		copy(want[gpa:], content[off:off+n])
		if !bytes.Equal(all, want) {
			t.Fatalf("%#x from %#x, length %#x, is no copy", gpa, off, n)
		}
	})
}

func TestMappable(t *testing.T) {
	for _, tt := range []struct{ gpa, off, n, head, body uint64 }{
		{0, 0, PageSize, 0, PageSize},
		{0, 0, PageSize - 1, 0, 0},
		{0, 1, 10 * PageSize, 0, 0},
		{1, 1, PageSize - 1, PageSize - 1, 0},
		{1, 1, PageSize, PageSize - 1, 0},
		{1, 1, 2 * PageSize, PageSize - 1, PageSize},
		{PageSize + 1, 5*PageSize + 1, 2*PageSize - 1, PageSize - 1, PageSize},
	} {
		head, body := mappable(tt.gpa, tt.off, tt.n)
		if body != tt.body || (body > 0 && head != tt.head) {
			t.Errorf("mappable(%#x, %#x, %#x) = %#x, %#x, want %#x, %#x", tt.gpa, tt.off, tt.n, head, body, tt.head, tt.body)
		}
	}
}

func TestHugePages(t *testing.T) {
	const size = 4 * HugePageSize
	m, err := New(size, Options{HugePages: true})
	if errors.Is(err, ErrHostMemory) {
		t.Skipf("no huge pages reserved here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	f, content := patternFile(t, 32*PageSize)
	if err := m.MapFile(0, f, 0, 32*PageSize); !errors.Is(err, ErrFile) {
		t.Errorf("mapping over huge pages: %v", err)
	}
	if err := m.loadFile(0, f, 0, 32*PageSize, PageSize); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mustSlice(t, m, 0, 32*PageSize), content) {
		t.Error("RAM has not what the file has")
	}
}

func BenchmarkLoadFile(b *testing.B) {
	const size = 15 << 20
	f, _ := patternFile(b, size)
	for _, bb := range []struct {
		name string
		load func(*Memory, uint64, *os.File, int64, uint64) error
	}{{"mapped", (*Memory).MapFile}, {"copied", (*Memory).CopyFile}} {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				m, err := New(64<<20, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := bb.load(m, 16<<20, f, 0, size); err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
