package vmm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/blk"
)

// maxDiskQueues is how many queues a disk has unless the configuration says: one for each vCPU up to this many.
// Each is a thread on the host while it is busy.
const maxDiskQueues = 4

// ErrNoDisk is wrapped by the errors of methods that are given the ID of no disk.
var ErrNoDisk = errors.New("there is no such disk")

// disk is a disk of a machine, and what it has open.
type disk struct {
	config  Disk
	device  *blk.Device
	backend *backend
}

// backend is where the bytes of a disk are.
type backend struct {
	blk.Backend
	file  *blk.File // the one that can change its size; nil for other kinds
	close []func() error
}

// Close closes all files, in reverse order.
func (b *backend) Close() error {
	var all []error
	for i := len(b.close) - 1; i >= 0; i-- {
		all = append(all, b.close[i]())
	}
	b.close = nil
	return errors.Join(all...)
}

// readOnly reports whether the guest cannot write to d.
func (d *Disk) readOnly() bool { return d.ReadOnly || len(d.Layers) > 0 && d.Overlay == nil }

// newDisk makes a block device, whose files Close closes.
func (m *Machine) newDisk(cfg Disk) (*blk.Device, error) {
	b, err := cfg.open()
	if err != nil {
		return nil, err
	}
	queues := cfg.Queues
	if queues == 0 {
		queues = min(m.cfg.CPUs, maxDiskQueues)
	}
	dev, err := blk.New(blk.Config{Backend: b.Backend, ReadOnly: cfg.readOnly(), ID: cfg.ID, Queues: queues, Unsafe: cfg.Unsafe, Limits: cfg.Limits})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	d := &disk{config: cfg, device: dev, backend: b}
	m.disks = append(m.disks, d)
	m.closing(func() error { return d.backend.Close() })
	return dev, nil
}

// open opens the files of a disk. On error none is left open.
func (d *Disk) open() (_ *backend, err error) {
	b := &backend{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if d.File != nil {
		f, err := b.open(*d.File, d.ReadOnly || d.Overlay != nil, d.Direct)
		if err != nil {
			return nil, err
		}
		if b.file, err = blk.OpenFile(f); err != nil {
			return nil, err
		}
		b.Backend, b.close = b.file, append(b.close, b.file.Close)
	} else {
		files := make([]*os.File, len(d.Layers))
		for i, l := range d.Layers {
			f, err := l.Open(os.O_RDONLY)
			if err != nil {
				return nil, fmt.Errorf("layer %d: %w", i, err)
			}
			b.close = append(b.close, f.Close)
			files[i] = f
		}
		if b.Backend, err = blk.NewGPT(files); err != nil {
			return nil, err
		}
	}
	if d.Overlay != nil {
		f, err := b.open(*d.Overlay, false, d.Direct)
		if err != nil {
			return nil, fmt.Errorf("overlay: %w", err)
		}
		open := blk.NewOverlay
		if d.Keep {
			open = blk.OpenOverlay
		}
		o, err := open(b.Backend, f)
		if err != nil {
			return nil, err
		}
		b.Backend, b.file, b.close = o, nil, append(b.close, o.Close)
	}
	return b, nil
}

// open opens a file of the disk for as long as b is. Nobody may write to what another reads: two VMs with one
// file system would destroy it.
func (b *backend) open(file File, readOnly, direct bool) (*os.File, error) {
	flag, lock := os.O_RDWR, unix.LOCK_EX
	if readOnly {
		flag, lock = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := file.Open(flag)
	if err != nil {
		return nil, err
	}
	b.close = append(b.close, f.Close)
	if err := reserve(f, lock); err != nil {
		return nil, fmt.Errorf("disk %w", err)
	}
	if !direct {
		return f, nil
	}
	fd := int(f.Fd())
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT)
	}
	if err != nil {
		return nil, fmt.Errorf("disk %s: direct I/O: its file system does not have it: %w", f.Name(), err)
	}
	return f, nil
}

// reserve takes a file for this VM, unix.LOCK_EX to write to it or unix.LOCK_SH to read, until it is closed.
func reserve(f *os.File, lock int) error {
	switch err := unix.Flock(int(f.Fd()), lock|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%s: is in use by another VM; only files that all of them have read-only, or disks with an overlay, can be shared", f.Name())
	case err != nil && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s: %w", f.Name(), os.NewSyscallError("flock", err))
	}
	return nil
}

// KeepDisks makes the files of overlays that are kept complete, as Close does too, with what the guest has written and not flushed. It
// is for a process that ends, and leaves all else to the kernel.
func (m *Machine) KeepDisks() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []error
	for _, d := range m.disks {
		if o, ok := d.backend.Backend.(*blk.Overlay); ok {
			all = append(all, o.Keep())
		}
	}
	return errors.Join(all...)
}

// DiskExtents tells what makes up a disk whose file is base and whose overlay was kept: what of it is not zero, and in which of
// the two files it is. No machine may be running with it.
func DiskExtents(base, overlay *os.File) ([]blk.Extent, error) {
	b, err := blk.OpenFile(base)
	if err != nil {
		return nil, err
	}
	o, err := blk.OpenOverlay(b, overlay)
	if err != nil {
		return nil, err
	}
	return o.Extents(), o.Close()
}

// LayersSize is how many bytes a disk has whose layers are files of these sizes.
func LayersSize(sizes []uint64) uint64 { return blk.GPTSize(sizes) }

// findDisk returns the disk with this ID.
func (m *Machine) findDisk(id string) (*disk, error) {
	for _, d := range m.disks {
		if d.config.ID == id {
			return d, nil
		}
	}
	return nil, fmt.Errorf("disk %q: %w", id, ErrNoDisk)
}

// ResizeDisk has the guest see the size that the file of a disk has by now. What is cut off a disk is lost, and
// reads as an error. A disk of layers, or with an overlay, keeps its size.
func (m *Machine) ResizeDisk(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == stateClosed {
		return fmt.Errorf("resize disk: %w", ErrState)
	}
	d, err := m.findDisk(id)
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	if d.backend.file == nil {
		return fmt.Errorf("resize disk %q: only a disk that is one file can change its size", id)
	}
	if err := d.backend.file.Refresh(); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return d.device.Resize()
}

// ReplaceDisk puts the files of another disk in the place of those of the disk with this ID while the guest
// runs; requests wait meanwhile. What the guest was told of the disk does not change but for its size: to may not
// be read-only unless the disk is, and its ID, queues and limits mean nothing.
func (m *Machine) ReplaceDisk(id string, to Disk) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == stateClosed {
		return fmt.Errorf("replace disk: %w", ErrState)
	}
	d, err := m.findDisk(id)
	if err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	if err := to.validate(); err != nil {
		return fmt.Errorf("replace disk %q: %w", id, err)
	}
	if to.readOnly() && !d.config.readOnly() {
		return fmt.Errorf("replace disk %q: the guest writes to it, and the other one is read-only", id)
	}
	b, err := to.open()
	if err != nil {
		return fmt.Errorf("replace disk %q: %w", id, err)
	}
	if err := d.device.Replace(b.Backend); err != nil {
		return errors.Join(fmt.Errorf("replace disk %q: %w", id, err), b.Close())
	}
	old := d.backend
	d.backend = b
	return old.Close()
}
