// Package rootfs stacks a container's root filesystem in the guest.
//
// The image's layers are read-only filesystems: partitions of one disk that the
// monitor puts together, or one whole disk. Overlayfs lays them over each other and over them
// a writable directory, on a disk of the container's own or in memory. Even a
// read-only root filesystem gets one: mount points are made in it before it is
// sealed.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// MaxLayers is the number of partitions that a GPT of the usual size can list.
const MaxLayers = 128

// deviceTimeout bounds the wait for a disk to appear.
const deviceTimeout = 5 * time.Second

// Root is a mounted root filesystem.
type Root struct {
	path   string
	mounts []string // in the order of mounting, path last
	layers []string // where the layers are mounted, the lowest first
	upper  string   // where the container's writes go
	base   baseMount
}

// baseMount is where all layers are mounted over each other without the container's writes, once somebody has asked.
type baseMount struct {
	mu      sync.Mutex
	dir     string
	mounted bool
	closed  bool // unmounted for good
}

// Mount mounts a root filesystem with everything it takes below dir, which must exist.
// dev is the directory of devices, normally /dev.
func Mount(cfg proto.RootFS, dir, dev string) (_ *Root, err error) {
	if cfg.Layers < 0 || cfg.Layers > MaxLayers {
		return nil, &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("%d layers: at most %d are possible", cfg.Layers, MaxLayers)}
	}
	r := &Root{path: filepath.Join(dir, "root"), base: baseMount{dir: filepath.Join(dir, "base")}}
	defer func() {
		if err != nil {
			_ = r.Unmount()
		}
	}()
	lower, err := r.mountLayers(cfg, dir, dev)
	if err != nil {
		return nil, err
	}
	upper, err := r.mountUpper(cfg, dir, dev)
	if err != nil {
		return nil, err
	}
	r.layers, r.upper = slices.Clone(lower), upper+"/upper"
	slices.Reverse(r.layers)
	options := lowerdir(lower) + ",upperdir=" + r.upper + ",workdir=" + upper + "/work"
	if cfg.Volatile {
		// Nothing is synced, not even when asked to: all of it goes with the VM.
		options += ",volatile"
	}
	if err := r.mount("overlay", r.path, "overlay", 0, options); err != nil {
		return nil, fmt.Errorf("stacking %d layers: %w", len(lower), err)
	}
	return r, nil
}

// lowerdir is overlayfs' option for layers, the topmost first.
func lowerdir(layers []string) string { return "lowerdir=" + strings.Join(layers, ":") }

// mountLayers mounts the layers and returns where, the topmost first.
func (r *Root) mountLayers(cfg proto.RootFS, dir, dev string) ([]string, error) {
	var names []string
	if cfg.Layers == 0 {
		names = []string{cfg.Disk}
	}
	for n := range cfg.Layers {
		names = append(names, Partition(cfg.Disk, n+1))
	}
	lower := make([]string, len(names))
	for i, name := range names {
		device, err := waitFor(name, dev)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		kind, err := probe(device)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		// Overlayfs gets all paths in one page of options: they are short.
		at := filepath.Join(dir, strconv.Itoa(i+1))
		if err := r.mount(device, at, kind, unix.MS_RDONLY|unix.MS_NOATIME, ""); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		lower[len(names)-1-i] = at
	}
	return lower, nil
}

// mountUpper mounts what takes the container's writes, and returns where.
func (r *Root) mountUpper(cfg proto.RootFS, dir, dev string) (string, error) {
	at := filepath.Join(dir, "rw")
	if cfg.Upper == "" {
		options := "mode=0755"
		if cfg.TmpfsSize != 0 {
			options += ",size=" + strconv.FormatUint(cfg.TmpfsSize, 10)
		}
		if err := r.mount("tmpfs", at, "tmpfs", 0, options); err != nil {
			return "", fmt.Errorf("writable layer in memory: %w", err)
		}
	} else {
		device, err := waitFor(cfg.Upper, dev)
		if err != nil {
			return "", fmt.Errorf("writable layer: %w", err)
		}
		kind, err := probe(device)
		if err != nil {
			return "", fmt.Errorf("writable layer: %w", err)
		}
		// Inode tables are zeroed, and bitmaps read, when they are used, not by a
		// thread that goes over every new disk.
		var options []string
		if kind == "ext4" {
			options = append(options, "noinit_itable", "no_prefetch_block_bitmaps")
		}
		if canDiscard(cfg.Upper) {
			options = append(options, "discard")
		}
		if err := r.mount(device, at, kind, unix.MS_NOATIME, strings.Join(options, ",")); err != nil {
			return "", fmt.Errorf("writable layer: %w", err)
		}
	}
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(at, name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("writable layer: %w", err)
		}
	}
	return at, nil
}

func (r *Root) mount(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mounting %s (%s): %w", source, kind, err)
	}
	r.mounts = append(r.mounts, target)
	return nil
}

// Unmount unmounts all of it, the last first. What is still in use is detached,
// so that it is unmounted as soon as it is not.
func (r *Root) Unmount() error {
	result := r.base.unmount()
	for len(r.mounts) > 0 {
		target := r.mounts[len(r.mounts)-1]
		r.mounts = r.mounts[:len(r.mounts)-1]
		if unix.Unmount(target, 0) == nil {
			continue
		}
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			result = errors.Join(result, fmt.Errorf("unmounting %s: %w", target, err))
		}
	}
	return result
}

// Sync writes the writable layer to its disk.
func (r *Root) Sync() error {
	if len(r.mounts) < 2 {
		return nil
	}
	fd, err := unix.Open(r.mounts[len(r.mounts)-2], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("syncing the writable layer: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("syncing the writable layer: %w", err)
	}
	return nil
}

// Partition is the name of a disk's nth partition: vda1, but nvme0n1p1.
func Partition(disk string, n int) string {
	if disk != "" && disk[len(disk)-1] >= '0' && disk[len(disk)-1] <= '9' {
		disk += "p"
	}
	return disk + strconv.Itoa(n)
}

// ValidDevice tells whether a name is one that the kernel could give a block device.
func ValidDevice(name string) bool {
	return name != "" && len(name) < 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// waitFor waits for a block device and returns its path.
func waitFor(name, dev string) (string, error) {
	if !ValidDevice(name) {
		return "", &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("%q is not the name of a disk", name)}
	}
	path := filepath.Join(dev, name)
	deadline := time.Now().Add(deviceTimeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		st, err := os.Stat(path)
		if err == nil && st.Mode()&fs.ModeType == fs.ModeDevice {
			return path, nil
		}
		if err == nil {
			return "", fmt.Errorf("%s is not a block device", path)
		}
		// Drivers look for disks before init runs; only slow ones get here.
		if time.Now().After(deadline) {
			return "", fmt.Errorf("disk %s has not appeared within %v: %w", path, deviceTimeout, err)
		}
		time.Sleep(pause)
	}
}

// Device describes a disk for a container, which has it in its own /dev as dev has it, for root and the
// group disk.
func Device(name, dev string) (specs.LinuxDevice, error) {
	path, err := waitFor(name, dev)
	if err != nil {
		return specs.LinuxDevice{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return specs.LinuxDevice{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	mode, disk := fs.FileMode(0o660), uint32(6) // the group's number in Debian, Alpine and Fedora
	return specs.LinuxDevice{
		Path: "/dev/" + name, Type: "b", Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, GID: &disk,
	}, nil
}

// canDiscard tells whether a disk gives back the space of deleted files.
func canDiscard(name string) bool {
	raw, err := os.ReadFile("/sys/class/block/" + name + "/queue/discard_max_bytes")
	return err == nil && strings.TrimSpace(string(raw)) != "0"
}

// Dir is the directory where the root filesystem is mounted.
func (r *Root) Dir() string { return r.path }

// Upper is the directory that takes what the container writes, in overlayfs' format.
func (r *Root) Upper() string { return r.upper }

// Layers are the directories of the image's layers, the lowest first.
func (r *Root) Layers() []string { return r.layers }

// Base is a directory with the image as it was before the container wrote to it.
func (r *Root) Base() (string, error) {
	if len(r.layers) == 1 {
		return r.layers[0], nil
	}
	b := &r.base
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return "", errors.New("the root filesystem is unmounted")
	case b.mounted:
		return b.dir, nil
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return "", err
	}
	top := slices.Clone(r.layers)
	slices.Reverse(top)
	if err := unix.Mount("overlay", b.dir, "overlay", unix.MS_RDONLY, lowerdir(top)); err != nil {
		return "", fmt.Errorf("stacking the %d layers of the image: %w", len(top), err)
	}
	b.mounted = true
	return b.dir, nil
}

func (b *baseMount) unmount() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if !b.mounted {
		return nil
	}
	b.mounted = false
	if err := unix.Unmount(b.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", b.dir, err)
	}
	return nil
}
