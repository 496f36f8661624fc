package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/vmm"
)

// putTemplate makes what looks like a template, last used so long ago.
func putTemplate(t *testing.T, e *Engine, s Shape, size int, age time.Duration) string {
	t.Helper()
	dir := e.templateDir(s)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{vmm.SnapshotState: 1, vmm.SnapshotMemory: size} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	used := time.Now().Add(-age)
	if err := os.Chtimes(dir, used, used); err != nil {
		t.Fatal(err)
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestTemplatesArePruned(t *testing.T) {
	e := New(Options{Dirs: Dirs{Cache: t.TempDir()}})
	if n, err := e.PruneTemplates(); n != 0 || err != nil {
		t.Errorf("without any: %d, %v", n, err)
	}
	old := putTemplate(t, e, Shape{Memory: 1}, 4096, 8*24*time.Hour)
	large := putTemplate(t, e, Shape{Memory: 2}, 3<<20, 2*time.Hour)
	recent := putTemplate(t, e, Shape{Memory: 3}, 3<<20, time.Hour)
	if err := e.pruneTemplates(templateAge, 4<<20); err != nil {
		t.Fatal(err)
	}
	if exists(old) || exists(large) || !exists(recent) {
		t.Errorf("old %v, used longest ago %v, the latest %v", exists(old), exists(large), exists(recent))
	}

	// What a killed maker leaves goes; not while another one is at work.
	unfinished := recent + ".incomplete-12"
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := openLock(filepath.Join(e.templatesDir(), templateLock), os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.PruneTemplates(); err != nil {
		t.Error(err)
	}
	if exists(recent) || !exists(unfinished) {
		t.Errorf("the finished one %v, the unfinished one %v", exists(recent), exists(unfinished))
	}
	lock.Close()
	if _, err := e.PruneTemplates(); err != nil {
		t.Error(err)
	}
	if exists(unfinished) {
		t.Error("what a killed maker has left is still there")
	}
}

// TestShapes: what a VM cannot change later makes another template, and what it can does not.
func TestShapes(t *testing.T) {
	files := &bundle.Files{Dir: "/cache/1"}
	plain := func() (*vmm.Config, *Config) {
		vm := &vmm.Config{
			CPUs: 1, Memory: 512 << 20, CommandLine: "quiet", Disks: make([]vmm.Disk, 2), NICs: []vmm.NIC{{MTU: 1500, Socket: &vmm.File{}}},
		}
		return vm, &Config{NetworkConfig: NetworkConfig{Network: NetworkUser}}
	}
	vm, c := plain()
	base, ok := shapeOf(files, vm, c)
	if !ok {
		t.Fatal("a plain container has no shape")
	}
	keys := map[string]string{base.key(): "a plain one"}
	for what, change := range map[string]func(*vmm.Config, *Config){
		"vCPUs":        func(v *vmm.Config, _ *Config) { v.CPUs = 2 },
		"memory":       func(v *vmm.Config, _ *Config) { v.Memory *= 2 },
		"command line": func(v *vmm.Config, _ *Config) { v.CommandLine = "debug" },
		"no card":      func(v *vmm.Config, _ *Config) { v.NICs = nil },
		"an MTU":       func(v *vmm.Config, _ *Config) { v.NICs[0].MTU = 9000 },
		"root in RAM":  func(v *vmm.Config, c *Config) { c.TmpfsRoot, v.Disks = true, v.Disks[:1] },
		"another card": func(v *vmm.Config, _ *Config) { v.NICs = append(v.NICs, v.NICs[0]) },
		"a share":      func(v *vmm.Config, _ *Config) { v.Shares = []vmm.Share{{Tag: "hull-share-0"}} },
		"another tag":  func(v *vmm.Config, _ *Config) { v.Shares = []vmm.Share{{Tag: "hull-share-1"}} },
	} {
		vm, c := plain()
		change(vm, c)
		s, ok := shapeOf(files, vm, c)
		if other := keys[s.key()]; !ok || other != "" {
			t.Errorf("%s: %+v, %v, has the template of %q", what, s, ok, other)
		}
		keys[s.key()] = what
	}
	for what, change := range map[string]func(*vmm.Config, *Config){
		"a kernel":     func(_ *vmm.Config, c *Config) { c.Kernel = "/boot/vmlinuz" },
		"an initramfs": func(_ *vmm.Config, c *Config) { c.Initrd = "/initrd" },
		"a disk":       func(v *vmm.Config, _ *Config) { v.Disks = make([]vmm.Disk, 3) },
		"a tap":        func(v *vmm.Config, _ *Config) { v.NICs[0] = vmm.NIC{Tap: make([]vmm.File, 1)} },
	} {
		vm, c := plain()
		change(vm, c)
		if s, ok := shapeOf(files, vm, c); ok {
			t.Errorf("%s: starts from template %+v", what, s)
		}
	}
	vm, c = plain()
	c.Hostname, c.Env, c.Args = "me", []string{"A=1"}, []string{"true"}
	if s, ok := shapeOf(files, vm, c); !ok || s.key() != base.key() {
		t.Errorf("what a guest is told later makes another template: %+v", s)
	}
}
