package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
)

// A container that goes on from a checkpoint has the disks that are in it, each for itself. Where the file system can have two files
// share what neither changes, each has a copy. Elsewhere it has a directory, in the place of the disk's file in the container's
// directory, with two files:
//
//   - base is the checkpoint's file under a further name, which nobody writes to. It is there as long as somebody has a name for it, so
//     neither the end of the checkpoint nor that of others that share it takes it away;
//   - changes is what the container has written (vmm.Disk.Keep).
//
// The directory counts when there is a file as well: such a file has been replaced.
const (
	sharedSuffix  = ".shared"
	sharedBase    = "base"
	sharedChanges = "changes"
)

// putDisk makes the disk at path, in a container's directory, what the file from holds, which nobody may write to from now on.
func putDisk(path, from string) error {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.RemoveAll(temp); err != nil { // of somebody who was killed
		return err
	}
	err := reflink(temp, from)
	if err == nil {
		return replaceDisk(temp, path, path+sharedSuffix)
	}
	if err = shareFile(temp, from); err == nil {
		return replaceDisk(temp, path+sharedSuffix, path)
	}
	// Another file system, or one without hard links.
	if err = errors.Join(os.RemoveAll(temp), cloneFile(temp, from)); err == nil {
		return replaceDisk(temp, path, path+sharedSuffix)
	}
	return errors.Join(err, os.RemoveAll(temp))
}

// reflink makes a file that shares with another what neither changes.
func reflink(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), dst.Close())
	if err != nil {
		err = errors.Join(err, os.Remove(to))
	}
	return err
}

// shareFile makes a directory whose base is the file from.
func shareFile(dir, from string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Link(from, filepath.Join(dir, sharedBase)); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, sharedChanges), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// replaceDisk gives temp, in whose directory nobody else makes disks, the name path, and removes what had it, and what has the name other.
func replaceDisk(temp, path, other string) error {
	err := os.Rename(temp, path)
	if errors.Is(err, fs.ErrExist) { // a directory that is not empty: at no time is there none
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := os.Rename(other, temp); err != nil { // it goes at once
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(temp)
}

// openShared adds the files of a shared disk to those of a VM process. It wraps fs.ErrNotExist if the disk at path is not shared, and
// only then: one that lacks a file must not become an empty one.
func openShared(path string, table *fileTable) (disk vmm.Disk, err error) {
	dir := path + sharedSuffix
	if _, err := os.Lstat(dir); err != nil {
		return vmm.Disk{}, err
	}
	base, err := table.open(filepath.Join(dir, sharedBase), os.O_RDONLY)
	if err != nil {
		return vmm.Disk{}, fmt.Errorf("what was saved of disk %s: %v", path, err)
	}
	changes, err := table.open(filepath.Join(dir, sharedChanges), os.O_RDWR)
	if err != nil {
		return vmm.Disk{}, fmt.Errorf("what was written to disk %s: %v", path, err)
	}
	return vmm.Disk{File: &base, Overlay: &changes, Keep: true}, nil
}

// copyDisk copies a disk that a VM has, which stands still, to a new file.
func copyDisk(to string, vm *vmProcess, disk *vmm.Disk) error {
	// The VM process has it open, whatever has become of the name, if it ever had one.
	file := func(f *vmm.File) string { return fmt.Sprintf("/proc/%d/fd/%d", vm.process.Pid, f.FD) }
	if disk.Overlay == nil {
		return cloneFile(to, file(disk.File))
	}
	return flatten(to, file(disk.File), file(disk.Overlay))
}

// flatten makes a new file of a disk whose changes were kept apart.
func flatten(to, base, changes string) (err error) {
	b, err := os.Open(base)
	if err != nil {
		return err
	}
	defer b.Close()
	c, err := os.Open(changes)
	if err != nil {
		return err
	}
	defer c.Close()
	extents, err := vmm.DiskExtents(b, c)
	if err != nil {
		return err
	}
	info, err := b.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for _, e := range extents {
		src := b
		if e.Own {
			src = c
		}
		if err := copyData(dst, src, int64(e.Off), int64(e.Off+e.Len)); err != nil {
			return err
		}
	}
	return nil
}

// Written is how many bytes of this host's disk the container takes that has the ID: what it has written, and its log; and its part of
// what it shares with others.
func (e *Engine) Written(id string) int64 {
	dir := e.store.dir(id)
	entries, _ := os.ReadDir(dir) // it may just have gone
	var n int64
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		n += diskPart(path)
		if strings.HasSuffix(path, sharedSuffix) {
			n += diskPart(filepath.Join(path, sharedBase)) + diskPart(filepath.Join(path, sharedChanges))
		}
	}
	return n
}

// diskPart is how much of the disk a file takes, in bytes, divided among its names.
func diskPart(path string) int64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	n := st.Blocks * 512 // stat(2): whatever the file system's blocks are
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		n /= int64(max(st.Nlink, 1))
	}
	return n
}
