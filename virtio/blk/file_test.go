package blk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// allocated is how many bytes of the host's storage a file has.
func allocated(t testing.TB, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestDirect: a file that is open for direct I/O takes buffers of any alignment.
func TestDirect(t *testing.T) {
	f, model := noise(t, 4<<20)
	d, err := os.OpenFile(f.Name(), os.O_RDWR|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		t.Skip("the file system of the temporary directory has no direct I/O")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := openFile(t, d)
	defer b.Close()
	if b.BlockSize() == 0 {
		t.Fatal("the file's direct I/O goes unnoticed")
	}
	var v Vector
	v.Set(make([]byte, b.align))
	if err := b.ReadAt(&v, 0, NoWait); err != ErrWouldBlock {
		t.Errorf("direct I/O that need not wait: %v", err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	blocks := len(model) / int(b.align)
	for i := range 200 {
		off := r.IntN(blocks) * int(b.align)
		n := min(len(model)-off, (1+r.IntN(300))*int(b.align))
		p := make([]byte, n+1)[i%2:][:n] // every other one at an odd address
		if i%3 == 0 {
			rand.NewChaCha8([32]byte{byte(i)}).Read(p)
			copy(model[off:], p)
			v.Set(pieces(r, p)...)
			if err := b.WriteAt(&v, uint64(off), Through); err != nil {
				t.Fatal(err)
			}
			continue
		}
		v.Set(pieces(r, p)...)
		if err := b.ReadAt(&v, uint64(off), 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, model[off:off+n]) {
			t.Fatalf("%d bytes at %d differ", n, off)
		}
	}
}

// TestVectorsAreUsedUpFromTheFront checks transfers that end anywhere in a list of buffers.
func TestVectorsAreUsedUpFromTheFront(t *testing.T) {
	f, model := noise(t, 1<<20)
	r := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		p := make([]byte, 1+r.IntN(len(model)))
		var v Vector
		v.Set(pieces(r, p)...)
		for off := uint64(0); v.Len() > 0; {
			n := 1 + r.Uint64N(v.Len())
			switch r.IntN(3) {
			case 0:
				v.fill(model[off : off+n])
			case 1:
				if err := v.read(int(f.Fd()), off, n, 0); err != nil {
					t.Fatal(err)
				}
			case 2:
				copy(p[off:], model[off:off+n])
				got := make([]byte, n)
				v.take(got)
				if !bytes.Equal(got, model[off:off+n]) {
					t.Fatal("take takes something else")
				}
			}
			off += n
		}
		if !bytes.Equal(p, model[:len(p)]) {
			t.Fatal("the buffers were not filled in order")
		}
		v.Clear()
	}
	// More buffers than one call takes.
	p := make([]byte, 3*maxVector)
	var many [][]byte
	for i := range p {
		many = append(many, p[i:i+1])
	}
	var v Vector
	v.Set(many...)
	if err := v.read(int(f.Fd()), 100, uint64(len(p)), 0); err != nil || !bytes.Equal(p, model[100:100+len(p)]) {
		t.Errorf("%d buffers: %v", len(many), err)
	}
}

// TestShortFile: a file that was cut under a running disk reads as an error.
func TestShortFile(t *testing.T) {
	f, _ := noise(t, 1<<20)
	b := openFile(t, f)
	if err := os.Truncate(f.Name(), 1000); err != nil {
		t.Fatal(err)
	}
	for _, how := range []Mode{0, NoWait} {
		var v Vector
		v.Set(make([]byte, 4096))
		if err := b.ReadAt(&v, 0, how); err == nil {
			t.Errorf("mode %d: reads past the end of its file", how)
		}
	}
}

// TestWriteZeroesOfAnyFileSystem: those that cannot do it get zeros written.
func TestWriteZeroesOfAnyFileSystem(t *testing.T) {
	f, model := noise(t, 1<<20)
	b := openFile(t, f)
	if err := b.writeZeroes(512, 200<<10); err != nil {
		t.Fatal(err)
	}
	clear(model[512:][:200<<10])
	if got, err := os.ReadFile(filepath.Clean(f.Name())); err != nil || !bytes.Equal(got, model) {
		t.Errorf("the file differs, %v", err)
	}
}
