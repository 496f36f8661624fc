package snapshot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func small() *State {
	return &State{
		ID: ID{1, 2, 3}, Realtime: 1, Platform: "none",
		Memory:  Memory{Size: 1 << 20, Extents: []Extent{{Offset: 4096, Length: 8192}}},
		CPUs:    []CPU{{CPUID: []byte{1}, MSRs: []MSR{{Index: 16, Data: 7}}}},
		Devices: []Device{{Name: "disk 0", State: []byte(`{}`)}},
		Ports:   map[string][]byte{"serial": {1}},
	}
}

func encoded(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	want := small()
	got, err := Read(bytes.NewReader(encoded(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVersions(t *testing.T) {
	b := encoded(t, small())
	for _, v := range []byte{0, Version + 1, 0xff} {
		b[8] = v
		if _, err := Read(bytes.NewReader(b)); !errors.Is(err, ErrVersion) {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	good := encoded(f, small())
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Read(bytes.NewReader(b))
		if (s == nil) == (err == nil) {
			t.Fatalf("state %v and error %v", s, err)
		}
	})
}

// FuzzBody has what is behind the checksum at random.
func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"id":"01020300000000000000000000000000","memory":{"size":4096},"cpus":[{}]}`))
	f.Add([]byte(`{"id":"zz"}`))
	f.Add([]byte(`{"memory":{"size":18446744073709551615,"extents":[{"offset":18446744073709547520,"length":8192}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := Read(bytes.NewReader(seal(body)))
		if err != nil {
			return
		}
		for _, e := range s.Memory.Extents {
			if e.Offset+e.Length > s.Memory.Size || e.Offset+e.Length < e.Offset {
				t.Fatalf("extent %+v of %d bytes", e, s.Memory.Size)
			}
		}
	})
}

func TestDirAppearsWhenItIsComplete(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "s")
	for _, content := range []string{"one", "two"} {
		d, err := Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.Path(), "f"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(filepath.Join(path, "f")); string(b) == content {
			t.Error("is there before its time")
		}
		if err := d.Commit(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(path, "f")); string(b) != content {
			t.Errorf("%q, %v", b, err)
		}
	}
	aborted, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := aborted.Abort(); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(path, "f")); string(b) != "two" {
		t.Errorf("after an attempt that failed: %q", b)
	}
	if all, _ := os.ReadDir(parent); len(all) != 1 {
		t.Errorf("left: %v", all)
	}
}

// TestWhatAKilledWriterLeaves is removed by the next one, and what a living one has is not.
func TestWhatAKilledWriterLeaves(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "s")
	killed, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	killed.lock.Close() // as the kernel does
	living, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the killed one's is still there: %v", err)
	}
	if _, err := os.Stat(living.Path()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(living.Commit(), next.Commit()); err != nil {
		t.Error(err)
	}
	if all, _ := os.ReadDir(parent); len(all) != 1 {
		t.Errorf("left: %v", all)
	}
}

func TestMemoryFilesAreTold(t *testing.T) {
	s := small()
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.CheckMemory(f); !errors.Is(err, ErrFormat) {
		t.Errorf("an empty file: %v", err)
	}
	if _, err := f.WriteAt(Trailer(s.ID), int64(s.Memory.Size)); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckMemory(f); err != nil {
		t.Error(err)
	}
	s.ID[0]++
	if err := s.CheckMemory(f); !errors.Is(err, ErrFormat) {
		t.Errorf("another's memory: %v", err)
	}
	if err := unix.Ftruncate(int(f.Fd()), int64(s.Memory.Size)); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckMemory(f); !errors.Is(err, ErrFormat) {
		t.Errorf("without its last page: %v", err)
	}
}
