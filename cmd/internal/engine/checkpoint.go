package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/snapshot"
)

// What is in the directory of a checkpoint.
const (
	checkpointVM     = "vm"              // the machine, as package vmm saves it
	checkpointDisk   = "disk"            // what the container had written; not there for one that keeps that in memory
	checkpointRecord = "checkpoint.json" // a checkpoint
)

// checkpointVersion is the version of what a checkpoint says.
const checkpointVersion = 1

// checkpoint is what a restore must know of a container that was saved, besides its machine and its disk.
type checkpoint struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	// Container is the record as it was.
	Container Record            `json:"container"`
	Frozen    proto.Frozen      `json:"frozen"`
	Cards     []proto.Interface `json:"cards,omitempty"` // network cards of the VM

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
	switch {
	case len(c.Mounts) > 0:
		return errors.New("it has volumes or directories of this host, which are not part of a checkpoint")
	case len(c.Disks) > 0:
		return errors.New("it has disks of its own (--disk), which are not part of a checkpoint")
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
	out, err := snapshot.Create(c.Dir)
	if err != nil {
		return err
	}
	if err := r.saveTo(ctx, record, out.Path(), c.Stop); err != nil {
		return errors.Join(err, out.Abort())
	}
	return out.Commit()
}

// saveTo saves the VM of a running container to a directory. It goes on afterwards unless it is to stop.
func (r *run) saveTo(ctx context.Context, record *Record, dir string, stop bool) (err error) {
	client, vm := r.agent(), r.machine()
	if client == nil || vm == nil {
		return ErrNotRunning
	}
	frozen, err := freeze(ctx, client, r.socket(), r.pumps)
	if err != nil {
		return err
	}
	defer func() {
		if stop && err == nil {
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
	if _, err := vm.ask(ctx, vmm.Command{Command: vmm.CommandSnapshot, Dir: filepath.Join(dir, checkpointVM)}); err != nil {
		return err
	}
	if r.scratch.FD != 0 { // the VM process has it open, also when it has no name
		path := fmt.Sprintf("/proc/%d/fd/%d", vm.process.Pid, r.scratch.FD)
		if err := cloneFile(filepath.Join(dir, checkpointDisk), path); err != nil {
			return fmt.Errorf("copying what it has written: %w", err)
		}
	}
	c := checkpoint{Version: checkpointVersion, Created: time.Now(), Container: *record, Frozen: *frozen}
	if r.network != nil {
		c.Cards = r.network.cards
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, checkpointRecord), data, 0o600)
}

// cloneFile copies a sparse file. Where the file system can, the copies share what neither changes.
func cloneFile(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	return cloneInto(dst, src)
}

// cloneInto makes an empty file a copy of another.
func cloneInto(dst, src *os.File) error {
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	size, err := src.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		start, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if err := copyRange(dst, src, start, end); err != nil {
			return err
		}
		off = end
	}
	return nil
}

func copyRange(dst, src *os.File, start, end int64) error {
	buf := make([]byte, min(end-start, 1<<20))
	for start < end {
		p := buf[:min(int64(len(buf)), end-start)]
		n, err := src.ReadAt(p, start)
		if n == 0 {
			return err
		}
		if _, err := dst.WriteAt(p[:n], start); err != nil {
			return err
		}
		start += int64(n)
	}
	return nil
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
func (r *run) restoredScratch(keep bool) (*os.File, error) {
	src, err := os.Open(filepath.Join(r.checkpoint.dir, checkpointDisk))
	if err != nil {
		return nil, err
	}
	defer src.Close()
	f, err := unnamedFile(r.dir())
	if keep {
		f, err = os.CreateTemp(r.dir(), ".scratch-")
	}
	if err != nil {
		return nil, err
	}
	err = cloneInto(f, src)
	if err == nil && keep {
		err = os.Rename(f.Name(), filepath.Join(r.dir(), scratchName))
	}
	if err != nil {
		if keep {
			err = errors.Join(err, os.Remove(f.Name()))
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
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
	if _, err := readCheckpoint(path); err != nil {
		return err
	}
	return c.save(func(s *State) { s.Checkpoint = path })
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
	return e.createFrom(ctx, saved, name)
}

func (e *Engine) createFrom(ctx context.Context, saved *checkpoint, name string) (*Container, error) {
	config := saved.Container.Config
	config.Image = saved.Container.ImageID // whatever has become of the name
	c, err := e.Create(ctx, name, config)
	if err != nil {
		return nil, err
	}
	err = c.update(func(r *Record) {
		r.Config.Image, r.State.Checkpoint = saved.Container.Config.Image, saved.dir
	})
	if err != nil {
		return nil, errors.Join(err, c.Leave())
	}
	return c, nil
}

// forking is how many containers are forked at a time.
const forking = 4

// Fork makes n running copies of a running container, which goes on. Each is a container of its own: with another name, prefix
// and a number, address and identity, and with ports of its own where the source's are published at fixed ones. It reports each
// as it runs, in any order, never two at a time.
func (e *Engine) Fork(ctx context.Context, ref, prefix string, n int, report func(id string)) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if prefix == "" {
		prefix = r.Name
	}
	parent := filepath.Join(e.store.dir(r.ID), checkpointsName)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("fork: %w", err)
	}
	dir := filepath.Join(parent, newPrefix+ShortID(newID()))
	if err := e.saveContainer(ctx, r, dir, false); err != nil {
		return err
	}
	defer os.RemoveAll(dir) // the copies have it mapped
	saved, err := readCheckpoint(dir)
	if err != nil {
		return err
	}
	c := &saved.Container.Config
	c.MAC, c.Ports = MAC{}, anyPorts(c.Ports)
	names, err := e.freeNames(ctx, prefix, n)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, forking)
	var work sync.WaitGroup
	for _, name := range names {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			id, err := e.forkOne(ctx, saved, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("fork %s: %w", name, err))
				return
			}
			report(id)
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// anyPorts are the ports of a copy: at any port of the host.
func anyPorts(ports []PortBinding) []PortBinding {
	var out []PortBinding
	for _, p := range ports {
		p.Host, p.HostEnd = netip.AddrPortFrom(p.Host.Addr(), 0), 0
		out = append(out, p)
	}
	return out
}

func (e *Engine) forkOne(ctx context.Context, saved *checkpoint, name string) (string, error) {
	c, err := e.createFrom(ctx, saved, name)
	if err != nil {
		return "", err
	}
	_, err = c.Start(ctx, StartOptions{})
	return c.ID(), errors.Join(err, c.Release(ctx))
}

// freeNames finds n names that begin with prefix and end with a number.
func (e *Engine) freeNames(ctx context.Context, prefix string, n int) ([]string, error) {
	all, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	taken := make(map[string]bool)
	for _, r := range all {
		if strings.HasPrefix(r.Name, prefix) {
			taken[r.Name] = true
		}
	}
	var names []string
	for i := 1; len(names) < n; i++ {
		name := fmt.Sprintf("%s-%d", prefix, i)
		if err := CheckName(name); err != nil {
			return nil, err
		}
		if !taken[name] {
			names = append(names, name)
		}
	}
	return names, nil
}
