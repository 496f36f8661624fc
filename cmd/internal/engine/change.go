package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hullvm/hull/vmm"
)

// Change is what can be changed of a container that exists. Nil leaves a thing as it is.
type Change struct {
	Name    *string        `json:"name,omitempty"`
	Restart *RestartPolicy `json:"restart,omitempty"`
	// Memory in bytes, and CPUs, as in Config. A container that runs keeps the size of its VM: memory is taken from
	// it by its balloon, and cannot be more than it was started with; the number of its CPUs changes with its next start, and
	// at once how much of this host's it may use, where its process has a cgroup.
	Memory *uint64  `json:"memory,omitempty"`
	CPUs   *float64 `json:"cpus,omitempty"`
}

// check tells whether the change makes sense.
func (c *Change) check() error {
	if c.Name != nil {
		if err := CheckName(*c.Name); err != nil {
			return err
		}
	}
	if c.Restart != nil {
		if err := c.Restart.check(); err != nil {
			return err
		}
	}
	if c.CPUs != nil {
		if err := CheckCPUs(*c.CPUs); err != nil {
			return err
		}
	}
	if c.Memory != nil {
		if *c.Memory < MinMemory {
			return fmt.Errorf("memory of %d bytes: a container's VM needs at least %d MiB", *c.Memory, MinMemory>>20)
		}
		return CheckMemory(*c.Memory)
	}
	return nil
}

// Change changes a container, whether it runs or not.
func (e *Engine) Change(ctx context.Context, ref string, c Change) error {
	if err := c.check(); err != nil {
		return err
	}
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if r.State.Status == StatusDead {
		return fmt.Errorf("container %s: %w", ref, errors.New(r.State.Error))
	}
	lock, err := e.store.lock(r.ID)
	if errors.Is(err, errLocked) {
		_, err := e.ask(ctx, r.ID, request{Op: opChange, Change: &c})
		return err
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if r, err = e.store.load(r.ID); err != nil {
		return err
	}
	return e.hold(r, lock).apply(ctx, &c)
}

// apply makes a change to the record.
func (c *Container) apply(ctx context.Context, change *Change) error {
	if change.Name != nil {
		if err := c.rename(ctx, *change.Name); err != nil {
			return err
		}
	}
	return c.update(func(r *Record) {
		if change.Restart != nil {
			r.Config.Restart = *change.Restart
		}
		if change.Memory != nil {
			r.Config.Memory = *change.Memory
		}
		if change.CPUs != nil {
			r.Config.CPUs = *change.CPUs
		}
	})
}

// rename gives the container another name.
func (c *Container) rename(ctx context.Context, name string) error {
	s := &c.engine.store
	gate, err := s.gate(ctx)
	if err != nil {
		return err
	}
	defer gate.Close()
	old := c.Name()
	if name == old {
		return fmt.Errorf("renaming a container with the same name as its current name")
	}
	if id := s.owner(name); id != "" {
		return fmt.Errorf("name %q: %w by container %s: remove that container or choose another name", name, ErrNameInUse, ShortID(id))
	}
	os.Remove(s.nameLink(name)) // one that leads nowhere: see owner
	if err := os.Symlink(s.dir(c.record.ID), s.nameLink(name)); err != nil {
		return fmt.Errorf("renaming container %s: %w", old, err)
	}
	if err := c.update(func(r *Record) { r.Name = name }); err != nil {
		os.Remove(s.nameLink(name))
		return err
	}
	if err := os.Remove(s.nameLink(old)); err != nil {
		return fmt.Errorf("renaming container %s: %w", old, err)
	}
	if err := s.joined.rename(c.latest()); err != nil {
		return fmt.Errorf("renaming container %s: %w", old, err)
	}
	c.engine.emit(c.record, "rename", map[string]string{"oldName": old})
	return nil
}

// change changes a container that is alive.
func (s *supervisor) change(ctx context.Context, c *Change) error {
	if c == nil {
		return errors.New("a change of nothing")
	}
	if err := c.check(); err != nil {
		return err
	}
	if err := s.resizeVM(ctx, c); err != nil {
		return err
	}
	return s.apply(ctx, c)
}

// balloon leaves the guest so many bytes of its memory.
func (s *supervisor) balloon(ctx context.Context, memory uint64) error {
	life := s.current()
	if life == nil {
		return nil // it counts from the next start
	}
	size := life.memory
	if memory > size {
		return fmt.Errorf("memory of %d MiB: the VM was started with %d MiB; stop the container first to give it more", memory>>20, size>>20)
	}
	return life.command(ctx, vmm.Command{Command: vmm.CommandBalloon, Bytes: size - memory})
}
