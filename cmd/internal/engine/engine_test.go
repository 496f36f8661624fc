package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
	"github.com/hullvm/hull/images"
	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/images/scratch"
)

// testImages are images without bytes: the fake VM does not look at them.
type testImages struct {
	config v1.Config
	layer  string
}

func (t *testImages) Acquire(_ context.Context, ref string) (*images.Image, func(), error) {
	if id := "sha256:" + strings.Repeat("ab", 32); ref != "test" && ref != id {
		return nil, nil, fmt.Errorf("image %q: %w", ref, images.ErrNotFound)
	}
	return &images.Image{
		ID:     v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)},
		Config: &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: t.config},
		Disks:  []images.Disk{{Path: t.layer, Size: scratch.BlockSize}},
	}, func() {}, nil
}

// newTestEngine makes an engine with directories of its own and this test
// binary as the VM process.
func newTestEngine(t *testing.T) *Engine {
	t.Helper()
	base, err := os.MkdirTemp("", "hull") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	at := func(name string) string { return filepath.Join(base, name) }
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"hull-vmm", "hull-cli"} {
		if err := os.Symlink(self, at(role)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"vmlinux", "initramfs", "layer", "disk"} {
		if err := os.WriteFile(at(name), make([]byte, scratch.BlockSize), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	disk, err := os.Open(at("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	var template bytes.Buffer
	if err := scratch.Encode(&template, disk); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("scratch"), template.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	e := testEngineAt(base)
	t.Cleanup(func() { e.Close() })
	return e
}

// testEngineAt makes an engine on what newTestEngine has put into a directory.
func testEngineAt(base string) *Engine {
	at := func(name string) string { return filepath.Join(base, name) }
	e := New(Options{
		Supervisor: []string{at("hull-cli"), "supervise", base},
		Cgroups: func() (*cgroup.Base, error) {
			return cgroup.At(at("cgroups"), cgroup.CPU, cgroup.Memory, cgroup.PIDs, cgroup.IO), nil
		},

		Dirs:  Dirs{Data: at("data"), Run: at("run"), Cache: at("cache")},
		Files: &bundle.Files{Dir: base, Kernel: at("vmlinux"), Initramfs: at("initramfs"), VMM: at("hull-vmm"), Scratch: at("scratch"), Volume: at("scratch")},
	})
	e.acquire = (&testImages{layer: at("layer"), config: v1.Config{
		Env: []string{"PATH=" + os.Getenv("PATH"), "IMAGE=yes"}, Cmd: []string{"echo", "from the image"},
	}}).Acquire
	return e
}

// leftovers lists what an engine without containers should not have.
func leftovers(t *testing.T, e *Engine) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{e.store.containers(), e.store.names(), e.store.dirs.Run} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Name() != sweptName && entry.Name() != usersName {
				found = append(found, filepath.Join(dir, entry.Name()))
			}
		}
	}
	if groups, err := os.ReadDir(filepath.Join(filepath.Dir(e.store.dirs.Data), "cgroups")); err == nil {
		found = append(found, fmt.Sprint("cgroups ", groups))
	}
	return found
}

func mustBeEmpty(t *testing.T, e *Engine) {
	t.Helper()
	if found := leftovers(t, e); len(found) > 0 {
		t.Errorf("left over: %q", found)
	}
}
