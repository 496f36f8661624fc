package blk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// noise fills a new file of n bytes with bytes that do not repeat, and returns them.
func noise(t testing.TB, n int) (*os.File, []byte) {
	t.Helper()
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(p)
	f, err := os.Create(filepath.Join(t.TempDir(), "base"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
	return f, p
}

func overlay(t testing.TB, base Backend) *Overlay {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	o, err := NewOverlay(base, f)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func openFile(t testing.TB, f *os.File) *File {
	t.Helper()
	b, err := OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pieces cuts p into pieces of any length.
func pieces(r *rand.Rand, p []byte) (list [][]byte) {
	for len(p) > 0 {
		n := 1 + r.IntN(min(len(p), 20000))
		list, p = append(list, p[:n]), p[n:]
	}
	return list
}

// read reads all of a backend in pieces.
func read(t testing.TB, r *rand.Rand, b Backend) []byte {
	t.Helper()
	p := make([]byte, b.Size())
	var v Vector
	v.Set(pieces(r, p)...)
	if err := b.ReadAt(&v, 0, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestOverlayIsTheBaseWithItsChanges compares an overlay with a plain copy after any sequence of changes.
func TestOverlayIsTheBaseWithItsChanges(t *testing.T) {
	const size = 5<<20 + 3*SectorSize // the last block is not whole
	f, model := noise(t, size)
	was := bytes.Clone(model)
	o := overlay(t, openFile(t, f))
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		off := r.IntN(size/SectorSize) * SectorSize
		n := min(size-off, (1+r.IntN(60))*SectorSize)
		switch r.IntN(4) {
		case 0:
			clear(model[off : off+n])
			if err := o.WriteZeroes(uint64(off), uint64(n), i%2 == 0); err != nil {
				t.Fatal(err)
			}
		case 1:
			clear(model[off : off+n])
			if err := o.Discard(uint64(off), uint64(n)); err != nil {
				t.Fatal(err)
			}
		case 2:
			for k := range n {
				model[off+k] = byte(r.Uint32())
			}
			var v Vector
			v.Set(pieces(r, model[off:off+n])...)
			err := o.WriteAt(&v, uint64(off), NoWait)
			if err == ErrWouldBlock {
				v.Set(model[off : off+n])
				err = o.WriteAt(&v, uint64(off), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		case 3:
			p := make([]byte, n)
			var v Vector
			v.Set(pieces(r, p)...)
			if err := o.ReadAt(&v, uint64(off), 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, model[off:off+n]) {
				t.Fatalf("change %d: %d bytes at %d differ", i, n, off)
			}
		}
	}
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, r, o), model) {
		t.Error("the overlay differs from the model")
	}
	if got, _ := os.ReadFile(f.Name()); !bytes.Equal(got, was) {
		t.Error("the base was changed")
	}
	if used := o.Used(); used == 0 || used > size+overlayBlock {
		t.Errorf("%d bytes used of %d", used, size)
	}
}

// TestOverlayWritersInOneBlock: writers of different sectors of the same blocks lose nothing.
func TestOverlayWritersInOneBlock(t *testing.T) {
	f, model := noise(t, 64*overlayBlock)
	o := overlay(t, openFile(t, f))
	const writers = overlayBlock / SectorSize
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, SectorSize)
			for b := range 64 {
				if b%8 == w { // each leaves some sectors alone
					continue
				}
				var v Vector
				v.Set(p)
				if err := o.WriteAt(&v, uint64(b*overlayBlock+w*SectorSize), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for b := range 64 {
		for w := range writers {
			if b%8 != w {
				copy(model[b*overlayBlock+w*SectorSize:], bytes.Repeat([]byte{byte(w + 1)}, SectorSize))
			}
		}
	}
	if !bytes.Equal(read(t, rand.New(rand.NewPCG(1, 1)), o), model) {
		t.Error("a sector was lost")
	}
}

// TestOverlayOverLayers: the base may be any backend.
func TestOverlayOverLayers(t *testing.T) {
	g, err := NewGPT(parts(t, 3<<20, 700*SectorSize))
	if err != nil {
		t.Fatal(err)
	}
	model := image(t, g)
	o := overlay(t, g)
	r := rand.New(rand.NewPCG(3, 3))
	for range 300 {
		off := r.IntN(len(model)/SectorSize) * SectorSize
		n := min(len(model)-off, (1+r.IntN(30))*SectorSize)
		for k := range n {
			model[off+k] = byte(r.Uint32())
		}
		var v Vector
		v.Set(model[off : off+n])
		if err := o.WriteAt(&v, uint64(off), 0); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, r, o), model) {
		t.Error("the overlay differs from the model")
	}
}

// TestOverlayGivesSpaceBack: what is discarded leaves the file.
func TestOverlayGivesSpaceBack(t *testing.T) {
	const size = 8 << 20
	f, _ := noise(t, size)
	o := overlay(t, openFile(t, f))
	var v Vector
	v.Set(make([]byte, size))
	if err := o.WriteAt(&v, 0, 0); err != nil {
		t.Fatal(err)
	}
	before := allocated(t, o.own.f)
	if err := o.Discard(0, size/2); err != nil {
		t.Fatal(err)
	}
	if after := allocated(t, o.own.f); before-after < size/2 {
		t.Errorf("%d bytes of %d are left after half were discarded", after, before)
	}
	if o.Used() != size/2 {
		t.Errorf("used: %d", o.Used())
	}
}

func TestOverlayFilesThatWillNotDo(t *testing.T) {
	f, _ := noise(t, SectorSize)
	base := openFile(t, f)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	readOnly, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	for _, f := range []*os.File{null, readOnly} {
		if _, err := NewOverlay(base, f); err == nil {
			t.Errorf("%s became an overlay", f.Name())
		} else {
			t.Log(err)
		}
	}
	if _, err := NewOverlay(huge{base}, f); err == nil {
		t.Error("an overlay of any size")
	}
}

// huge is a backend that claims a size that no map has room for.
type huge struct{ *File }

func (huge) Size() uint64 { return 1 << 63 }
