package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// A volume that is a disk is no part of a checkpoint, like any volume. But what the guest has in memory of its file system is worth
// something only with the disk as it was then: a container goes on with a volume that nobody has written to since, or not at all.

// savedVolume is what tells whether anybody has written to the disk of a volume.
type savedVolume struct {
	Name     string `json:"name"`
	Inode    uint64 `json:"inode"`
	Size     int64  `json:"size"`     // bytes
	Modified int64  `json:"modified"` // st_mtim, ns
	Changed  int64  `json:"changed"`  // st_ctim, ns, which nobody sets back
}

// checkpointVersionVolumes is the first version that knows of volumes that are disks.
const checkpointVersionVolumes = 2

// checkSavableVolumes tells why the volumes of a container that goes on after its checkpoint, or does not, cannot be in it.
func checkSavableVolumes(volumes []proto.Volume, stop bool) error {
	i := slices.IndexFunc(volumes, func(v proto.Volume) bool { return !v.ReadOnly && !stop })
	if i < 0 {
		return nil
	}
	return fmt.Errorf("what is mounted at %s is a volume on a disk: the container would go on writing to it, and nobody could go back to what its memory has of it; "+
		"only a checkpoint with which the container ends is possible", volumes[i].Destination)
}

// saveVolumes notes what is on the disks of this life's volumes, which its VM does not write to any more, and sees to it that it
// stays there when this host fails.
func (r *run) saveVolumes() (saved []savedVolume, err error) {
	for i := range r.record.Config.Mounts {
		m := &r.record.Config.Mounts[i]
		if !m.Volume || !slices.ContainsFunc(r.volumes, func(v proto.Volume) bool { return v.Destination == m.Target }) {
			continue
		}
		f, err := os.Open(filepath.Join(r.engine.store.volumeRoot(m.Source), volumeDiskName))
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", m.Source, err)
		}
		err = f.Sync()
		var v savedVolume
		if err == nil {
			v, err = volumeAsItIs(m.Source, f)
		}
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", m.Source, err)
		}
		saved = append(saved, v)
	}
	return saved, nil
}

func volumeAsItIs(name string, f *os.File) (savedVolume, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return savedVolume{}, err
	}
	return savedVolume{Name: name, Inode: st.Ino, Size: st.Size, Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano()}, nil
}

// checkVolume tells whether the disk of a volume, which nobody else has now, is as the checkpoint has left it.
func (c *checkpoint) checkVolume(name string, f *os.File) error {
	now, err := volumeAsItIs(name, f)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(c.Volumes, func(v savedVolume) bool { return v.Name == name })
	switch {
	case i < 0:
		return fmt.Errorf("the checkpoint was made without this disk")
	case c.Volumes[i].Inode != now.Inode:
		return fmt.Errorf("this is another disk than at the checkpoint, and the memory of the container belongs with that one")
	case c.Volumes[i] != now:
		return fmt.Errorf("it has been written to since the checkpoint, and the memory of the container belongs with what was on it: start the container without a checkpoint")
	}
	return nil
}
