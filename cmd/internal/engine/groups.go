package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
	"github.com/hullvm/hull/vmm"
)

// GroupState is what bounds the VM's process of a container on this host.
type GroupState struct {
	Dir         string   `json:"dir,omitempty"` // of its cgroup; "": it has none
	Controllers []string `json:"controllers,omitempty"`
	None        string   `json:"none,omitempty"` // why it has none
}

// What a VM's process may have besides its guest's memory: its own, the kernel's for it, the pages of files that it reads and writes
// before they are on the disk, and the tables by which KVM maps the guest's memory.
const (
	memoryOverhead = 128 << 20
	memoryShare    = 64 // a 64th of the guest's memory
)

// memoryLimit is what a VM's process may have in all, in bytes.
func memoryLimit(guest uint64) uint64 { return guest + guest/memoryShare + memoryOverhead }

// Threads of a VM's process: those of its runtime, and for each CPU, disk, card and shared directory, more than they start.
const (
	threadsBase   = 256
	threadsCPU    = 8
	threadsDevice = 64 // virtio/blk: 32 requests of a disk wait for the storage, a thread each
)

func threadLimit(c *vmm.Config) int {
	return threadsBase + threadsCPU*c.CPUs + threadsDevice*(len(c.Disks)+len(c.NICs)+len(c.Shares)+len(c.Pmems))
}

// groupsName is the name of the cgroup that has all of this engine's in it.
func (d *Dirs) groupsName(uid int) string {
	if own, err := Directories(func(string) string { return "" }, uid); err == nil && own.Run == d.Run {
		return "hull"
	}
	sum := sha256.Sum256([]byte(d.Run)) // others have one, with containers of their own
	return "hull-" + hex.EncodeToString(sum[:4])
}

// Cgroups tells which controllers bound the processes of VMs, or why none do.
func (e *Engine) Cgroups() ([]string, error) {
	base, err := e.store.groups()
	if err != nil {
		return nil, err
	}
	return base.Controllers(), nil
}

// group makes the cgroup of a VM. Where there can be none it is nil, and State says why.
func (s *store) group(name string, cpus float64, weight int, c *vmm.Config) (*cgroup.Group, *GroupState, error) {
	base, err := s.groups()
	var g *cgroup.Group
	if err == nil {
		g, err = base.Make(name, cgroup.Limits{CPUs: cpus, Memory: memoryLimit(c.Memory), PIDs: threadLimit(c), IOWeight: weight})
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported): // what the user has asked for
		return nil, nil, err
	case err != nil:
		return nil, &GroupState{None: err.Error()}, nil
	}
	return g, &GroupState{Dir: g.Dir(), Controllers: g.Controllers()}, nil
}

// sweepGroups removes the cgroups of VMs that have ended without their supervisors. Stale containers have been settled before.
func (s *store) sweepGroups() error {
	base, err := s.groups()
	if err != nil {
		return nil // there are none
	}
	return base.Sweep(func(name string) bool {
		if ref, ok := parseBootGroup(name); ok {
			return !ref.Alive()
		}
		if !isID(name) {
			return false
		}
		_, err := os.Lstat(s.ownerLink(name))
		return errors.Is(err, os.ErrNotExist)
	})
}

// A bare VM's cgroup has the process in its name that has started it.
func bootGroup(starter ProcessRef) string {
	return fmt.Sprintf("boot-%d-%d", starter.PID, starter.Start)
}

func parseBootGroup(name string) (ref ProcessRef, ok bool) {
	pid, start, ok := strings.Cut(strings.TrimPrefix(name, "boot-"), "-")
	if !ok || !strings.HasPrefix(name, "boot-") {
		return ref, false
	}
	var err1, err2 error
	ref.PID, err1 = strconv.Atoi(pid)
	ref.Start, err2 = strconv.ParseUint(start, 10, 64)
	return ref, err1 == nil && err2 == nil
}

// remove removes the cgroup of a container whose supervisor was killed.
func (g *GroupState) remove() {
	if g != nil && filepath.IsAbs(g.Dir) {
		cgroup.RemoveDir(g.Dir)
	}
}

// GroupUsage is what this host charges to a VM's process.
type GroupUsage = cgroup.Usage

// Usage reads what this host charges to the VM's process; ok is false if it has no cgroup any more.
func (g *GroupState) Usage() (u GroupUsage, ok bool) {
	if g == nil || g.Dir == "" {
		return u, false
	}
	u, err := cgroup.ReadUsage(g.Dir)
	return u, err == nil
}

// Settings are the limits of the VM's process in the kernel's words.
func (g *GroupState) Settings() map[string]string {
	if g == nil || g.Dir == "" {
		return nil
	}
	return cgroup.Settings(g.Dir)
}

// Of a guest that is to give memory back: how long it may take, and how often to look whether it has.
const (
	shrinkPatience = 10 * time.Second
	shrinkPoll     = 50 * time.Millisecond
)

// resizeVM changes the memory and the time on CPUs of a container's VM that runs: the guest's by its balloon, the process's by its cgroup.
func (s *supervisor) resizeVM(ctx context.Context, change *Change) error {
	life := s.current()
	if life == nil {
		return nil // it counts from the next start
	}
	var group *cgroup.Group
	if vm := life.machine(); vm != nil {
		group = vm.group
	}
	if change.Memory != nil {
		if err := s.resizeMemory(ctx, life, group, *change.Memory); err != nil {
			return err
		}
	}
	if change.CPUs != nil && group != nil {
		return group.Set(cgroup.Limits{CPUs: *change.CPUs})
	}
	return nil
}

func (s *supervisor) resizeMemory(ctx context.Context, life *run, group *cgroup.Group, memory uint64) error {
	limit := memoryLimit(memory)
	if group == nil || group.MemoryMax() == 0 {
		return s.balloon(ctx, memory)
	}
	if limit >= group.MemoryMax() {
		if memory <= life.memory {
			if err := group.Set(cgroup.Limits{Memory: limit}); err != nil {
				return err
			}
		}
		return s.balloon(ctx, memory) // which refuses what is more than there is
	}
	if err := s.balloon(ctx, memory); err != nil {
		return err
	}
	// The kernel would kill a process that has more than it may have; the guest gives back what it has in its own time.
	if held, err := awaitUsage(ctx, group, limit); err != nil {
		before := s.latest().Config.Memory
		return errors.Join(fmt.Errorf("memory of %d MiB: the guest has not given back enough: its VM holds %d MiB: %w", memory>>20, held>>20, err), s.balloon(ctx, before))
	}
	return group.Set(cgroup.Limits{Memory: limit})
}

// awaitUsage waits until a group holds no more than so much memory.
func awaitUsage(ctx context.Context, group *cgroup.Group, limit uint64) (held uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, shrinkPatience)
	defer cancel()
	tick := time.NewTicker(shrinkPoll)
	defer tick.Stop()
	for {
		u, err := group.Usage()
		if err != nil || u.Memory <= limit {
			return u.Memory, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return u.Memory, ctx.Err()
		}
	}
}
