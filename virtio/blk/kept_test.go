package blk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// keep opens an overlay that is kept at path.
func keep(t testing.TB, base Backend, path string) (*Overlay, *os.File) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	o, err := OpenOverlay(base, f)
	if err != nil {
		t.Fatal(err)
	}
	return o, f
}

// extents puts a disk together as somebody does who has both files.
func extents(t testing.TB, base *os.File, o *Overlay) []byte {
	t.Helper()
	p := make([]byte, o.Size())
	last := uint64(0)
	for _, e := range o.Extents() {
		f := base
		if e.Own {
			f = o.own.f
		}
		if e.Off < last || e.Len == 0 {
			t.Fatalf("extent %+v after %d", e, last)
		}
		last = e.Off + e.Len
		if _, err := f.ReadAt(p[e.Off:last], int64(e.Off)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// TestKeptOverlayIsThereAgain: an overlay that is opened again has what it had, any number of times.
func TestKeptOverlayIsThereAgain(t *testing.T) {
	const size = 70<<20 + 3*SectorSize // more than a page of the map, and the last block is not whole
	f, model := noise(t, size)
	was := bytes.Clone(model)
	base, path := openFile(t, f), filepath.Join(t.TempDir(), "overlay")
	r := rand.New(rand.NewPCG(11, 12))
	for life := range 3 {
		o, file := keep(t, base, path)
		if !bytes.Equal(read(t, r, o), model) {
			t.Fatalf("life %d: the disk is another one", life)
		}
		for i := range 90 {
			off := r.IntN(size/SectorSize) * SectorSize
			n := min(size-off, (1+r.IntN(100))*SectorSize)
			p := model[off : off+n]
			if i%3 == 0 {
				clear(p)
				if err := o.WriteZeroes(uint64(off), uint64(n), i%2 == 0); err != nil {
					t.Fatal(err)
				}
				continue
			}
			for k := range p {
				p[k] = byte(r.Uint32())
			}
			var v Vector
			v.Set(p)
			if err := o.WriteAt(&v, uint64(off), Mode(i%2)*Through); err != nil {
				t.Fatal(err)
			}
		}
		end := o.Flush
		if life%2 == 0 {
			end = o.Close
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(extents(t, f, o), model) {
			t.Fatalf("life %d: its extents are another disk", life)
		}
		file.Close()
	}
	if got, _ := os.ReadFile(f.Name()); !bytes.Equal(got, was) {
		t.Error("the base was changed")
	}
}

// TestKeptOverlayAfterACrash: what was flushed is there, and what was not is the base's or new, whole blocks of it.
func TestKeptOverlayAfterACrash(t *testing.T) {
	f, model := noise(t, 64*overlayBlock)
	path := filepath.Join(t.TempDir(), "overlay")
	o, file := keep(t, openFile(t, f), path)
	write := func(b byte, off, n int) {
		t.Helper()
		var v Vector
		v.Set(bytes.Repeat([]byte{b}, n))
		if err := o.WriteAt(&v, uint64(off), 0); err != nil {
			t.Fatal(err)
		}
	}
	write(1, SectorSize, SectorSize)
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	copy(model[SectorSize:], bytes.Repeat([]byte{1}, SectorSize))
	write(2, 10*overlayBlock+SectorSize, SectorSize)
	file.Close() // as the kernel does
	o, _ = keep(t, openFile(t, f), path)
	if !bytes.Equal(read(t, rand.New(rand.NewPCG(1, 1)), o), model) {
		t.Error("it is not as it was flushed")
	}
}

// TestKeptOverlayThatNothingWasFlushedOf begins anew, whatever has come to the disk of its file.
func TestKeptOverlayThatNothingWasFlushedOf(t *testing.T) {
	f, model := noise(t, 64*overlayBlock)
	path := filepath.Join(t.TempDir(), "overlay")
	o, file := keep(t, openFile(t, f), path)
	if _, err := file.WriteAt(bytes.Repeat([]byte{9}, overlayBlock), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(make([]byte, mapPage), int64(o.kept.header)); err != nil {
		t.Fatal(err)
	}
	o, _ = keep(t, openFile(t, f), path)
	if !bytes.Equal(read(t, rand.New(rand.NewPCG(1, 1)), o), model) || o.Used() != 0 {
		t.Error("it has something")
	}
}

// TestKeptOverlaysThatWillNotDo: files that are no overlay of this disk are left alone.
func TestKeptOverlaysThatWillNotDo(t *testing.T) {
	f, _ := noise(t, 64*overlayBlock)
	base := openFile(t, f)
	whole := filepath.Join(t.TempDir(), "whole")
	keep(t, base, whole)
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	header := 64 * overlayBlock
	changed := func(at int, b byte) []byte {
		p := bytes.Clone(good)
		p[at] ^= b
		return p
	}
	for what, p := range map[string][]byte{
		"short": good[:len(good)-1], "a sector": good[:SectorSize], "another kind": changed(header, 1), "a newer version": changed(header+8, 2),
		"another disk's": changed(header+16, 1), "more in the header": changed(header+1000, 1),
	} {
		path := filepath.Join(t.TempDir(), "overlay")
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenOverlay(base, f); err == nil {
			t.Errorf("%s: it became an overlay", what)
		} else {
			t.Log(err)
		}
		f.Close()
	}
	if _, err := OpenOverlay(huge{base}, f); err == nil {
		t.Error("an overlay of any size")
	}
}

// FuzzOverlayFile opens files that somebody else has written.
func FuzzOverlayFile(f *testing.F) {
	base, _ := noise(f, 3*overlayBlock+SectorSize)
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0xff, 0, 0xff}, uint16(mapPage))
	f.Add([]byte("hull-cow"), uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, leafSize), uint16(mapPage))
	f.Fuzz(func(t *testing.T, p []byte, at uint16) {
		path := filepath.Join(t.TempDir(), "overlay")
		o, file := keep(t, openFile(t, base), path)
		if _, err := file.WriteAt(p, int64(o.kept.header)+int64(at)); err != nil {
			t.Fatal(err)
		}
		o, err := OpenOverlay(openFile(t, base), file)
		if err != nil {
			return
		}
		if !bytes.Equal(extents(t, base, o), read(t, rand.New(rand.NewPCG(1, 1)), o)) {
			t.Error("its extents are another disk")
		}
		if err := o.Discard(0, o.Size()); err != nil {
			t.Fatal(err)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		if o, _ = keep(t, openFile(t, base), path); len(o.Extents()) != 0 || o.Used() != 0 {
			t.Error("it is not empty")
		}
	})
}
