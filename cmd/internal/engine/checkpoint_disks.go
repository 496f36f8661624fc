package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// The disks of a container's own (--disk) that it writes to are copied into its checkpoints, at the moment at which its VM stands
// still: with what the guest has in memory of a file system, no other moment's would do. A container that goes on from a
// checkpoint has copies of these copies in its directory, or shares them with others (shared_disk.go), for as long as there is the
// container; the user's files stay as they are.
// What is read-only is used where it is.

// savedDisk is the name of the copy of disk number i, in a checkpoint and in a container's directory.
func savedDisk(i int) string { return fmt.Sprintf("disk-%d", i) }

// checkSavable tells why a disk cannot be copied into a checkpoint.
func (d *Disk) checkSavable() error {
	if d.ReadOnly || d.Own {
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
		if err := copyDisk(filepath.Join(dir, savedDisk(i)), vm, &r.ownDisks[i]); err != nil {
			return fmt.Errorf("copying disk %s: %w", d.Path, err)
		}
	}
	return nil
}

// takeDisks brings the disks of a checkpoint to the directory of a container that is to go on from it, and returns what they are then.
func (c *Container) takeDisks(saved *checkpoint) ([]Disk, error) {
	disks := slices.Clone(saved.Container.Config.Disks)
	for i := range disks {
		if disks[i].ReadOnly {
			continue
		}
		path := filepath.Join(c.dir(), savedDisk(i))
		if err := putDisk(path, filepath.Join(saved.dir, savedDisk(i))); err != nil {
			return nil, fmt.Errorf("taking a disk from the checkpoint: %w", err)
		}
		disks[i].Path, disks[i].Own = path, true
	}
	return disks, nil
}
