package layerdisk

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func allocated(t testing.TB, name string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestSparseFile writes at random places, zeros and others, and compares with
// a plain buffer.
func TestSparseFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	rapid.Check(t, func(t *rapid.T) {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s := &sparseFile{f: f}
		var model []byte
		for range rapid.IntRange(1, 8).Draw(t, "writes") {
			at := rapid.IntRange(0, 5*blockSize).Draw(t, "at")
			p := make([]byte, rapid.IntRange(0, 4*blockSize).Draw(t, "length"))
			for i := range rapid.IntRange(0, 3).Draw(t, "bytes") {
				if len(p) > 0 {
					p[rapid.IntRange(0, len(p)-1).Draw(t, "where")] = byte(i + 1)
				}
			}
			if grow := at + len(p) - len(model); len(p) > 0 && grow > 0 {
				model = append(model, make([]byte, grow)...)
			}
			copy(model[min(at, len(model)):], p)
			if _, err := s.Seek(int64(at), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Write(p); n != len(p) || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
		}
		if _, err := s.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(s); err != nil || !bytes.Equal(b, model) {
			t.Fatalf("read back %d bytes, want %d (%v)", len(b), len(model), err)
		}
		if err := s.finish(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, model) {
			t.Fatalf("the file has %d bytes, want %d (%v)", len(b), len(model), err)
		}
	})
}
