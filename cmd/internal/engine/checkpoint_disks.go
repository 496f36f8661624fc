package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// The disks of a container's own (--disk) that it writes to are copied into its checkpoints, at the moment at which its VM stands
// still: with what the guest has in memory of a file system, no other moment's would do. A container that goes on from a
// checkpoint has copies of these copies in its directory, for as long as there is the container; the user's files stay as they are.
// What is read-only is used where it is.

// savedDisk is the name of the copy of disk number i, in a checkpoint and in a container's directory.
func savedDisk(i int) string { return fmt.Sprintf("disk-%d", i) }

// checkSavable tells why a disk cannot be copied into a checkpoint.
func (d *Disk) checkSavable() error {
	if d.ReadOnly {
		return nil
	}
	if d.Overlay {
		return fmt.Errorf("what it writes to disk %s (--disk with cow) is in no file of its own", d.Path)
	}
	info, err := os.Stat(d.Path)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("disk %s is a device, and only files are copied into a checkpoint", d.Path)
	}
	return nil
}

// saveDisks copies the disks of a VM that stands still into the directory of a checkpoint.
func (r *run) saveDisks(dir string, vm *vmProcess, disks []Disk) error {
	for i, d := range disks {
		if d.ReadOnly {
			continue
		}
		// The VM process has it open, whatever has become of the name.
		if err := cloneFile(filepath.Join(dir, savedDisk(i)), fmt.Sprintf("/proc/%d/fd/%d", vm.process.Pid, r.ownDisks[i].FD)); err != nil {
			return fmt.Errorf("copying disk %s: %w", d.Path, err)
		}
	}
	return nil
}

// takeDisks copies the disks of a checkpoint into the directory of a container that is to go on from it, and returns what they are then.
func (c *Container) takeDisks(saved *checkpoint) ([]Disk, error) {
	disks := slices.Clone(saved.Container.Config.Disks)
	for i := range disks {
		if disks[i].ReadOnly {
			continue
		}
		path := filepath.Join(c.dir(), savedDisk(i))
		temp := filepath.Join(c.dir(), "."+savedDisk(i))
		err := os.RemoveAll(temp) // of somebody who was killed
		if err == nil {
			err = cloneFile(temp, filepath.Join(saved.dir, savedDisk(i)))
		}
		if err == nil {
			err = os.Rename(temp, path)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("taking a disk from the checkpoint: %w", err), os.RemoveAll(temp))
		}
		disks[i].Path = path
	}
	return disks, nil
}
