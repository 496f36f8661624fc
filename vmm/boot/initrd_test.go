package boot

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
)

func TestInitrds(t *testing.T) {
	first := bytes.Repeat([]byte("070701 first "), 10_000)
	second := bytes.Repeat([]byte("\x28\xb5\x2f\xfd second "), 9_000)
	third := []byte("070701 third")
	exact := append([]byte("070701"), make([]byte, memory.PageSize-6)...) // a page
	files := [][]byte{first, second, exact, third}

	mem := newMemory(t, 64<<20)
	p := Params{Kernel: simple().image()}
	for i, b := range files {
		im := fileImage(t, b)
		if i%2 == 1 {
			im = ReaderImage("read", bytes.NewReader(b), int64(len(b)))
		}
		p.Initrd = append(p.Initrd, im)
	}
	s, err := Load(mem, p)
	if err != nil {
		t.Fatal(err)
	}
	if s.InitrdAddr%memory.PageSize != 0 || s.InitrdAddr+s.InitrdSize > 64<<20 || 64<<20-(s.InitrdAddr+s.InitrdSize) >= memory.PageSize {
		t.Errorf("initrd at %#x+%#x, not at the end of RAM", s.InitrdAddr, s.InitrdSize)
	}
	all, err := mem.Slice(s.InitrdAddr, int(s.InitrdSize))
	if err != nil {
		t.Fatal(err)
	}
	// As Linux reads it: archives with zero bytes between, each at a multiple
	// of 4 (here: of the page), at least initrdGap of them.
	off := 0
	for i, b := range files {
		if off%memory.PageSize != 0 || !bytes.HasPrefix(all[off:], b) {
			t.Fatalf("file %d is not at %#x", i, off)
		}
		off += len(b)
		gap := 0
		for off < len(all) && all[off] == 0 {
			off++
			gap++
		}
		if last := i == len(files)-1; !last && gap < initrdGap || last && gap != 0 {
			t.Errorf("%d zero bytes after file %d", gap, i)
		}
	}
	if off != len(all) {
		t.Errorf("%d bytes after the last file", len(all)-off)
	}
}

func TestInitrdAroundKernel(t *testing.T) {
	// The kernel takes the end of RAM: the initrd goes below it.
	e := testELF{entry: 0xf0_0000, segments: []testSegment{{paddr: 0xf0_0000, data: []byte("\xf4"), memsz: 1 << 20}}}
	s, err := Load(newMemory(t, 16<<20), Params{Kernel: e.image(), Initrd: []Image{flat("070701")}})
	if err != nil {
		t.Fatal(err)
	}
	if s.InitrdAddr != 0xf0_0000-memory.PageSize {
		t.Errorf("initrd at %#x", s.InitrdAddr)
	}
}

func TestBadInitrd(t *testing.T) {
	sized := func(n int64) Image { return ReaderImage("big", strings.NewReader(strings.Repeat("x", 64)), n) }
	for _, tt := range []struct {
		name   string
		initrd []Image
		want   error
		says   string
	}{
		{"empty", []Image{flat("")}, ErrInitrd, "empty"},
		{"none given", []Image{{}}, ErrInitrd, "empty"},
		{"second empty", []Image{flat("070701"), flat("")}, ErrInitrd, "initrd 1"},
		{"larger than memory", []Image{sized(17 << 20)}, ErrNoRoom, "has 16 MiB"},
		{"just as large as memory", []Image{sized(16 << 20)}, ErrNoRoom, "has 16 MiB"},
		{"together larger than memory", []Image{sized(9 << 20), sized(9 << 20)}, ErrNoRoom, "has 16 MiB"},
		{"2^63-1", []Image{sized(math.MaxInt64), sized(math.MaxInt64), sized(math.MaxInt64)}, ErrNoRoom, "has 16 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(newMemory(t, 16<<20), Params{Kernel: simple().image(), Initrd: tt.initrd})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v saying %q", err, tt.want, tt.says)
			}
		})
	}
	// A file that is shorter than it said.
	if _, err := Load(newMemory(t, 16<<20), Params{Kernel: simple().image(), Initrd: []Image{sized(1 << 20)}}); err == nil {
		t.Error("a short initrd was taken")
	}
}
