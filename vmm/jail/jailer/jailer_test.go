package jailer

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLimits(t *testing.T) {
	for given, want := range map[string]map[int]uint64{
		"":                      {unix.RLIMIT_NOFILE: defaultFiles},
		"no-file=64":            {unix.RLIMIT_NOFILE: 64},
		"fsize=4096 no-file=64": {unix.RLIMIT_NOFILE: 64, unix.RLIMIT_FSIZE: 4096},
		"cpu=1":                 nil, "fsize": nil, "fsize=-1": nil, "no-file=many": nil, "fsize=18446744073709551615": nil,
	} {
		o := Options{Limits: strings.Fields(given)}
		got, err := o.limits()
		if (err == nil) != (want != nil) || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v", given, got, err)
		}
	}
}

func TestCgroupFiles(t *testing.T) {
	controller, key, value, err := splitCgroup("cpu.max=50000 100000")
	if err != nil || controller != "cpu" || key != "cpu.max" || value != "50000 100000" {
		t.Errorf("%s %s %s %v", controller, key, value, err)
	}
	for _, c := range []string{"", "cpu.max", "cpu.max=", "cpu=1", "../cpu.max=1", "a/b.c=1", ".max=1", "=1"} {
		if _, _, _, err := splitCgroup(c); err == nil {
			t.Errorf("%q is taken", c)
		}
	}
}

func TestHierarchy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mountinfo")
	for text, want := range map[string]string{
		"30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n":                                                 "/sys/fs/cgroup",
		"30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n": "/sys/fs/cgroup/unified",
		"30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n":                                                           "",
		"cgroup2\n - cgroup2 \n": "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := hierarchy(path); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// TestControllers: a host that has a controller elsewhere, or not at all, says so before anything is made.
func TestControllers(t *testing.T) {
	top := t.TempDir()
	mounts := filepath.Join(t.TempDir(), "mountinfo")
	for path, text := range map[string]string{
		filepath.Join(top, "cgroup.controllers"): "cpu hugetlb\n",
		mounts: "30 24 0:26 / /cg/memory rw shared:9 - cgroup cgroup rw,memory\n31 24 0:27 / /cg/io rw - cgroup none rw,xattr,blkio\n" +
			"32 24 0:28 / /cg/unified rw - cgroup2 none rw\n33 - cgroup\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for controller, want := range map[string]string{
		"cpu": "", "cgroup": "",
		"memory": "version 1, at /cg/memory, and only version 2 is offered: boot it with systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=memory",
		"io":     "at /cg/io, and only version 2 is offered: boot it with systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=blkio",
		"pids":   "this host has no controller pids at " + top + ": it has cpu hugetlb",
	} {
		err := haveController(top, mounts, controller)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", controller, err, want)
		}
	}
}

// TestDelegation: controllers are handed down from the top. The files are ordinary ones here.
func TestDelegation(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := []string{top, filepath.Join(top, "a"), dir}
	for _, d := range files {
		if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := delegate(top, dir, "cpu"); err != nil {
		t.Fatal(err)
	}
	for _, d := range files {
		if got, err := os.ReadFile(filepath.Join(d, "cgroup.subtree_control")); string(got) != "+cpu" || err != nil {
			t.Errorf("%s: %q %v", d, got, err)
		}
	}
	if err := delegate(top, filepath.Join(dir, "none"), "cpu"); err == nil {
		t.Error("a group that is not there has been given a controller")
	}
}

func TestChecks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	program := filepath.Join(t.TempDir(), "monitor")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	good := Options{ID: "x", ExecFile: program, Base: "/srv/x"}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Options){
		"base":   func(o *Options) { o.Base = "srv" },
		"user":   func(o *Options) { o.UID = -1 },
		"group":  func(o *Options) { o.GID = 1<<32 - 1 },
		"dir":    func(o *Options) { o.ExecFile = "/" },
		"none":   func(o *Options) { o.ExecFile = "/none" },
		"cgroup": func(o *Options) { o.Cgroup = []string{"x"} },
		"parent": func(o *Options) { o.Parent = "../x" },
		"limit":  func(o *Options) { o.Limits = []string{"x=1"} },
	} {
		o := good
		change(&o)
		if err := o.check(); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
