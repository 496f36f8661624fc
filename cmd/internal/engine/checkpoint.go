package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/images"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/snapshot"
)

// What is in the directory of a checkpoint.
const (
	checkpointVM     = "vm"              // the machine, as package vmm saves it
	checkpointDisk   = "disk"            // what the container had written; not there for one that keeps that in memory
	checkpointRecord = "checkpoint.json" // a checkpoint
)

// checkpointVersion is the latest version of what a checkpoint says. One is written in the first version that has all of it.
const checkpointVersion = checkpointVersionVolumes

// checkpoint is what a restore must know of a container that was saved, besides its machine and its disk.
type checkpoint struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	// Container is the record as it was.
	Container Record `json:"container"`
	// Digests are names by digest under which registries have the container's image.
	Digests []string          `json:"digests,omitempty"`
	Frozen  proto.Frozen      `json:"frozen"`
	Cards   []proto.Interface `json:"cards,omitempty"`   // network cards of the VM
	Volumes []savedVolume     `json:"volumes,omitempty"` // that are disks

	dir string // where it is
}

// checkpointRequest asks a supervisor for a checkpoint.
type checkpointRequest struct {
	Dir  string `json:"dir"`
	Stop bool   `json:"stop,omitempty"` // the container ends when it is saved
}

// ErrNoCheckpoint says that there is none of that name.
var ErrNoCheckpoint = errors.New("no such checkpoint")

// savable tells why a container cannot be saved: what it has outside of its VM would not be what it was.
func (c *Config) savable() error {
	for i := range c.Disks {
		if err := c.Disks[i].checkSavable(); err != nil {
			return err
		}
	}
	return nil
}

// checkpoint saves the container of this supervisor.
func (s *supervisor) checkpoint(ctx context.Context, c *checkpointRequest) (err error) {
	r, err := s.running()
	if err != nil {
		return err
	}
	record := s.latest()
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot checkpoint container %s: %w", record.Name, err)
		}
	}()
	if record.State.Status != StatusRunning {
		return errors.New("it is paused")
	}
	if err := record.Config.savable(); err != nil {
		return err
	}
	if _, err := os.Lstat(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", c.Dir, fs.ErrExist)
	}
	if !s.saving.TryLock() {
		return errors.New("another checkpoint of it is being made")
	}
	defer s.saving.Unlock()
	out, err := snapshot.Create(c.Dir)
	if err != nil {
		return err
	}
	end := func() {}
	if c.Stop {
		end = s.noMoreLives // its restart policy is not to start it
	}
	if err := r.saveTo(ctx, record, out, c.Stop, end); err != nil {
		return errors.Join(err, out.Abort())
	}
	s.log.Info("checkpoint saved", "dir", c.Dir, "stop", c.Stop)
	return nil
}

// saveTo saves the VM of a running container to a directory, which is complete then. It goes on afterwards unless it is to
// stop; end is called before it does.
func (r *run) saveTo(ctx context.Context, record *Record, out *snapshot.Dir, stop bool, end func()) (err error) {
	dir := out.Path()
	client, vm := r.agent(), r.machine()
	if client == nil || vm == nil {
		return ErrNotRunning
	}
	if err := checkSavableVolumes(r.volumes, stop); err != nil {
		return err
	}
	digests, err := r.engine.imageDigests(ctx, record.ImageID)
	if err != nil {
		return err
	}
	frozen, err := freeze(ctx, client, r.socket(), r.pumps)
	if err != nil {
		return err
	}
	defer func() {
		if stop && err == nil {
			end()
			vm.kill()
			return
		}
		err = errors.Join(err, resume(context.WithoutCancel(ctx), client, r.socket(), frozen, r.pumps))
	}()
	if _, err := vm.ask(ctx, vmm.Command{Command: vmm.CommandPause}); err != nil {
		return err
	}
	defer func() {
		if !stop || err != nil {
			_, resumeErr := vm.ask(context.WithoutCancel(ctx), vmm.Command{Command: vmm.CommandResume})
			err = errors.Join(err, resumeErr)
		}
	}()
	if err := vm.snapshot(ctx, filepath.Join(dir, checkpointVM)); err != nil {
		return err
	}
	if r.scratch != nil {
		if err := copyDisk(filepath.Join(dir, checkpointDisk), vm, r.scratch); err != nil {
			return fmt.Errorf("copying what it has written: %w", err)
		}
	}
	if err := r.saveDisks(dir, vm, record.Config.Disks); err != nil {
		return err
	}
	volumes, err := r.saveVolumes()
	if err != nil {
		return err
	}
	c := checkpoint{Version: 1, Created: time.Now(), Container: *record, Digests: digests, Frozen: *frozen, Volumes: volumes}
	if len(volumes) > 0 {
		c.Version = checkpointVersionVolumes
	}
	if r.network != nil {
		c.Cards = r.network.cards
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, checkpointRecord), data, 0o600); err != nil {
		return err
	}
	return out.Commit()
}

// readCheckpoint reads what is in the directory of a checkpoint.
func readCheckpoint(dir string) (*checkpoint, error) {
	path := filepath.Join(dir, checkpointRecord)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoCheckpoint, dir)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecord {
		return nil, fmt.Errorf("checkpoint %s: %w", dir, ErrBroken)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := checkpoint{dir: dir}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w: %w", dir, ErrBroken, err)
	}
	if c.Version < 1 || c.Version > checkpointVersion {
		return nil, fmt.Errorf("checkpoint %s: version %d, this hull knows up to %d", dir, c.Version, checkpointVersion)
	}
	return &c, nil
}

// takeCheckpoint has this life begin where a checkpoint was made, if it was asked to. The next one does not.
func (r *run) takeCheckpoint() error {
	dir := r.record.State.Checkpoint
	if dir == "" {
		return nil
	}
	if err := r.save(func(s *State) { s.Checkpoint = "" }); err != nil {
		return err
	}
	c, err := readCheckpoint(dir)
	if err != nil {
		return err
	}
	if c.Container.ImageID != r.record.ImageID {
		return fmt.Errorf("checkpoint %s: it is of a container of another image (%s)", dir, c.Container.ImageID)
	}
	r.checkpoint = c
	return nil
}

// restore has the VM go on from the checkpoint.
func (r *run) restore(config *vmm.Config, table *fileTable) (err error) {
	config.Restore = &vmm.Snapshot{}
	vm := filepath.Join(r.checkpoint.dir, checkpointVM)
	if config.Restore.State, err = table.open(filepath.Join(vm, vmm.SnapshotState), os.O_RDONLY); err != nil {
		return fmt.Errorf("opening the checkpoint: %w", err)
	}
	if config.Restore.Memory, err = table.open(filepath.Join(vm, vmm.SnapshotMemory), os.O_RDONLY); err != nil {
		return fmt.Errorf("opening the checkpoint: %w", err)
	}
	return nil
}

// restoredScratch is the writable disk of a container as it was at its checkpoint.
func (r *run) restoredScratch(keep bool, table *fileTable) (vmm.Disk, error) {
	saved := filepath.Join(r.checkpoint.dir, checkpointDisk)
	if keep {
		if err := putDisk(filepath.Join(r.dir(), scratchName), saved); err != nil {
			return vmm.Disk{}, err
		}
		return r.openScratch("", keep, table)
	}
	src, err := os.Open(saved)
	if err != nil {
		return vmm.Disk{}, err
	}
	f, err := unnamedFile(r.dir())
	if err != nil {
		return vmm.Disk{}, errors.Join(err, src.Close())
	}
	own := table.add(f)
	if unix.IoctlFileClone(int(f.Fd()), int(src.Fd())) == nil {
		return vmm.Disk{File: &own}, src.Close()
	}
	base := table.add(src)
	return vmm.Disk{File: &base, Overlay: &own, Keep: true}, nil
}

// workload is the main process of a container.
type workload struct {
	began int64 // when it was started, or went on, CLOCK_MONOTONIC in ns
	wait  func(context.Context) (proto.Exited, error)
}

// goOn lets the workload of a checkpoint go on as this container's.
func (r *run) goOn(ctx context.Context, client *proto.Client) (*workload, error) {
	thaw, err := r.identity(r.checkpoint.Cards)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.record.Config.BootTimeout)
	defer cancel()
	if err := become(ctx, client, thaw); err != nil {
		return nil, err
	}
	return &workload{began: monotonic(), wait: func(ctx context.Context) (proto.Exited, error) {
		return client.Wait(ctx, proto.InitProcess)
	}}, nil
}

// CheckpointInfo is one of a container's checkpoints.
type CheckpointInfo struct {
	Name    string
	Created time.Time
}

// checkpointsName is the directory of a container's checkpoints in its own.
const checkpointsName = "checkpoints"

// checkpointDir is where the checkpoint of a container is; dir replaces the place for all of them, "" does not.
func (e *Engine) checkpointDir(r *Record, dir, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("checkpoint: %w", err)
	}
	if dir == "" {
		dir = filepath.Join(e.store.dir(r.ID), checkpointsName)
	}
	return filepath.Abs(filepath.Join(dir, name))
}

// Checkpoint saves a running container under a name. Unless leave is set, it ends then.
func (e *Engine) Checkpoint(ctx context.Context, ref, dir, name string, leave bool) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	path, err := e.checkpointDir(r, dir, name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return e.saveContainer(ctx, r, path, !leave)
}

func (e *Engine) saveContainer(ctx context.Context, r *Record, path string, stop bool) error {
	if !r.State.Alive() {
		return fmt.Errorf("container %s %w", r.ID, ErrNotRunning)
	}
	if _, err := e.ask(ctx, r.ID, request{Op: opCheckpoint, Checkpoint: &checkpointRequest{Dir: path, Stop: stop}}); err != nil {
		return err
	}
	e.emit(r, "checkpoint", nil)
	if stop {
		return e.awaitRelease(ctx, r)
	}
	return nil
}

// Checkpoints lists the checkpoints of a container.
func (e *Engine) Checkpoints(ctx context.Context, ref, dir string) ([]CheckpointInfo, error) {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		dir = filepath.Join(e.store.dir(r.ID), checkpointsName)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []CheckpointInfo
	for _, entry := range entries {
		if CheckName(entry.Name()) != nil {
			continue // one that is being made, or is a fork's
		}
		if c, err := readCheckpoint(filepath.Join(dir, entry.Name())); err == nil {
			list = append(list, CheckpointInfo{entry.Name(), c.Created})
		}
	}
	return list, nil
}

// RemoveCheckpoint removes a checkpoint of a container.
func (e *Engine) RemoveCheckpoint(ctx context.Context, ref, dir, name string) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	path, err := e.checkpointDir(r, dir, name)
	if err != nil {
		return err
	}
	if _, err := readCheckpoint(path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// UseCheckpoint has the next start of a container that is held go on from a checkpoint.
func (c *Container) UseCheckpoint(dir, name string) error {
	path, err := c.engine.checkpointDir(c.latest(), dir, name)
	if err != nil {
		return err
	}
	saved, err := readCheckpoint(path)
	if err != nil {
		return err
	}
	disks, err := c.takeDisks(saved)
	if err != nil {
		return err
	}
	return c.update(func(r *Record) { r.Config.Disks, r.State.Checkpoint = disks, path })
}

// Snapshot saves a running container to a directory of the user's, and lets it go on.
func (e *Engine) Snapshot(ctx context.Context, ref, dir string) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return e.saveContainer(ctx, r, path, false)
}

// Restore makes a container that goes on where the one was that was saved in the directory. It is held, and not started
// yet. Name "" makes one up. The image must be in the store.
func (e *Engine) Restore(ctx context.Context, dir, name string) (*Container, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	saved, err := readCheckpoint(path)
	if err != nil {
		return nil, err
	}
	c, err := e.createFrom(ctx, saved, name)
	if errors.Is(err, images.ErrNotFound) {
		err = &MissingImageError{Name: saved.Container.Config.Image, ID: saved.Container.ImageID, Digests: saved.Digests}
	}
	return c, err
}

// MissingImageError says that a host has not the image of a container that was saved, perhaps on another one. It wraps
// images.ErrNotFound.
type MissingImageError struct {
	Name, ID string
	Digests  []string // names by digest under which registries have it; may be none
}

func (m *MissingImageError) Error() string {
	s := fmt.Sprintf("its image %q (%s) is %v", m.Name, m.ID, images.ErrNotFound)
	if len(m.Digests) == 0 {
		s += ", and did not come from a registry: bring it here with hull save and hull load"
	}
	return s
}

func (m *MissingImageError) Unwrap() error { return images.ErrNotFound }

// imageDigests are the names by digest of the image with the ID.
func (e *Engine) imageDigests(ctx context.Context, id string) (names []string, err error) {
	image, unhold, err := e.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unhold()
	for _, name := range image.Digests {
		names = append(names, name.String())
	}
	return names, nil
}

func (e *Engine) createFrom(ctx context.Context, saved *checkpoint, name string) (*Container, error) {
	config := saved.Container.Config
	config.Image = saved.Container.ImageID // whatever has become of the name
	config.Disks = nil                     // it has its own, once there is a directory for them
	config.VolumesFrom = nil               // they are among its mounts
	config.Mounts = othersMounts(config.Mounts)
	c, err := e.Create(ctx, name, config)
	if err != nil {
		return nil, err
	}
	disks, err := c.takeDisks(saved)
	if err == nil {
		err = c.update(func(r *Record) {
			r.Config.Image, r.Config.Disks, r.State.Checkpoint = saved.Container.Config.Image, disks, saved.dir
		})
	}
	if err != nil {
		return nil, errors.Join(err, c.Leave())
	}
	return c, nil
}

// othersMounts are the mounts of a container that goes on with those of another: none is its own to remove, or made if it is not there.
func othersMounts(mounts []Mount) []Mount {
	mounts = slices.Clone(mounts)
	for i := range mounts {
		mounts[i].Anonymous, mounts[i].Create = false, false
	}
	return mounts
}
