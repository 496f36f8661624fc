package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound a group. What is zero is not bounded.
type Limits struct {
	CPUs     float64 // of processing time
	Memory   uint64  // bytes
	PIDs     int     // processes and threads
	IOWeight int     // its share of the host's storage, 10 to 1000, as docker counts: others have 500
}

// Group is the group of one VM's process.
type Group struct {
	base *Base
	dir  string
	file *os.File // the directory
}

// period is what a group's time on CPUs is shared out in: the kernel's default.
const period = 100 * time.Millisecond

// Make makes a group. One of the name that nobody is in is replaced.
func (b *Base) Make(name string, l Limits) (_ *Group, err error) {
	g := &Group{base: b, dir: filepath.Join(b.dir, name)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cgroup %s: %w", g.dir, err)
			_ = g.Remove() // the first error is the one to tell
		}
	}()
	if err := b.enable(b.top); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	_ = b.remove(g.dir) // of a process that was killed
	for range 3 {       // whoever has just removed the last group removes that of all of them
		if err = os.Mkdir(b.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%w: %w", ErrNone, err)
		}
		if err = b.enable(b.dir); err == nil {
			err = os.Mkdir(g.dir, 0o755)
		}
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if err := g.Set(l); err != nil {
		return nil, err
	}
	if b.has(Memory) { // a process that is killed for its memory goes whole
		if err := g.write("memory.oom.group", "1"); err != nil {
			return nil, err
		}
	}
	if b.bare {
		for name, value := range map[string]string{"cpu.stat": "usage_usec 0\n", "memory.current": "0\n"} {
			if err := g.write(name, value); err != nil {
				return nil, err
			}
		}
	}
	g.file, err = os.Open(g.dir)
	return g, err
}

// enable hands the controllers on to the children of a group.
func (b *Base) enable(dir string) error {
	path := filepath.Join(dir, "cgroup.subtree_control")
	on, err := os.ReadFile(path)
	if err != nil && !(b.bare && errors.Is(err, os.ErrNotExist)) {
		return err
	}
	var missing []string
	for _, c := range b.controllers {
		if !slices.Contains(strings.Fields(string(on)), c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 || b.bare {
		return nil
	}
	if err := os.WriteFile(path, []byte(strings.Join(missing, " ")), 0); err != nil {
		return fmt.Errorf("handing controllers on to groups: %w", err)
	}
	return nil
}

func (b *Base) has(controller string) bool { return slices.Contains(b.controllers, controller) }

// Set changes the limits that are not zero.
func (g *Group) Set(l Limits) error {
	if l.CPUs > 0 && g.base.has(CPU) {
		quota := max(int64(l.CPUs*float64(period.Microseconds())), 1000) // the kernel's least
		if err := g.write("cpu.max", fmt.Sprintf("%d %d", quota, period.Microseconds())); err != nil {
			return err
		}
	}
	if l.Memory > 0 && g.base.has(Memory) {
		if err := g.write("memory.max", strconv.FormatUint(l.Memory, 10)); err != nil {
			return err
		}
	}
	if l.PIDs > 0 && g.base.has(PIDs) {
		if err := g.write("pids.max", strconv.Itoa(l.PIDs)); err != nil {
			return err
		}
	}
	if l.IOWeight > 0 && g.base.has(IO) {
		return g.setWeight(l.IOWeight)
	}
	return nil
}

// setWeight sets the share of the host's storage. Which file takes it depends on the host's scheduler of requests; there may be none.
func (g *Group) setWeight(weight int) error {
	// 10 to 1000 is 1 to 10000 here, as other runtimes have it.
	err := g.write("io.weight", fmt.Sprintf("default %d", 1+(weight-10)*9999/990))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		err = g.write("io.bfq.weight", strconv.Itoa(weight))
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("this host's kernel shares its storage out to nobody: --blkio-weight needs io.cost or the scheduler bfq: %w", errors.ErrUnsupported)
	}
	return err
}

func (g *Group) write(name, value string) error {
	flags := os.O_WRONLY
	if g.base.bare {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(filepath.Join(g.dir, name), flags, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Enter has a process start in the group, and not only come into it when it has begun to run.
func (g *Group) Enter(attr *syscall.SysProcAttr) {
	if g != nil && !g.base.bare {
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.file.Fd())
	}
}

// Dir is the group's directory.
func (g *Group) Dir() string { return g.dir }

// Controllers are those that bound the group.
func (g *Group) Controllers() []string { return g.base.controllers }

// Remove removes the group, which nobody may be in any more. It does nothing on nil.
func (g *Group) Remove() error {
	if g == nil {
		return nil
	}
	if g.file != nil {
		g.file.Close()
	}
	if err := g.base.remove(g.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing cgroup %s: %w", g.dir, err)
	}
	_ = unix.Rmdir(g.base.dir) // unless there are others
	return nil
}

// RemoveDir removes the group in a directory, if nobody is in it.
func RemoveDir(dir string) {
	if unix.Rmdir(dir) == nil {
		_ = unix.Rmdir(filepath.Dir(dir))
	}
}

// Sweep removes the groups that are stale, and that nobody is in.
func (b *Base) Sweep(stale func(name string) bool) error {
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && stale(e.Name()) {
			_ = b.remove(filepath.Join(b.dir, e.Name())) // one that somebody is still in goes with the next sweep
		}
	}
	_ = unix.Rmdir(b.dir) // unless there are others
	return nil
}
