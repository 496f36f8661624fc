package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// tree makes files, with what is in them, below a directory that it returns.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// ours are the files of a group that is this user's.
func ours(dir string, files map[string]string) {
	files[dir+"/cgroup.procs"], files[dir+"/cgroup.subtree_control"] = "", ""
}

func TestFind(t *testing.T) {
	files := map[string]string{"cgroup.controllers": "cpuset cpu io memory hugetlb pids\n", "user/u1/cgroup.controllers": "memory pids\n", "v1/cgroup.controllers": "\n"}
	ours("user/u1", files)
	ours("user/u1/app", files)
	ours("user/u1/app/run", files)
	ours("v1", files)
	root := tree(t, files)
	mounts := func(part string) string {
		return "22 1 0:20 / /proc rw - proc proc rw\n30 24 0:26 " + part + " " + root + " rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	}
	for name, tt := range map[string]struct {
		mounts, own string
		want        string // the directory and its controllers, or what the error says
	}{
		"in a service":     {mounts("/"), "0::/user/u1/app/run\n", root + "/user/u1/hull [memory pids]"},
		"as it is":         {mounts("/"), "1:cpu:/x\n0::/user/u1\n", root + "/user/u1/hull [memory pids]"},
		"in a session":     {mounts("/"), "0::/user/session\n", "is not this user's"},
		"outside":          {mounts("/"), "0::/../other\n", "is not this user's"},
		"version 1":        {"30 24 0:26 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n", "0::/\n", "none of version 2 mounted"},
		"a part of it":     {mounts("/part"), "0::/\n", "none of version 2 mounted"},
		"no place":         {mounts("/"), "1:cpu:/\n", "in none of version 2"},
		"no controllers":   {mounts("/"), "0::/v1\n", "has no controllers"},
		"nothing readable": {"", "", "none of version 2 mounted"},
	} {
		b, err := find([]byte(tt.mounts), []byte(tt.own), "hull")
		got := ""
		if err == nil {
			got = fmt.Sprint(b.Dir(), " ", b.Controllers())
		} else if got = err.Error(); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v is not ErrNone", name, err)
		}
		if err == nil && got != tt.want || err != nil && !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestLimits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hull")
	b := At(dir, CPU, Memory, PIDs, IO)
	g, err := b.Make("one", Limits{CPUs: 1.5, Memory: 1 << 30, PIDs: 300, IOWeight: 500})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"cpu.max": "150000 100000", "memory.max": "1073741824", "pids.max": "300", "io.weight": "default 4950"}
	if diff := cmp.Diff(want, Settings(g.Dir())); diff != "" {
		t.Error(diff)
	}
	if got := g.MemoryMax(); got != 1<<30 {
		t.Errorf("memory.max %d", got)
	}
	if err := g.Set(Limits{CPUs: 0.001}); err != nil { // the least that the kernel takes
		t.Fatal(err)
	}
	if err := g.Set(Limits{Memory: 5 << 20, IOWeight: 10}); err != nil {
		t.Fatal(err)
	}
	want["cpu.max"], want["memory.max"], want["io.weight"] = "1000 100000", "5242880", "default 1"
	if diff := cmp.Diff(want, Settings(g.Dir())); diff != "" {
		t.Error(diff)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("that of all groups is left")
	}
	// What there is no controller for is not asked for.
	g, err = At(dir, PIDs).Make("two", Limits{CPUs: 1, Memory: 1 << 30, PIDs: 10, IOWeight: 10})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"pids.max": "10"}, Settings(g.Dir())); diff != "" {
		t.Error(diff)
	}
}

func TestSweep(t *testing.T) {
	b := At(filepath.Join(t.TempDir(), "hull"), PIDs)
	if err := b.Sweep(func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"living", "stale"} {
		if _, err := b.Make(name, Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Sweep(func(name string) bool { return name == "stale" }); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(b.Dir())
	if err != nil || len(entries) != 1 || entries[0].Name() != "living" {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestUsage(t *testing.T) {
	dir := tree(t, map[string]string{
		"cpu.stat": "usage_usec 1500000\nuser_usec 1\nthrottled_usec 2000\n", "vm/memory.current": "1000\n", "vm/memory.stat": "anon 1\ninactive_file 300\nactive_file 200\n",
		"vm/pids.current": "7\n", "vm/memory.events": "low 0\noom 2\noom_kill 1\n",
	})
	want := Usage{CPU: 1500 * time.Millisecond, Throttled: 2 * time.Millisecond, Memory: 500, PIDs: 7, OOMKills: 1}
	if got, err := ReadUsage(dir); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if _, err := ReadUsage(t.TempDir()); err == nil {
		t.Error("nothing is charged to what is no group")
	}
	if err := os.WriteFile(File(dir, "memory.stat"), []byte("inactive_file 5000\nactive_file nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadUsage(dir); err != nil || got.Memory != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// With a real hierarchy: a process starts in its group, which goes when it has ended.
func TestProcess(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root, err := hierarchy(mounts)
	if err != nil || os.Geteuid() != 0 || !isOurs(root) {
		t.Skip("only root makes groups, where there is a hierarchy of version 2")
	}
	name := fmt.Sprintf("hull-test-%d", os.Getpid())
	b, err := Find(name)
	limits := Limits{CPUs: 0.5, Memory: 64 << 20, PIDs: 2}
	if err != nil { // no controllers: groups there are
		t.Log(err)
		b, limits = &Base{root: root, top: root, dir: filepath.Join(root, name), remove: unix.Rmdir}, Limits{}
	}
	g, err := b.Make("one", limits)
	if err != nil {
		t.Skipf("not in this container: %v", err)
	}
	cmd := exec.Command("sh", "-c", `cat /proc/self/cgroup; exec cat`)
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	g.Enter(cmd.SysProcAttr)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		_ = g.Remove()
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "/"+name+"/one/vm\n") {
		t.Errorf("the process is in %q, %v", buf[:n], err)
	}
	for file, want := range map[string]string{"cpu.max": "50000 100000", "memory.max": "67108864", "pids.max": "2"} {
		if got := Settings(g.Dir())[file]; limits != (Limits{}) && b.has(strings.Split(file, ".")[0]) && got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	if u, err := g.Usage(); limits.CPUs > 0 && (err != nil || u.PIDs == 0) {
		t.Errorf("%+v, %v", u, err)
	}
	// Who works for the guest is in its group as well, until there is none.
	place := func() string {
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		place, _ := placeIn(own)
		return place
	}
	before := place()
	g.Join()
	if got := place(); !strings.HasSuffix(got, "/"+name+"/one/supervisor") {
		t.Errorf("this process is in %s", got)
	}
	defer func() {
		g.Join() // too late
		if got := place(); got != before {
			t.Errorf("this process is in %s, and was in %s", got, before)
		}
	}()
	if err := b.Sweep(func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.Dir()); err != nil {
		t.Error("a group that somebody is in was removed")
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.Dir()); err == nil {
		t.Error("groups are left")
	}
}
