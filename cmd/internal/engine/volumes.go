package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/images/scratch"
)

// Volumes:
//
//	<data>/volumes/<name>/     one volume; .<name> while it is made or removed
//	    volume.json            its Volume; none if it is of an older hull
//	    _data                  its content, a directory that is shared with VMs, or
//	    disk.ext4              a disk for one VM at a time

// Volume is a place for files that outlives containers.
type Volume struct {
	Version int               `json:"version"`
	Name    string            `json:"name"`
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
	// Anonymous says that a container has made it for itself.
	Anonymous bool `json:"anonymous,omitempty"`
}

// volumeVersion is the version of the format of volume.json.
const volumeVersion = 1

const (
	volumeName     = "volume.json"
	volumeDiskName = "disk.ext4"
)

// DriverLocal is the one driver of volumes.
const DriverLocal = "local"

// anonymousLabel is what docker labels volumes with that nobody has named.
const anonymousLabel = "com.docker.volume.anonymous"

// Errors of volumes, in docker's words.
var (
	ErrNoVolume    = errors.New("no such volume")
	ErrVolumeInUse = errors.New("volume is in use")
)

func (s *store) volumes() string { return filepath.Join(s.dirs.Data, "volumes") }

// volumeRoot is all of a volume.
func (s *store) volumeRoot(name string) string { return filepath.Join(s.volumes(), name) }

// kind is what a volume is made of.
type kind struct {
	disk bool
	size int64 // of the disk, bytes
}

// minVolumeDisk is what a volume's disk has at least: the size of the file system that it begins with.
const (
	minVolumeDisk     = 256 << 20
	maxVolumeDisk     = 16 << 40
	defaultVolumeDisk = 10 << 30
)

// volumeKind reads the options of a volume: none, or type=disk with a size.
func volumeKind(options map[string]string) (kind, error) {
	var k kind
	for _, key := range slices.Sorted(maps.Keys(options)) {
		switch value := options[key]; {
		case key == "type" && value == "disk":
			k.disk = true
		case key == "type":
			return k, fmt.Errorf("volume option type=%s: there is only type=disk, a disk of its own; for a directory of this host use a bind mount", value)
		case key == "size":
			size, err := units.RAMInBytes(value)
			if err != nil || size < minVolumeDisk || size > maxVolumeDisk {
				return k, fmt.Errorf("volume option size=%s: must be 256m to 16t", value)
			}
			k.size = size &^ (scratch.BlockSize - 1)
		default:
			return k, fmt.Errorf("volume option %q: there are type=disk and size", key)
		}
	}
	if k.size != 0 && !k.disk {
		return k, errors.New("volume option size: only a volume with type=disk has a size of its own")
	}
	if k.disk && k.size == 0 {
		k.size = defaultVolumeDisk
	}
	return k, nil
}

// CreateVolume makes a volume, with a name if it has none. One that is there already is as good, unless it is of
// another kind.
func (e *Engine) CreateVolume(ctx context.Context, v Volume) (*Volume, error) {
	if v.Name == "" {
		v.Name, v.Anonymous = newID(), true
		v.Labels = maps.Clone(v.Labels)
		if v.Labels == nil {
			v.Labels = make(map[string]string)
		}
		v.Labels[anonymousLabel] = ""
	}
	if err := CheckVolumeName(v.Name); err != nil {
		return nil, err
	}
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	return e.createVolume(ctx, v)
}

func (e *Engine) createVolume(ctx context.Context, v Volume) (*Volume, error) {
	k, err := volumeKind(v.Options)
	if err != nil {
		return nil, err
	}
	s := &e.store
	// Nobody else has business among them, whatever the modes of the files in them.
	if err := makeCommon(s.volumes()); err != nil {
		return nil, err
	}
	gate, err := s.gate(ctx)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	there, err := s.readVolume(v.Name)
	switch {
	case err == nil && len(v.Options) > 0 && !maps.Equal(there.Options, v.Options):
		return nil, fmt.Errorf("volume %s exists, with other options: remove it or choose another name", v.Name)
	case err == nil || !errors.Is(err, ErrNoVolume):
		return there, err
	}
	v.Version, v.Created = volumeVersion, time.Now()
	building := s.volumeRoot("." + v.Name)
	if err := os.RemoveAll(building); err != nil { // of somebody who was killed
		return nil, fmt.Errorf("creating volume %s: %w", v.Name, err)
	}
	err = os.Mkdir(building, 0o700)
	if err == nil {
		err = writeJSON(filepath.Join(building, volumeName), &v)
	}
	if err == nil && k.disk {
		err = e.makeVolumeDisk(filepath.Join(building, volumeDiskName), k.size)
	} else if err == nil {
		err = mkdirMode(filepath.Join(building, "_data"), 0o755)
	}
	if err == nil {
		err = os.Rename(building, s.volumeRoot(v.Name))
	}
	if err != nil {
		os.RemoveAll(building)
		return nil, fmt.Errorf("creating volume %s: %w", v.Name, err)
	}
	return &v, nil
}

// mkdirMode makes a directory with a mode, whatever the umask.
func mkdirMode(dir string, mode os.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// makeVolumeDisk makes an empty disk. Its file system grows to the disk's size when it is mounted.
func (e *Engine) makeVolumeDisk(path string, size int64) error {
	files, err := e.Files()
	if err != nil {
		return err
	}
	t, err := scratch.Load(files.Volume)
	if err != nil {
		return err
	}
	if err := t.Create(path); err != nil {
		return err
	}
	if err := os.Truncate(path, max(size, t.Size())); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// readVolume reads a volume's record.
func (s *store) readVolume(name string) (*Volume, error) {
	info, err := os.Stat(s.volumeRoot(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("get %s: %w", name, ErrNoVolume)
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(s.volumeRoot(name), volumeName))
	if errors.Is(err, os.ErrNotExist) {
		return &Volume{Version: volumeVersion, Name: name, Created: info.ModTime()}, nil
	}
	if err != nil {
		return nil, err
	}
	v, err := parseVolumeRecord(data, name)
	if err != nil {
		return nil, fmt.Errorf("%w: volume %s: %w", ErrBroken, name, err)
	}
	return v, nil
}

func parseVolumeRecord(data []byte, name string) (*Volume, error) {
	var v Volume
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	switch {
	case v.Version < 1 || v.Version > volumeVersion:
		return nil, fmt.Errorf("format version %d, this hull knows up to %d", v.Version, volumeVersion)
	case v.Name != name:
		return nil, fmt.Errorf("it is about volume %q", v.Name)
	}
	_, err := volumeKind(v.Options)
	return &v, err
}

// Volumes lists all volumes by their names.
func (e *Engine) Volumes(ctx context.Context) ([]*Volume, error) {
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(e.store.volumes())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing volumes: %w", err)
	}
	var all []*Volume
	for _, entry := range entries {
		if !entry.IsDir() || CheckVolumeName(entry.Name()) != nil {
			continue
		}
		v, err := e.store.readVolume(entry.Name())
		switch {
		case errors.Is(err, ErrBroken):
			v = &Volume{Name: entry.Name(), Created: time.Unix(0, 0)} // it can be seen and removed
		case errors.Is(err, ErrNoVolume):
			continue
		case err != nil:
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// GetVolume finds a volume by its name.
func (e *Engine) GetVolume(ctx context.Context, name string) (*Volume, error) {
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	if CheckVolumeName(name) != nil {
		return nil, fmt.Errorf("get %s: %w", name, ErrNoVolume)
	}
	return e.store.readVolume(name)
}

// VolumesInUse lists the IDs of the containers that use each volume, living or not.
func (e *Engine) VolumesInUse(ctx context.Context) (map[string][]string, error) {
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	return e.store.volumeUsers()
}

func (s *store) volumeUsers() (map[string][]string, error) {
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	users := make(map[string][]string)
	for _, id := range ids {
		r, err := s.load(id)
		if errors.Is(err, ErrNoContainer) {
			continue // just gone
		}
		if err != nil {
			return nil, err
		}
		for _, m := range r.Config.Mounts {
			if m.Volume {
				users[m.Source] = append(users[m.Source], r.ID)
			}
		}
	}
	return users, nil
}

// RemoveVolume removes a volume that no container uses, and returns how many bytes that has freed.
func (e *Engine) RemoveVolume(ctx context.Context, name string) (int64, error) {
	if _, err := e.GetVolume(ctx, name); err != nil && !errors.Is(err, ErrBroken) {
		return 0, err
	}
	return e.store.removeVolume(ctx, name)
}

// removeVolume removes a volume: it vanishes at once, and then bit by bit.
func (s *store) removeVolume(ctx context.Context, name string) (int64, error) {
	gate, err := s.gate(ctx) // nobody makes a container with it meanwhile
	if err != nil {
		return 0, err
	}
	hidden := s.volumeRoot("." + name)
	users, err := s.volumeUsers()
	if who := users[name]; err == nil && len(who) > 0 {
		err = fmt.Errorf("remove %s: %w - [%s]", name, ErrVolumeInUse, strings.Join(who, ", "))
	}
	if err != nil {
		gate.Close()
		return 0, err
	}
	err = os.RemoveAll(hidden)
	if err == nil {
		err = os.Rename(s.volumeRoot(name), hidden)
	}
	gate.Close()
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("removing volume %s: %w", name, err)
	}
	size := diskUsage(hidden)
	if err := os.RemoveAll(hidden); err != nil {
		return 0, fmt.Errorf("removing volume %s: %w", name, err)
	}
	return size, nil
}

// diskUsage is how many bytes files below a directory have on the host's disk. What cannot be seen does not count.
func diskUsage(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil && !d.IsDir() {
			n += st.Blocks * 512
		}
		return nil
	})
	return n
}

// VolumeSize is how many bytes of this host's disk a volume takes.
func (e *Engine) VolumeSize(v *Volume) int64 { return diskUsage(e.store.volumeRoot(v.Name)) }

// PruneVolumes removes the volumes that no container uses and that fit. It lists what has gone, also when it fails.
func (e *Engine) PruneVolumes(ctx context.Context, fits func(*Volume) bool) (removed []string, freed int64, err error) {
	all, err := e.Volumes(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, v := range all {
		if !fits(v) {
			continue
		}
		n, err := e.RemoveVolume(ctx, v.Name)
		switch {
		case err == nil:
			removed, freed = append(removed, v.Name), freed+n
		case !errors.Is(err, ErrVolumeInUse) && !errors.Is(err, ErrNoVolume):
			return removed, freed, err
		}
	}
	return removed, freed, nil
}

// RemoveAnonymous removes the volumes that were made for a container that is gone, unless others use them.
func (e *Engine) RemoveAnonymous(ctx context.Context, r *Record) error {
	return e.store.removeAnonymous(ctx, r)
}

func (s *store) removeAnonymous(ctx context.Context, r *Record) error {
	var errs []error
	for _, m := range r.Config.Mounts {
		if m.Volume && m.Anonymous && CheckVolumeName(m.Source) == nil {
			if _, err := s.removeVolume(ctx, m.Source); err != nil && !errors.Is(err, ErrVolumeInUse) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// resolveVolumes adds to a container's mounts those of the containers of --volumes-from and the volumes that its image
// asks for.
func (e *Engine) resolveVolumes(ctx context.Context, c *Config, image *v1.Config) error {
	// Of several at one place docker takes what the command line says, then the other containers', then the image's.
	taken := make(map[string]bool)
	for target := range c.Tmpfs {
		taken[path.Clean(target)] = true
	}
	for i := range c.Mounts {
		taken[c.Mounts[i].Target] = true
	}
	add := func(m Mount) {
		if !taken[m.Target] {
			taken[m.Target] = true
			c.Mounts = append(c.Mounts, m)
		}
	}
	for _, from := range c.VolumesFrom {
		ref, mode, _ := strings.Cut(from, ":")
		other, err := e.Get(ctx, ref)
		if err != nil {
			return err
		}
		for _, m := range other.Config.Mounts {
			m.Anonymous = false // the other one's
			m.ReadOnly = m.ReadOnly || mode == "ro"
			add(m)
		}
	}
	for _, target := range slices.Sorted(maps.Keys(image.Volumes)) {
		m := Mount{Volume: true, Anonymous: true, Source: newID(), Target: path.Clean(target)}
		if err := m.check(); err != nil {
			return fmt.Errorf("volume of the image: %w", err)
		}
		add(m)
	}
	return nil
}

// createVolumes makes those volumes of a container that are not there.
func (e *Engine) createVolumes(ctx context.Context, c *Config) error {
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if !m.Volume {
			continue
		}
		v := Volume{Name: m.Source, Labels: m.Labels, Options: m.Options, Anonymous: m.Anonymous}
		if m.Anonymous {
			v.Labels = mergeLabels(m.Labels, map[string]string{anonymousLabel: ""})
		}
		if _, err := e.createVolume(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// AnonymousMount is a volume without a name at a path of the container.
func AnonymousMount(target string) Mount {
	return Mount{Volume: true, Anonymous: true, Source: newID(), Target: target}
}
