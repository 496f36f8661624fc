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
		"cow":         {Disks: []Disk{{Path: file, Overlay: true}}},
		"is a device": {Disks: []Disk{{Path: file}, {Path: os.DevNull}}},
		"no such":     {Disks: []Disk{{Path: file + "2"}}},
	} {
		if err := c.savable(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, c := range map[string]Config{
		"nothing": {}, "a directory": {Mounts: []Mount{{}}}, "a file": {Disks: []Disk{{Path: file}}}, "a read-only device": {Disks: []Disk{{Path: os.DevNull, ReadOnly: true}}},
	} {
		if err := c.savable(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A copy shares the volumes of the container that it is a copy of, and does not take them with it when it goes.
func TestMountsOfCopies(t *testing.T) {
	e := newTestEngine(t)
	config := sh("exit 0")
	config.Image = "test"
	config.Mounts = []Mount{AnonymousMount("/data"), {Source: filepath.Join(t.TempDir(), "gone"), Target: "/host", Create: true}}
	c, err := e.Create(t.Context(), "first", config)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Leave(); err != nil {
		t.Fatal(err)
	}
	first, err := e.Get(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	second, err := e.createFrom(t.Context(), &checkpoint{Container: *first}, "second")
	if err != nil {
		t.Fatal(err)
	}
	r := second.latest()
	for i, m := range r.Config.Mounts {
		if was := first.Config.Mounts[i]; m.Source != was.Source || m.Target != was.Target || m.Anonymous || m.Create {
			t.Errorf("mount %+v became %+v", was, m)
		}
	}
	if err := errors.Join(second.Leave(), e.Remove(t.Context(), "second", false), e.RemoveAnonymous(t.Context(), r)); err != nil {
		t.Fatal(err)
	}
	if !exists(e.store.volumeRoot(first.Config.Mounts[0].Source)) {
		t.Error("the volume went with the copy")
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
