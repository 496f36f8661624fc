package memory

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestSharedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, bytes.Repeat([]byte{7}, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := MapShared(f, false)
	if err != nil {
		t.Fatal(err)
	}
	b := s.Bytes()
	if len(b) != HugePageSize || b[4999] != 7 || b[5000] != 0 || b[len(b)-1] != 0 {
		t.Errorf("%d bytes; the file's last is %d, then comes %d", len(b), b[4999], b[5000])
	}
	copy(b, "written")
	b[len(b)-1] = 1 // padding is memory like any other
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || len(got) != 5000 || !bytes.HasPrefix(got, []byte("written")) {
		t.Errorf("%d bytes in the file: % x…, %v", len(got), got[:8], err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesThatCannotBeShared(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, empty, os.DevNull} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := MapShared(f, true); !errors.Is(err, ErrFile) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// A file that is open for reading only cannot be shared for writing.
	full := filepath.Join(dir, "full")
	if err := os.WriteFile(full, []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(full)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := MapShared(f, false); !errors.Is(err, os.ErrPermission) {
		t.Errorf("writing to a file that is open for reading: %v", err)
	}
	s, err := MapShared(f, true)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
