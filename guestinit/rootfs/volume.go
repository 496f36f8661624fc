package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ioctlResize has a mounted ext4 grow to a number of blocks: EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) in linux/fs/ext4/ext4.h.
const ioctlResize = 0x40086610

// MountVolume mounts the ext4 on a disk at dir. It grows to the size of the disk, unless it is read-only.
func MountVolume(name, dev, dir string, readOnly bool) error {
	device, err := waitFor(name, dev)
	if err != nil {
		return err
	}
	kind, err := probe(device)
	if err != nil {
		return err
	}
	if kind != "ext4" {
		return fmt.Errorf("disk %s has a file system of type %s, want ext4", name, kind)
	}
	flags := uintptr(unix.MS_NODEV)
	options := []string{"noinit_itable", "no_prefetch_block_bitmaps"} // see mountUpper
	if readOnly {
		flags |= unix.MS_RDONLY
	} else if canDiscard(name) {
		options = append(options, "discard")
	}
	if err := unix.Mount(device, dir, kind, flags, strings.Join(options, ",")); err != nil {
		return fmt.Errorf("mounting %s: %w", device, err)
	}
	if readOnly {
		return nil
	}
	if err := grow(name, dir); err != nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		return fmt.Errorf("growing the file system on %s to the size of the disk: %w", device, err)
	}
	return nil
}

// grow has the ext4 that is mounted at dir fill its disk.
func grow(name, dir string) error {
	raw, err := os.ReadFile(filepath.Join("/sys/class/block", name, "size"))
	if err != nil {
		return err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return resize(f, sectors*512/uint64(st.Bsize))
}
