package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/images"
)

// TestCloneFile: a copy has the same bytes and holes.
func TestCloneFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 30
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	pieces := map[int64][]byte{0: []byte("first"), 5<<20 + 7: bytes.Repeat([]byte("x"), 3<<20), size - 4: []byte("last")}
	for off, p := range pieces {
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := cloneFile(to, from); err != nil {
		t.Fatal(err)
	}
	c, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(c.Fd()), &st); err != nil || st.Size != size || st.Blocks*512 > 16<<20 {
		t.Errorf("%d bytes that take %d, %v", st.Size, st.Blocks*512, err)
	}
	for off, want := range pieces {
		got := make([]byte, len(want))
		if _, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	if err := cloneFile(to, from); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
}

func TestCheckpointsThatCannotBeRead(t *testing.T) {
	for what, c := range map[string]struct{ content, want string }{
		"garbage":   {"{", "broken"},
		"a newer":   {`{"version": 99}`, "version 99"},
		"no number": {`{}`, "version 0"},
		"too large": {strings.Repeat(" ", maxRecord+1), "broken"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, checkpointRecord), []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readCheckpoint(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	if _, err := readCheckpoint(t.TempDir()); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestWhatCannotBeSaved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]Config{
		"volumes":     {Mounts: []Mount{{}}},
		"cow":         {Disks: []Disk{{Path: file, Overlay: true}}},
		"is a device": {Disks: []Disk{{Path: file}, {Path: os.DevNull}}},
		"no such":     {Disks: []Disk{{Path: file + "2"}}},
	} {
		if err := c.savable(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, c := range map[string]Config{
		"nothing": {}, "a file": {Disks: []Disk{{Path: file}}}, "a read-only device": {Disks: []Disk{{Path: os.DevNull, ReadOnly: true}}},
	} {
		if err := c.savable(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Whoever has not the image of a container that was saved learns its name, and where it is to be had.
func TestRestoreWithoutTheImage(t *testing.T) {
	e := newTestEngine(t)
	id := "sha256:" + strings.Repeat("cd", 32)
	for what, tt := range map[string]struct {
		digests []string
		want    string
	}{
		"from a registry": {[]string{"registry.example/app@sha256:" + strings.Repeat("ef", 32)}, "its image \"app:1\" (" + id + ") is not in the local store"},
		"from nowhere":    {nil, "did not come from a registry: bring it here with hull save and hull load"},
	} {
		dir := t.TempDir()
		saved := checkpoint{Version: checkpointVersion, Container: Record{ImageID: id, Config: Config{Image: "app:1"}}, Digests: tt.digests}
		data, err := json.Marshal(saved)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, checkpointRecord), data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = e.Restore(t.Context(), dir, "")
		missing, ok := errors.AsType[*MissingImageError](err)
		if !ok || !errors.Is(err, images.ErrNotFound) || !slices.Equal(missing.Digests, tt.digests) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", what, err, tt.want)
		}
	}
	mustBeEmpty(t, e)
}
