package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
)

// groupFile is what is in a file of a container's cgroup.
func groupFile(t testing.TB, r *Record, name string) string {
	t.Helper()
	b, err := os.ReadFile(cgroup.File(r.State.Group.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// charge sets what is charged to a container's cgroup, in a test's words of the kernel's.
func charge(t testing.TB, r *Record, name, value string) {
	t.Helper()
	if err := os.WriteFile(cgroup.File(r.State.Group.Dir, name), []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A VM's process is bounded before it starts, by what its container may have; the limits of one that runs can be changed.
func TestGroup(t *testing.T) {
	e := newTestEngine(t)
	c := sh2("exec sleep 100")
	c.CPUs, c.Memory, c.Limits.IOWeight = 1.5, 640<<20, 1000
	id := background(t, e, c)
	r := get(t, e, id)
	// The layers and what is written are two disks; 1.5 CPUs are two.
	want := map[string]string{
		"cpu.max": "150000 100000", "memory.max": fmt.Sprint(640<<20 + 10<<20 + 128<<20), "pids.max": fmt.Sprint(256 + 2*8 + 2*64), "io.weight": "default 10000",
	}
	if diff := cmp.Diff(want, r.State.Group.Settings()); diff != "" {
		t.Error(diff)
	}
	if got := groupFile(t, r, "memory.oom.group"); got != "1" {
		t.Errorf("memory.oom.group %q", got)
	}
	memory, cpus := uint64(256<<20), 0.5
	if err := e.Change(t.Context(), id, Change{Memory: &memory, CPUs: &cpus}); err != nil {
		t.Fatal(err)
	}
	want["cpu.max"], want["memory.max"] = "50000 100000", fmt.Sprint(256<<20+4<<20+128<<20)
	if diff := cmp.Diff(want, get(t, e, id).State.Group.Settings()); diff != "" {
		t.Error(diff)
	}
	// Back up to what it was started with, and no further.
	memory = 640 << 20
	if err := e.Change(t.Context(), id, Change{Memory: &memory}); err != nil {
		t.Fatal(err)
	}
	if got, want := groupFile(t, r, "memory.max"), fmt.Sprint(778<<20); got != want {
		t.Errorf("memory.max %s, want %s", got, want)
	}
	memory = 1 << 30
	if err := e.Change(t.Context(), id, Change{Memory: &memory}); err == nil {
		t.Error("it has more than it was started with")
	}
	if got, want := groupFile(t, r, "memory.max"), fmt.Sprint(778<<20); got != want {
		t.Errorf("memory.max %s, want %s", got, want)
	}
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.State.Group.Dir); err == nil {
		t.Error("the cgroup has outlived its process")
	}
	if r := get(t, e, id); r.State.Group != nil {
		t.Errorf("%+v", r.State.Group)
	}
	if err := e.Remove(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	mustBeEmpty(t, e)
}

// The kernel would kill a process that has more than it may have from now on: who does not give back keeps it, and says so.
func TestGroupOfAGuestThatKeepsItsMemory(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, sh2("exec sleep 100"))
	r := get(t, e, id)
	before := groupFile(t, r, "memory.max")
	charge(t, r, "memory.current", fmt.Sprint(600<<20))
	charge(t, r, "memory.stat", "active_file 1048576\ninactive_file 1048576\n")
	memory := uint64(128 << 20)
	if err := e.Change(t.Context(), id, Change{Memory: &memory}); err == nil || !strings.Contains(err.Error(), "the guest has not given back enough: its VM holds 598 MiB") {
		t.Errorf("%v", err)
	}
	if got := groupFile(t, r, "memory.max"); got != before {
		t.Errorf("memory.max %s, want %s", got, before)
	}
	if r := get(t, e, id); r.Config.Memory != DefaultMemory {
		t.Errorf("memory %d", r.Config.Memory)
	}
	asked, err := os.ReadFile(filepath.Join(e.store.vmDir(id), "balloon"))
	if err != nil || string(asked) != "0" {
		t.Errorf("the balloon was asked for %q: %v", asked, err)
	}
}

// What is charged to the cgroup is what is shown.
func TestGroupMeter(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	charge(t, r, "cpu.stat", "usage_usec 2000000\n")
	charge(t, r, "memory.current", "7000\n")
	m, err := e.Meter(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if s, err := m.Read(t.Context()); err != nil || s.HostCPU != 2*time.Second || s.HostMemory != 7000 {
		t.Errorf("%+v, %v", s, err)
	}
	// Without, what the process says of itself.
	if err := os.Remove(filepath.Join(r.State.Group.Dir, "cpu.stat")); err != nil {
		t.Fatal(err)
	}
	if s, err := m.Read(t.Context()); err != nil || s.HostMemory < 1<<20 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A process that was killed for its memory is not one that somebody has killed.
func TestGroupOOM(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, sh2("exec sleep 100"))
	r := get(t, e, id)
	charge(t, r, "memory.events", "oom 1\noom_kill 1\n")
	if _, err := r.State.VM.Kill(9); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Wait(t.Context(), id); err != nil {
		t.Log(err)
	}
	if r := get(t, e, id); r.State.ExitCode != 137 || !strings.Contains(r.State.Error, "took more of this host's memory than its cgroup allows") {
		t.Errorf("status %d: %s", r.State.ExitCode, r.State.Error)
	}
}

// Of VMs whose supervisors were killed nothing is left after the next command.
func TestGroupsAreSwept(t *testing.T) {
	e := newTestEngine(t)
	living := running(t, e, Config{})
	base, err := e.store.groups()
	if err != nil {
		t.Fatal(err)
	}
	gone := []string{newID(), bootGroup(ProcessRef{PID: 1 << 22, Start: 1})}
	self, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	kept := []string{bootGroup(self), "somebody's", living.ID}
	for _, name := range append(gone, kept[:2]...) {
		if _, err := base.Make(name, cgroup.Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{gone[0]: false, gone[1]: false, kept[0]: true, kept[1]: true, kept[2]: true} {
		if _, err := os.Stat(filepath.Join(base.Dir(), name)); (err == nil) != want {
			t.Errorf("%s: there %v, want %v", name, err == nil, want)
		}
	}
	for _, name := range kept[:2] {
		os.RemoveAll(filepath.Join(base.Dir(), name))
	}
}

// Where there are no cgroups all goes on, and says so.
func TestNoGroups(t *testing.T) {
	e := newTestEngine(t)
	e.store.groups = func() (*cgroup.Base, error) { return nil, fmt.Errorf("%w: not here", cgroup.ErrNone) }
	if _, err := e.Cgroups(); !errors.Is(err, cgroup.ErrNone) {
		t.Error(err)
	}
	r := running(t, e, Config{})
	if r.State.Group == nil || r.State.Group.Dir != "" || !strings.Contains(r.State.Group.None, "not here") {
		t.Errorf("%+v", r.State.Group)
	}
	if _, ok := r.State.Group.Usage(); ok || r.State.Group.Settings() != nil {
		t.Error("something is known of a cgroup that is not there")
	}
	memory, cpus := uint64(256<<20), 0.5
	if err := e.Change(t.Context(), r.ID, Change{Memory: &memory, CPUs: &cpus}); err != nil {
		t.Error(err)
	}
}

func TestGroupsName(t *testing.T) {
	own := Dirs{Run: "/run/hull"}
	if got := own.groupsName(0); got != "hull" {
		t.Error(got)
	}
	one, two := Dirs{Run: "/tmp/one"}, Dirs{Run: "/tmp/two"}
	if a, b := one.groupsName(0), two.groupsName(0); a == b || !strings.HasPrefix(a, "hull-") || a != one.groupsName(0) {
		t.Error(a, b)
	}
}
