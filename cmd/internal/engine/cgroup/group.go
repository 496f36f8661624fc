package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// Group is the group of one VM. There are two in it: that of the VM's process, and that of the process which works for it alone, if
// there is one: what a guest has others do for it is charged to the guest.
type Group struct {
	base *Base
	dir  string
	file *os.File // the directory of the VM's process

	mu     sync.Mutex // of what follows
	origin string     // where the process was that has joined; "" if none has
	gone   bool       // Remove was called
}

// The groups in a VM's. Time on CPUs and the share of the storage are for both of them, memory and threads for the first: the other
// process must not be killed for what the guest has.
const (
	processName = "vm"
	helperName  = "supervisor"
)

// File is where the group in a directory has a file of the kernel's: memory.max, cpu.stat.
func File(dir, name string) string {
	if controller, _, _ := strings.Cut(name, "."); controller == Memory || controller == PIDs {
		dir = filepath.Join(dir, processName)
	}
	return filepath.Join(dir, name)
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
	_ = b.removeTree(g.dir) // of a process that was killed
	for range 3 {           // whoever has just removed the last group removes that of all of them
		if err = os.Mkdir(b.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%w: %w", ErrNone, err)
		}
		if err = b.enable(b.dir); err == nil {
			err = b.makeTree(g.dir)
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
	g.file, err = os.Open(filepath.Join(g.dir, processName))
	return g, err
}

// makeTree makes a VM's group and those in it. What could not be removed, because this process is in it, is as good.
func (b *Base) makeTree(dir string) error {
	for i, d := range groupsOf(dir) {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if i == 0 {
			if err := b.enable(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeTree removes what makeTree makes. The error is that of the group itself.
func (b *Base) removeTree(dir string) error {
	dirs := groupsOf(dir)
	for _, d := range slices.Backward(dirs[1:]) {
		_ = b.remove(d)
	}
	return b.remove(dir)
}

// groupsOf are a VM's group, and those in it.
func groupsOf(dir string) []string {
	return []string{dir, filepath.Join(dir, processName), filepath.Join(dir, helperName)}
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
	f, err := os.OpenFile(File(g.dir, name), flags, 0o644)
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

// Join has this process work in the group, for the guest, until Remove is called. It does nothing where the process may not: an ordinary
// user's cannot be moved out of a login session.
func (g *Group) Join() {
	if g == nil || g.base.bare {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	own, err := os.ReadFile("/proc/self/cgroup")
	place, ok := placeIn(own)
	if err != nil || !ok || g.gone {
		return
	}
	if enter(filepath.Join(g.dir, helperName)) == nil {
		g.origin = filepath.Join(g.base.root, place)
	}
}

// leave takes this process out of the group again. Where it was may be gone: the hierarchy's root is always there.
func (g *Group) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	if g.origin != "" && enter(g.origin) != nil {
		_ = enter(g.base.root) // else the group stays until this process has ended, and is swept
	}
	g.origin = ""
}

// enter moves this process to the group in a directory.
func enter(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// Dir is the group's directory.
func (g *Group) Dir() string { return g.dir }

// Controllers are those that bound the group.
func (g *Group) Controllers() []string { return g.base.controllers }

// Remove removes the group, which nobody may be in any more but this process, if it has joined. It does nothing on nil.
func (g *Group) Remove() error {
	if g == nil {
		return nil
	}
	g.leave()
	if g.file != nil {
		g.file.Close()
	}
	if err := g.base.removeTree(g.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing cgroup %s: %w", g.dir, err)
	}
	_ = unix.Rmdir(g.base.dir) // unless there are others
	return nil
}

// RemoveDir removes the group in a directory, if nobody is in it.
func RemoveDir(dir string) {
	if (&Base{remove: unix.Rmdir}).removeTree(dir) == nil {
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
			_ = b.removeTree(filepath.Join(b.dir, e.Name())) // one that somebody is still in goes with the next sweep
		}
	}
	_ = unix.Rmdir(b.dir) // unless there are others
	return nil
}
