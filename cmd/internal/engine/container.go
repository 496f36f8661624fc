package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hullvm/hull/images"
)

// Container is a container that this process holds: nobody else can start or
// remove it until Release or Leave.
type Container struct {
	engine *Engine
	id     string
	lock   *lockFile
	disks  []images.Disk
	unhold func() // lets go of the image; may be called again

	mu     sync.Mutex
	record *Record // the latest; never changed, but replaced: see update
}

// ErrPlatformMismatch says that an image is for other machines.
var ErrPlatformMismatch = errors.New("the image is for another platform")

// Create makes a container: name "" makes one up. The image must be in the store.
func (e *Engine) Create(ctx context.Context, name string, c Config) (_ *Container, err error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	if err := e.store.resolveEndpoints(&c.NetworkConfig); err != nil {
		return nil, err
	}
	image, unhold, err := e.acquire(ctx, c.Image)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unhold()
		}
	}()
	if p := image.Config; p.OS != "" && p.OS != "linux" || p.Architecture != "" && p.Architecture != "amd64" {
		return nil, fmt.Errorf("image %q: %w: %s/%s, this host runs linux/amd64", c.Image, ErrPlatformMismatch, p.OS, p.Architecture)
	}
	if err := e.resolveVolumes(ctx, &c, &image.Config.Config); err != nil {
		return nil, err
	}
	if err := c.publishAll(&image.Config.Config, c.Expose); err != nil {
		return nil, err
	}
	r := &Record{
		Name:        name,
		Created:     time.Now(),
		Config:      c,
		ImageID:     image.ID.String(),
		ImageConfig: imageConfig(image),
		// Starting, and not created: if this process dies now, nothing
		// should be left of a container that goes when it ends.
		State: State{Status: StatusStarting},
	}
	r.Config.Labels = mergeLabels(image.Config.Config.Labels, c.Labels)
	if r.State.Supervisor, err = ProcessOf(os.Getpid()); err != nil {
		return nil, fmt.Errorf("finding out about this process: %w", err)
	}
	if _, err := buildSpec(r); err != nil { // what is wrong with it is told before anything exists
		return nil, err
	}
	if err := e.createVolumes(ctx, &r.Config); err != nil {
		return nil, errors.Join(err, e.RemoveAnonymous(ctx, r))
	}
	lock, err := e.store.create(ctx, r)
	if err != nil {
		return nil, errors.Join(err, e.RemoveAnonymous(ctx, r))
	}
	e.emit(r, "create", nil)
	held := e.hold(r, lock)
	held.disks, held.unhold = image.Disks, unhold
	return held, nil
}

// hold is the container of a record whose lock the caller has.
func (e *Engine) hold(r *Record, lock *lockFile) *Container {
	return &Container{engine: e, id: r.ID, record: r, lock: lock, unhold: func() {}}
}

func mergeLabels(image, given map[string]string) map[string]string {
	if len(image)+len(given) == 0 {
		return nil
	}
	all := maps.Clone(image)
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, given)
	return all
}

// ID is the container's ID.
func (c *Container) ID() string { return c.id }

// Name is the container's name.
func (c *Container) Name() string { return c.latest().Name }

// latest is the record as it is now. It is not to be changed.
func (c *Container) latest() *Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record
}

func (c *Container) dir() string { return c.engine.store.dir(c.id) }

// socket is the host's end of the VM's vsock device.
func (c *Container) socket() string {
	return filepath.Join(c.engine.store.vmDir(c.id), socketName)
}

// update writes the record after change has been made to it. What has the record of before may go on to use it.
func (c *Container) update(change func(*Record)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.record
	change(&next)
	if err := next.write(c.dir()); err != nil {
		return err
	}
	c.record = &next
	return nil
}

// save is update for the part that changes most.
func (c *Container) save(change func(*State)) error {
	return c.update(func(r *Record) { change(&r.State) })
}

// Release lets go of a container whose VM has ended. One that goes when it ends is removed.
func (c *Container) Release(ctx context.Context) error {
	if c.lock == nil {
		return nil // somebody else's now
	}
	defer c.unhold()
	defer c.lock.Close()
	if r := c.latest(); r.Config.AutoRemove {
		return c.engine.remove(ctx, r)
	}
	return c.engine.store.removeRunDir(c.id)
}

// Leave lets go of a container that has not run yet.
func (c *Container) Leave() error {
	defer c.unhold()
	defer c.lock.Close()
	return c.save(func(s *State) { s.Status, s.Supervisor = StatusCreated, ProcessRef{} })
}

// remove deletes a container whose lock the caller holds.
func (e *Engine) remove(ctx context.Context, r *Record) error {
	if err := e.store.remove(ctx, r.ID); err != nil {
		return err
	}
	if r.Config.AutoRemove {
		if err := e.RemoveAnonymous(ctx, r); err != nil {
			return err
		}
	}
	e.emit(r, "destroy", nil)
	return nil
}

// open makes the directories usable: with it begins all that looks at containers.
func (e *Engine) open(ctx context.Context) error {
	if err := e.store.prepare(); err != nil {
		return err
	}
	return e.store.sweep(ctx)
}

// List returns the records of all containers, the newest first. Stale ones are
// cleaned up on the way.
func (e *Engine) List(ctx context.Context) ([]*Record, error) {
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	if err := e.store.checkLeftovers(ctx); err != nil {
		return nil, err
	}
	ids, err := e.store.ids()
	if err != nil {
		return nil, err
	}
	var all []*Record
	for _, id := range ids {
		r, err := e.store.current(ctx, id)
		switch {
		case errors.Is(err, ErrNoContainer):
			continue // just gone
		case err != nil:
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b *Record) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// Get returns the record of the container that ref means: an ID, a name, or the
// beginning of an ID.
func (e *Engine) Get(ctx context.Context, ref string) (*Record, error) {
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	id, err := e.store.find(ref)
	if err != nil {
		return nil, err
	}
	return e.store.current(ctx, id)
}

// ErrRunning says that something cannot be done while the container runs.
var ErrRunning = errors.New("container is running: stop the container before removing or force remove")

// removePatience is how long the end of a container that was killed may take.
const removePatience = 10 * time.Second

// Remove deletes a container and what it has written. Force ends it first if it
// is alive.
func (e *Engine) Remove(ctx context.Context, ref string, force bool) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	lock, err := e.store.lock(r.ID)
	switch {
	case errors.Is(err, errLocked) && !force:
		return fmt.Errorf("cannot remove container %q: %w", r.Name, ErrRunning)
	case errors.Is(err, errLocked):
		if lock, err = e.end(ctx, r); err != nil {
			return fmt.Errorf("cannot remove container %q: %w", r.Name, err)
		}
	case err != nil:
		return err
	}
	if lock != nil {
		defer lock.Close()
	}
	return e.remove(ctx, r)
}

// end kills the VM of a living container and waits for its supervisor to let go
// of it. The lock it returns is nil when the container went with its VM.
func (e *Engine) end(ctx context.Context, r *Record) (*lockFile, error) {
	asked, cancel := context.WithTimeout(ctx, killPatience)
	_, err := e.ask(asked, r.ID, request{Op: opEnd})
	cancel()
	if err != nil { // the supervisor is gone or stuck, or has no VM yet
		if err := e.killVM(ctx, r); err != nil {
			return nil, err
		}
	}
	lock, err := waitLock(ctx, filepath.Join(e.store.dir(r.ID), lockName), 0, removePatience)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return lock, err
}
