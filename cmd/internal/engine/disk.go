package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/images"
	"github.com/hullvm/hull/images/scratch"
	"github.com/hullvm/hull/vmm"
)

// Names of a container's disks, as the guest sees them and as GET_ID answers.
const (
	layersDevice  = "vda"
	scratchDevice = "vdb"
	layersID      = "hull-layers"
	scratchID     = "hull-scratch"
)

// layersDisk makes the read-only disk with one partition for each layer.
func layersDisk(disks []images.Disk, files *fileTable) (vmm.Disk, error) {
	disk := vmm.Disk{ID: layersID, ReadOnly: true}
	for _, layer := range disks {
		f, err := files.open(layer.Path, os.O_RDONLY)
		if err != nil {
			return vmm.Disk{}, fmt.Errorf("opening an image layer: %w", err)
		}
		disk.Layers = append(disk.Layers, f)
	}
	return disk, nil
}

// scratchDisk makes the writable disk. That of a container which goes when it
// ends has no name from the beginning, so that nothing can be left of it;
// another's is kept in the container's directory.
func scratchDisk(dir, template string, keep bool, files *fileTable) (vmm.Disk, error) {
	f, err := openScratch(dir, template, keep)
	if err != nil {
		return vmm.Disk{}, fmt.Errorf("making the container's disk: %w", err)
	}
	file := files.add(f)
	return vmm.Disk{ID: scratchID, File: &file}, nil
}

func openScratch(dir, template string, keep bool) (*os.File, error) {
	path := filepath.Join(dir, scratchName)
	if keep {
		if f, err := os.OpenFile(path, os.O_RDWR, 0); !errors.Is(err, os.ErrNotExist) {
			return f, err // it has run before
		}
	}
	t, err := scratch.Load(template)
	if err != nil {
		return nil, err
	}
	var f *os.File
	if keep {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	} else {
		f, err = unnamedFile(dir)
	}
	if err != nil {
		return nil, err
	}
	if err := t.Write(f); err != nil {
		f.Close()
		if keep {
			os.Remove(path)
		}
		return nil, err
	}
	return f, nil
}

// unnamedFile creates a file that goes when nobody has it open any more.
func unnamedFile(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err == nil {
		return f, nil
	}
	// Not every file system has O_TMPFILE. A kill between these two lines leaves a
	// name in the container's directory, which goes with that.
	if f, err = os.CreateTemp(dir, "scratch-"); err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
