package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
)

// Mount is a directory or file of this host, or a volume, in a container.
type Mount struct {
	// Source is an absolute path, or the name of a volume if Volume is set.
	Source string `json:"source"`
	Volume bool   `json:"volume,omitempty"`
	// Create makes the directory Source when there is nothing of that name; a
	// volume is always made on first use.
	Create   bool   `json:"create,omitempty"`
	Target   string `json:"target"` // absolute path in the container
	ReadOnly bool   `json:"read_only,omitempty"`
	// Cache lets the guest believe for a second what it has seen.
	Cache bool `json:"cache,omitempty"`

	// Of volumes. Anonymous says that it goes with the container that it was made for, NoCopy that it stays empty on first
	// use, where the image has something at Target.
	Anonymous bool `json:"anonymous,omitempty"`
	NoCopy    bool `json:"no_copy,omitempty"`
	// Options are what the volume is made with if there is none yet.
	Options map[string]string `json:"options,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// CheckVolumeName tells whether a volume may have this name: docker has the same rule as for containers.
func CheckVolumeName(name string) error {
	if len(name) > 255 || !namePattern.MatchString(name) {
		return fmt.Errorf("volume name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ is allowed; a directory of this host is given by its absolute path", name)
	}
	return nil
}

// check tells whether a mount makes sense, before anything is looked at.
func (m *Mount) check() error {
	switch {
	case !path.IsAbs(m.Target):
		return fmt.Errorf("mount of %s: the target %q must be an absolute path", m.Source, m.Target)
	case path.Clean(m.Target) == "/":
		return fmt.Errorf("mount of %s: the target cannot be /", m.Source)
	case strings.ContainsRune(m.Target, 0), strings.ContainsRune(m.Source, 0):
		return fmt.Errorf("mount of %q at %q: has a zero byte", m.Source, m.Target)
	case m.Volume:
		if _, err := volumeKind(m.Options); err != nil {
			return fmt.Errorf("mount at %s: %w", m.Target, err)
		}
		return CheckVolumeName(m.Source)
	case !filepath.IsAbs(m.Source):
		return fmt.Errorf("mount at %s: the source %q must be an absolute path", m.Target, m.Source)
	}
	return nil
}

// fillMounts checks mounts, and that none meets another, or a tmpfs, at the same place.
func (c *Config) fillMounts() error {
	taken := make(map[string]bool)
	for target := range c.Tmpfs {
		taken[path.Clean(target)] = true
	}
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if err := m.check(); err != nil {
			return err
		}
		if m.Target = path.Clean(m.Target); taken[m.Target] {
			return fmt.Errorf("duplicate mount point: %s", m.Target)
		}
		taken[m.Target] = true
	}
	return nil
}

// mounts tells where in the container there is something else than its root file system: docker's mounts, then the
// user's, so that one inside another comes after it.
func (c *Config) mounts() ([]specs.Mount, error) {
	user, err := tmpfsMounts(c.Tmpfs)
	if err != nil {
		return nil, err
	}
	for _, m := range c.Mounts {
		// Device nodes among the host's files would be the guest's devices.
		options := []string{"rbind", "rprivate", "nodev"}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		user = append(user, specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: options})
	}
	slices.SortStableFunc(user, func(a, b specs.Mount) int {
		return strings.Compare(a.Destination+"/", b.Destination+"/")
	})
	return append(defaultMounts(c), user...), nil
}

// mountedAt tells whether the user has put something at a path of the container.
func (c *Config) mountedAt(target string) bool {
	return slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Target == target })
}

// VolumePath is where the content of a named volume is: a directory, or the file of its disk.
func (e *Engine) VolumePath(name string) string {
	disk := filepath.Join(e.store.volumeRoot(name), volumeDiskName)
	if _, err := os.Lstat(disk); err == nil {
		return disk
	}
	return e.store.volumeDir(name)
}

func (s *store) volumeDir(name string) string {
	return filepath.Join(s.volumes(), name, "_data")
}

// openMount opens the directory or file that is to be mounted, and makes it if it is to be.
func (s *store) openMount(m *Mount) (*os.File, error) {
	source, create := m.Source, m.Create
	if m.Volume {
		if err := makeCommon(s.volumes()); err != nil {
			return nil, err
		}
		source, create = s.volumeDir(m.Source), true
	}
	f, err := os.OpenFile(source, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) && create {
		if err := os.MkdirAll(source, 0o755); err != nil {
			return nil, fmt.Errorf("mount at %s: creating its source: %w", m.Target, err)
		}
		f, err = os.OpenFile(source, unix.O_PATH, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("mount at %s: bind source path does not exist: %s", m.Target, source)
	}
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", m.Target, err)
	}
	return f, nil
}

// share opens the sources of the container's mounts for its VM: directories and files are shared, and what is on a disk
// goes to disks.
func (r *run) share(config *vmm.Config, table *fileTable) (shares []vmm.Share, err error) {
	r.shares, r.volumes = nil, nil
	for i := range r.record.Config.Mounts {
		m := &r.record.Config.Mounts[i]
		if m.Volume {
			disk, err := r.openDiskVolume(m, table)
			if err != nil {
				return nil, err
			}
			if disk != nil && len(config.Disks) >= maxGuestDisks {
				return nil, fmt.Errorf("volume %s: a VM has at most %d disks", m.Source, maxGuestDisks)
			}
			if disk != nil {
				r.volumes = append(r.volumes, proto.Volume{Disk: diskName(len(config.Disks)), Destination: m.Target, ReadOnly: m.ReadOnly, Copy: !m.NoCopy})
				config.Disks = append(config.Disks, *disk)
				continue
			}
		}
		f, err := r.engine.store.openMount(m)
		if err != nil {
			return nil, err
		}
		file := table.add(f)
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("mount at %s: %w", m.Target, err)
		}
		inGuest := proto.Share{Tag: fmt.Sprintf("hull-share-%d", i), Destination: m.Target, ReadOnly: m.ReadOnly, Copy: m.Volume && !m.NoCopy && !m.ReadOnly}
		switch {
		case info.Mode().IsRegular():
			inGuest.File = vmm.ShareFileName
		case !info.IsDir():
			return nil, fmt.Errorf("mount at %s: %s is neither a directory nor a regular file, which is all that a VM can share with its host", m.Target, m.Source)
		}
		r.shares = append(r.shares, inGuest)
		shares = append(shares, vmm.Share{Tag: inGuest.Tag, File: file, ReadOnly: m.ReadOnly, Cache: m.Cache})
	}
	return shares, nil
}

// needsRecovery tells whether a file is an ext4 that was not unmounted: Linux then writes to it before it can be read
// (Documentation/filesystems/ext4/super.rst). What cannot be read is the guest's to complain of.
func needsRecovery(f io.ReaderAt) bool {
	const (
		superblock, magicAt, incompatAt = 1024, 0x38, 0x60
		magic, recover                  = 0xef53, 0x4 // EXT4_SUPER_MAGIC, EXT4_FEATURE_INCOMPAT_RECOVER
	)
	b := make([]byte, incompatAt+4)
	if _, err := f.ReadAt(b, superblock); err != nil {
		return false
	}
	return binary.LittleEndian.Uint16(b[magicAt:]) == magic && binary.LittleEndian.Uint32(b[incompatAt:])&recover != 0
}

// openDiskVolume opens the disk of a volume for the VM, nil if it is a directory. Nobody else has it meanwhile, but that all
// may read what all only read.
func (r *run) openDiskVolume(m *Mount, table *fileTable) (*vmm.Disk, error) {
	path := filepath.Join(r.engine.store.volumeRoot(m.Source), volumeDiskName)
	flag, lock := os.O_RDWR, unix.LOCK_EX
	if m.ReadOnly {
		flag, lock = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", m.Source, err)
	}
	file := table.add(f) // the VM process has the same lock by it
	if err := flock(f, lock); errors.Is(err, errLocked) {
		return nil, fmt.Errorf("volume %s: it is a disk and in use by another container: a disk is one container's at a time, unless all have it read-only", m.Source)
	} else if err != nil {
		return nil, fmt.Errorf("volume %s: %w", m.Source, err)
	}
	if m.ReadOnly && needsRecovery(f) {
		return nil, fmt.Errorf("volume %s: the VM that had it last was killed, and what its journal has must be written to it first: mount it once without :ro", m.Source)
	}
	if r.checkpoint != nil {
		if err := r.checkpoint.checkVolume(m.Source, f); err != nil {
			return nil, fmt.Errorf("volume %s: %w", m.Source, err)
		}
	}
	return &vmm.Disk{ID: fmt.Sprintf("hull-volume-%d", len(r.volumes)), ReadOnly: m.ReadOnly, File: &file}, nil
}

// maxGuestDisks is how many disks a VM can have: there are letters for them.
const maxGuestDisks = 26
