// Package cgroup is the container's cgroup: its limits, its end, and whether
// memory ran out. It knows version 2 only, which is all that a hull guest has.
//
// The container's cgroup is a child of the guest's root cgroup; init itself stays
// in the root, which has no limits. The container sees its cgroup as "/" through a
// cgroup namespace, with all controllers the guest has.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// Group is a cgroup.
type Group struct {
	path string
	dir  *os.File
}

// Delegate enables all controllers below the hierarchy's root. Controllers that cannot
// be enabled are left out.
func Delegate(root string) error {
	raw, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	control := filepath.Join(root, "cgroup.subtree_control")
	names := strings.Fields(string(raw))
	if len(names) == 0 || os.WriteFile(control, []byte("+"+strings.Join(names, " +")), 0) == nil {
		return nil
	}
	for _, name := range names {
		_ = os.WriteFile(control, []byte("+"+name), 0)
	}
	return nil
}

// Create makes a cgroup with limits.
func Create(path string, limits *specs.LinuxResources) (*Group, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("making the cgroup: %w", err)
	}
	g := &Group{path: path}
	err := g.limit(limits)
	if err == nil {
		g.dir, err = os.Open(path)
	}
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("making the cgroup: %w", err)
	}
	return g, nil
}

// FD is a descriptor of the cgroup's directory.
func (g *Group) FD() int { return int(g.dir.Fd()) }

func (g *Group) limit(r *specs.LinuxResources) error {
	values, err := convert(r)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := os.WriteFile(filepath.Join(g.path, name), []byte(values[name]), 0); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return &proto.Error{Code: proto.CodeUnsupported, Message: fmt.Sprintf("setting %s to %q: this kernel has no such limit", name, values[name])}
			}
			return fmt.Errorf("setting %s to %q: %w", name, values[name], err)
		}
	}
	return nil
}

// convert turns the limits, which the OCI specification words in terms of
// version 1, into files of version 2 and their values.
func convert(r *specs.LinuxResources) (map[string]string, error) {
	v := make(map[string]string)
	if r == nil {
		return v, nil
	}
	if m := r.Memory; m != nil {
		if err := convertMemory(m, v); err != nil {
			return nil, err
		}
	}
	if c := r.CPU; c != nil {
		if err := convertCPU(c, v); err != nil {
			return nil, err
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit != 0 {
		v["pids.max"] = amount(*r.Pids.Limit)
	}
	for name, value := range r.Unified {
		if strings.ContainsRune(name, '/') || !strings.ContainsRune(name, '.') || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "cgroup.") {
			return nil, &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("%q: not a limit of a cgroup", name)}
		}
		v[name] = value
	}
	return v, nil
}

func convertMemory(m *specs.LinuxMemory, v map[string]string) error {
	if m.Limit != nil && *m.Limit != 0 {
		v["memory.max"] = amount(*m.Limit)
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		v["memory.low"] = amount(*m.Reservation)
	}
	if m.Swap != nil && *m.Swap != 0 {
		// Memory and swap together there, swap alone here.
		switch {
		case *m.Swap < 0:
			v["memory.swap.max"] = "max"
		case m.Limit == nil || *m.Limit <= 0 || *m.Swap < *m.Limit:
			return &proto.Error{Code: proto.CodeInvalid, Message: "a limit of memory and swap needs a lower one of memory"}
		default:
			v["memory.swap.max"] = amount(*m.Swap - *m.Limit)
		}
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		return &proto.Error{Code: proto.CodeUnsupported, Message: "the OOM killer cannot be disabled with cgroup v2"}
	}
	return nil
}

func convertCPU(c *specs.LinuxCPU, v map[string]string) error {
	if c.Shares != nil && *c.Shares != 0 {
		// 2…262144 there, 1…10000 here (as runc and the kernel's documentation have it).
		shares := min(max(*c.Shares, 2), 262144)
		v["cpu.weight"] = strconv.FormatUint(1+(shares-2)*9999/262142, 10)
	}
	if c.Quota != nil || c.Period != nil {
		quota, period := "max", uint64(100000)
		if c.Quota != nil && *c.Quota > 0 {
			quota = strconv.FormatInt(*c.Quota, 10)
		}
		if c.Period != nil && *c.Period != 0 {
			period = *c.Period
		}
		v["cpu.max"] = quota + " " + strconv.FormatUint(period, 10)
	}
	if c.Burst != nil {
		v["cpu.max.burst"] = strconv.FormatUint(*c.Burst, 10)
	}
	if c.Idle != nil {
		v["cpu.idle"] = strconv.FormatInt(*c.Idle, 10)
	}
	if c.Cpus != "" {
		v["cpuset.cpus"] = c.Cpus
	}
	if c.Mems != "" {
		v["cpuset.mems"] = c.Mems
	}
	if c.RealtimeRuntime != nil || c.RealtimePeriod != nil {
		return &proto.Error{Code: proto.CodeUnsupported, Message: "real-time limits do not exist in cgroup v2"}
	}
	return nil
}

// amount is a number where a negative one means no limit.
func amount(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// OOMKills is how many processes of the cgroup and those below it the kernel has killed for want of memory.
func (g *Group) OOMKills() int {
	raw, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return 0 // a kernel without the controller
	}
	return field(raw, "oom_kill")
}

// field finds a value in a file of lines with a key and a number each.
func field(raw []byte, key string) int {
	for line := range bytes.Lines(raw) {
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if ok && name == key {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

// Signal sends a signal to all processes of the cgroup and of those below it.
func (g *Group) Signal(signal unix.Signal) error {
	var result error
	for _, pid := range g.Processes() {
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			result = err
		}
	}
	return result
}

// Kill kills all processes of the cgroup and of those below it, and returns when
// none is left or after the timeout. Somebody must reap them meanwhile.
func (g *Group) Kill(timeout time.Duration) error {
	if !g.populated() {
		return nil
	}
	deadline := time.Now().Add(timeout)
	kill := filepath.Join(g.path, "cgroup.kill") // Linux 5.14
	wait := time.Millisecond
	for {
		if os.WriteFile(kill, []byte("1"), 0) != nil {
			_ = g.Signal(unix.SIGKILL)
		}
		if !g.waitEmpty(wait) && time.Now().Before(deadline) {
			wait = min(2*wait, 100*time.Millisecond)
			continue
		}
		if g.populated() {
			return fmt.Errorf("processes are left %v after they were killed", timeout)
		}
		return nil
	}
}

func (g *Group) populated() bool {
	raw, err := os.ReadFile(filepath.Join(g.path, "cgroup.events"))
	return err == nil && field(raw, "populated") != 0
}

// waitEmpty waits until no process is left, or for the given time.
func (g *Group) waitEmpty(limit time.Duration) bool { return g.waitEvent("populated", 0, limit) }

// waitEvent waits until a line of cgroup.events has a value, or for the given time. The kernel
// marks the file as changed for poll(2). A cgroup that is gone is empty.
func (g *Group) waitEvent(key string, want int, limit time.Duration) bool {
	f, err := os.Open(filepath.Join(g.path, "cgroup.events"))
	if err != nil {
		return true
	}
	defer f.Close()
	buf := make([]byte, 256)
	deadline := time.Now().Add(limit)
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return true
		}
		if field(buf[:n], key) == want {
			return true
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		_, _ = unix.Poll(fds, int(left.Milliseconds())+1)
	}
}

// Freeze stops all processes of the cgroup and of those below it, and returns when none runs any more. When one still does after
// the timeout they go on, and it fails.
func (g *Group) Freeze(timeout time.Duration) error {
	if err := os.WriteFile(filepath.Join(g.path, "cgroup.freeze"), []byte("1"), 0); err != nil {
		return fmt.Errorf("pausing the container: %w", err)
	}
	if g.waitEvent("frozen", 1, timeout) {
		return nil
	}
	err := fmt.Errorf("pausing the container: some of its processes still run after %v", timeout)
	return errors.Join(err, g.Thaw())
}

// Thaw lets frozen processes go on.
func (g *Group) Thaw() error {
	if err := os.WriteFile(filepath.Join(g.path, "cgroup.freeze"), []byte("0"), 0); err != nil {
		return fmt.Errorf("resuming the container: %w", err)
	}
	return nil
}

// Remove removes the cgroup and those below it. No process may be left.
func (g *Group) Remove() error {
	g.dir.Close()
	var dirs []string
	_ = filepath.WalkDir(g.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		if err := unix.Rmdir(dir); err != nil {
			return fmt.Errorf("removing the cgroup %s: %w", dir, err)
		}
	}
	return nil
}
