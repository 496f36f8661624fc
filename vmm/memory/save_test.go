package memory

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func memoryFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestSaveAndRestore fills pages at random, of both regions' kind, and wants them back.
func TestSaveAndRestore(t *testing.T) {
	const size = 64 << 20
	m, err := New(size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		page := random.IntN(size/PageSize) * PageSize
		m.mapping[page+random.IntN(PageSize)] = byte(random.Uint32()) // zero at times: then the page is touched and empty
	}
	m.mapping[0], m.mapping[size-1] = 1, 2
	f := memoryFile(t)
	extents, err := m.Save(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(extents) == 0 || len(extents) > maxExtents {
		t.Errorf("%d extents", len(extents))
	}
	r, err := Restore(f, size, extents, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !bytes.Equal(m.mapping, r.mapping) {
		t.Fatal("the restored memory is another one")
	}

	// What is written to the restored memory stays its own, and is saved with what it was restored from.
	r.mapping[5*PageSize] = 77
	clear(r.mapping[:PageSize])
	if err := r.Discard(r.mapping[size-PageSize:]); err != nil { // reads as the file again
		t.Fatal(err)
	}
	if m.mapping[5*PageSize] == 77 || m.mapping[0] != 1 {
		t.Error("a write went through to the file")
	}
	second := memoryFile(t)
	again, err := r.Save(second)
	if err != nil {
		t.Fatal(err)
	}
	rr, err := Restore(second, size, again, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rr.Close()
	if !bytes.Equal(r.mapping, rr.mapping) {
		t.Error("what was restored and saved again is another one")
	}
}

// TestSavingWhatNobodyTouched takes neither memory nor disk.
func TestSavingWhatNobodyTouched(t *testing.T) {
	const size = 1 << 30
	m, err := New(size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.mapping[size/2] = 1
	f := memoryFile(t)
	extents, err := m.Save(f)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Extent{{size / 2, PageSize}}; len(extents) != 1 || extents[0] != want[0] {
		t.Errorf("extents %v, want %v", extents, want)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the file takes %d bytes, %v", st.Blocks*512, err)
	}
}

func TestRestoreRefusesWhatIsNotThere(t *testing.T) {
	f := memoryFile(t)
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	for _, e := range []Extent{{1 << 20, PageSize}, {0, 2 << 20}, {1, PageSize}, {0, 100}, {^uint64(0) - 4095, 8192}} {
		if m, err := Restore(f, 4<<20, []Extent{e}, Options{}); err == nil {
			m.Close()
			t.Errorf("%+v of a file of 1 MiB was restored", e)
		}
	}
}

func TestCoalesce(t *testing.T) {
	var many []Extent
	for i := range uint64(100000) {
		many = append(many, Extent{i * 20 * PageSize, PageSize})
	}
	out := coalesce(many)
	if len(out) > maxExtents {
		t.Errorf("%d extents", len(out))
	}
	end := uint64(0)
	for _, e := range out {
		if e.Offset < end {
			t.Fatalf("%+v begins before the one before it ends", e)
		}
		end = e.Offset + e.Length
	}
	if last := many[len(many)-1]; end != last.Offset+last.Length {
		t.Errorf("they end at %d", end)
	}
}
