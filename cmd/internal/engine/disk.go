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

// maxDisks is how many disks of its own a container can have: there are letters for them.
const maxDisks = 16

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

// openScratch adds the writable disk to the files of a VM process. The template is what it begins with.
func (r *run) openScratch(template string, keep bool, table *fileTable) (vmm.Disk, error) {
	if keep {
		disk, err := openShared(filepath.Join(r.dir(), scratchName), table)
		if !errors.Is(err, os.ErrNotExist) {
			return disk, err
		}
	}
	f, err := openScratch(r.dir(), template, keep)
	if err != nil {
		return vmm.Disk{}, err
	}
	file := table.add(f)
	return vmm.Disk{File: &file}, nil
}

// openScratch opens the file of the writable disk, which it makes for the first life. That of a container which goes when it
// ends has no name from the beginning, so that nothing can be left of it;
// another's is kept in the container's directory.
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

// Disk is a raw disk image, or a block device, that a VM is given.
type Disk struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Overlay  bool   `json:"overlay,omitempty"` // what the guest writes is gone when it ends
	Direct   bool   `json:"direct,omitempty"`  // past the page cache
	// Own says that it came from a checkpoint and is the container's own, in its directory.
	Own bool `json:"own,omitempty"`
}

// check tells whether there is such a disk.
func (d *Disk) check() error {
	if d.Own {
		return nil
	}
	info, err := os.Stat(d.Path)
	switch {
	case err != nil:
		return fmt.Errorf("disk: %w", err)
	case info.IsDir():
		return fmt.Errorf("disk %s: is a directory", d.Path)
	case info.Mode().IsRegular() && info.Size() == 0:
		return fmt.Errorf("disk %s: is empty", d.Path)
	case !info.Mode().IsRegular() && info.Mode()&os.ModeType != os.ModeDevice: // to open a FIFO would wait for somebody
		return fmt.Errorf("disk %s: is neither a regular file nor a block device", d.Path)
	}
	return nil
}

// open opens the files of disk number i for the VM process.
func (d *Disk) open(i int, s *store, table *fileTable) (vmm.Disk, error) {
	id := fmt.Sprintf("hull-disk-%d", i)
	if d.Own {
		disk, err := openShared(d.Path, table)
		if !errors.Is(err, os.ErrNotExist) {
			disk.ID, disk.Direct = id, d.Direct
			return disk, err
		}
	}
	flag := os.O_RDWR
	if d.ReadOnly || d.Overlay {
		flag = os.O_RDONLY
	}
	f, err := table.open(d.Path, flag)
	if err != nil {
		return vmm.Disk{}, fmt.Errorf("disk: %w", err)
	}
	disk := vmm.Disk{ID: id, ReadOnly: d.ReadOnly, Direct: d.Direct, File: &f}
	if d.Overlay {
		if err := s.prepare(); err != nil {
			return vmm.Disk{}, err
		}
		o, err := unnamedFile(s.dirs.Data)
		if err != nil {
			return vmm.Disk{}, fmt.Errorf("disk %s: a file for what is written: %w", d.Path, err)
		}
		overlay := table.add(o)
		disk.Overlay = &overlay
	}
	return disk, nil
}

// Pmem is a file that a VM has as persistent memory.
type Pmem struct {
	Path     string
	ReadOnly bool
}

// open opens the file for the VM process.
func (p *Pmem) open(table *fileTable) (vmm.Pmem, error) {
	flag := os.O_RDWR
	if p.ReadOnly {
		flag = os.O_RDONLY
	}
	// A FIFO would wait for somebody. What else is no file of bytes the VM process says.
	f, err := table.open(p.Path, flag|unix.O_NONBLOCK)
	if err != nil {
		return vmm.Pmem{}, fmt.Errorf("persistent memory: %w", err)
	}
	return vmm.Pmem{File: f, ReadOnly: p.ReadOnly}, nil
}
