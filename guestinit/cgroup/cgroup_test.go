package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/proto"
)

func ptr[T any](v T) *T { return &v }

func TestConvert(t *testing.T) {
	for name, tt := range map[string]struct {
		in   *specs.LinuxResources
		want map[string]string
	}{
		"none":  {nil, map[string]string{}},
		"empty": {&specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, Pids: &specs.LinuxPids{}}, map[string]string{}},
		"memory": {
			&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](1 << 20), Reservation: ptr[int64](1 << 19), Swap: ptr[int64](3 << 20)}},
			map[string]string{"memory.max": "1048576", "memory.low": "524288", "memory.swap.max": "2097152"},
		},
		"no limits": {
			&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1), Swap: ptr[int64](-1)}, Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}},
			map[string]string{"memory.max": "max", "memory.swap.max": "max", "pids.max": "max"},
		},
		"cpu": {
			&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1024), Quota: ptr[int64](50000), Cpus: "0-1"}},
			map[string]string{"cpu.weight": "39", "cpu.max": "50000 100000", "cpuset.cpus": "0-1"},
		},
		"cpu, quota without end": {
			&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1 << 40), Quota: ptr[int64](-1), Period: ptr[uint64](20000)}},
			map[string]string{"cpu.weight": "10000", "cpu.max": "max 20000"},
		},
		"pids":    {&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](7)}}, map[string]string{"pids.max": "7"}},
		"unified": {&specs.LinuxResources{Unified: map[string]string{"memory.high": "1G"}}, map[string]string{"memory.high": "1G"}},
	} {
		got, err := convert(tt.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	for name, in := range map[string]*specs.LinuxResources{
		"swap without memory":   {Memory: &specs.LinuxMemory{Swap: ptr[int64](1)}},
		"swap below memory":     {Memory: &specs.LinuxMemory{Swap: ptr[int64](1), Limit: ptr[int64](2)}},
		"no OOM killer":         {Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}},
		"real time":             {CPU: &specs.LinuxCPU{RealtimeRuntime: ptr[int64](1)}},
		"path as a limit":       {Unified: map[string]string{"../cgroup.procs": "1"}},
		"the cgroup's own file": {Unified: map[string]string{"cgroup.procs": "1"}},
		"not a limit":           {Unified: map[string]string{"memory": "1"}},
		"hidden":                {Unified: map[string]string{"..": "1"}},
	} {
		_, err := convert(in)
		var e *proto.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestField(t *testing.T) {
	raw := []byte("low 0\noom_kill 3\noom_group_kill x\nodd\n")
	for key, want := range map[string]int{"low": 0, "oom_kill": 3, "oom_group_kill": 0, "none": 0, "odd": 0} {
		if got := field(raw, key); got != want {
			t.Errorf("%s: %d, want %d", key, got, want)
		}
	}
}

func TestDelegate(t *testing.T) {
	root := t.TempDir()
	if err := Delegate(root); err == nil {
		t.Error("no error where there is no hierarchy")
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Delegate(root); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil || string(got) != "+cpu +memory" {
		t.Errorf("got %q, %v", got, err)
	}
}
