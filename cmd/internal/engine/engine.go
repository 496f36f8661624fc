package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
	"github.com/hullvm/hull/images"
	"github.com/hullvm/hull/images/bundle"
)

// Engine is all containers of one user on this host. It has no process of its
// own: any number of engines work on the same directories at once, in any number of
// processes. Its methods may be called from any goroutine.
type Engine struct {
	store store
	probe func() error
	// acquire finds an image and holds it: images.Store.Acquire, but for tests.
	acquire func(context.Context, string) (*images.Image, func(), error)
	// supervisor is the command line that runs Supervise, but for the container's ID.
	supervisor []string
	templates  []string // the command line that runs MakeTemplate; nil: there are none

	filesOnce sync.Once
	files     *bundle.Files
	filesErr  error

	imagesOnce sync.Once
	images     *images.Store
	imagesErr  error
}

// Options are what an engine needs to know.
type Options struct {
	Dirs Dirs

	// Probe tells whether this host's KVM can boot Linux, and if not why. It
	// runs beside other preparations of each VM.
	Probe func() error

	// Supervisor is the command line of a program that calls Supervise with the
	// container's ID that is appended; nil: this program, with the argument "supervise".
	Supervisor []string

	// Templates is the command line of a program that calls MakeTemplate with the Shape that it reads from its standard
	// input as JSON; nil: VMs are neither started from templates nor made ones.
	Templates []string

	// Cgroups finds where the processes of VMs have their cgroups; nil: where this process may make some.
	Cgroups func() (*cgroup.Base, error)

	// Files are the guest kernel and what goes with it; nil: those that this
	// executable carries.
	Files *bundle.Files
}

// thisProgram is the file that this process executes, whatever has become of its name.
const thisProgram = "/proc/self/exe"

// New makes an engine. It touches nothing yet.
func New(o Options) *Engine {
	if o.Cgroups == nil {
		o.Cgroups = func() (*cgroup.Base, error) { return cgroup.Find(o.Dirs.groupsName(os.Geteuid())) }
	}
	e := &Engine{
		store: store{dirs: o.Dirs, groups: sync.OnceValues(o.Cgroups)}, probe: o.Probe, supervisor: o.Supervisor, templates: o.Templates,
	}
	if e.supervisor == nil {
		e.supervisor = []string{thisProgram, "supervise"}
	}
	e.acquire = e.acquireStored
	if o.Files != nil {
		e.filesOnce.Do(func() { e.files = o.Files })
	}
	return e
}

// Close releases what the engine has opened. Containers go on.
func (e *Engine) Close() error {
	if e.images != nil {
		return e.images.Close()
	}
	return nil
}

// Dirs tells where the engine keeps things.
func (e *Engine) Dirs() Dirs { return e.store.dirs }

// Files unpacks what the executable carries, the first time on this host, and
// tells where it is.
func (e *Engine) Files() (*bundle.Files, error) {
	e.filesOnce.Do(func() { e.files, e.filesErr = unpack(e.store.dirs.Cache) })
	return e.files, e.filesErr
}

func unpack(cache string) (*bundle.Files, error) {
	b, err := bundle.Open()
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return b.Extract(cache)
}

// BuiltinImage is the name of the image that hull carries.
const BuiltinImage = "uroot"

// Images opens the image store. Images that containers use are safe in it.
func (e *Engine) Images() (*images.Store, error) {
	e.imagesOnce.Do(func() { e.images, e.imagesErr = e.openImages() })
	return e.images, e.imagesErr
}

func (e *Engine) acquireStored(ctx context.Context, ref string) (*images.Image, func(), error) {
	s, err := e.Images()
	if err != nil {
		return nil, nil, err
	}
	return s.Acquire(ctx, ref)
}

func (e *Engine) openImages() (*images.Store, error) {
	if err := e.store.prepare(); err != nil {
		return nil, err
	}
	s, err := images.Open(e.store.dirs.Data)
	if err != nil {
		return nil, err
	}
	s.SetInUse(func() (map[v1.Hash][]images.User, error) { return e.imagesInUse(context.Background()) })
	if err := e.addBuiltin(s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// addBuiltin makes the built-in image known. A hull without one, such as `go
// build` alone makes, goes without.
func (e *Engine) addBuiltin(s *images.Store) error {
	files, err := e.Files()
	if errors.Is(err, bundle.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	image, err := readBuiltin(files)
	if err != nil {
		return fmt.Errorf("reading the built-in image %s: %w", BuiltinImage, err)
	}
	return s.SetBuiltin(BuiltinImage, *image)
}

func readBuiltin(files *bundle.Files) (*images.Builtin, error) {
	f, err := os.Open(files.UrootConfig)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	config, err := v1.ParseConfigFile(f)
	if err != nil {
		return nil, err
	}
	if len(config.RootFS.DiffIDs) != 1 {
		return nil, fmt.Errorf("its configuration has %d layers, want 1", len(config.RootFS.DiffIDs))
	}
	info, err := os.Stat(files.Uroot)
	if err != nil {
		return nil, err
	}
	layer := images.Disk{DiffID: config.RootFS.DiffIDs[0], Path: files.Uroot, Size: info.Size()}
	return &images.Builtin{Config: *config, Layers: []images.Disk{layer}}, nil
}

// imagesInUse lists which containers use which image.
func (e *Engine) imagesInUse(ctx context.Context) (map[v1.Hash][]images.User, error) {
	all, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	used := make(map[v1.Hash][]images.User)
	for _, r := range all {
		if id, err := v1.NewHash(r.ImageID); err == nil {
			used[id] = append(used[id], images.User{Name: r.Name, Running: r.State.Alive()})
		}
	}
	return used, nil
}

// imageConfig takes over what concerns running an image.
func imageConfig(image *images.Image) ImageConfig {
	c := image.Config.Config
	config := ImageConfig{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
		Volumes: c.Volumes, Labels: c.Labels, StopSignal: c.StopSignal, ExposedPorts: c.ExposedPorts,
	}
	if h := c.Healthcheck; h != nil {
		config.Healthcheck = &HealthCheck{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries}
	}
	return config
}
