package api

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/hullvm/hull/vmm"
)

const sectorSize = 512

func (d *drive) readOnly() bool { return d.IsReadOnly != nil && *d.IsReadOnly }

// putDrive adds a disk, or replaces the one of the same name. The disk with the root file system is the first.
func (s *Server) putDrive(d *drive) (any, error) {
	s.resources.touched = true
	switch {
	case d.Socket != nil:
		return nil, notOffered("vhost-user disks")
	case d.PathOnHost == nil:
		return nil, refuse("Drive config error: The disk needs a path_on_host.")
	case d.PartUUID != nil && !plain(*d.PartUUID):
		return nil, refuse("Drive config error: The partuuid %q cannot be one.", *d.PartUUID)
	}
	at := slices.IndexFunc(s.resources.drives, func(o *drive) bool { return o.DriveID == d.DriveID })
	if d.IsRootDevice && s.resources.otherRoot(d.DriveID, "") {
		return nil, refuse("Drive config error: A root block device already exists!")
	}
	if err := checkDisk(*d.PathOnHost, d.readOnly()); err != nil {
		return nil, refuse("Drive config error: Unable to create the virtio block device: Virtio backend error: %v", err)
	}
	if d.CacheType == nil {
		d.CacheType = ptr(cacheUnsafe)
	}
	if d.IOEngine == nil {
		d.IOEngine = ptr(ioEngine("Sync"))
	}
	if d.IsReadOnly == nil {
		d.IsReadOnly = ptr(false)
	}
	if at >= 0 {
		s.resources.drives[at] = d
	} else {
		s.resources.drives = append(s.resources.drives, d)
	}
	slices.SortStableFunc(s.resources.drives, func(a, b *drive) int {
		switch {
		case a.IsRootDevice == b.IsRootDevice:
			return 0
		case a.IsRootDevice:
			return -1
		}
		return 1
	})
	return nil, nil
}

// otherRoot tells whether the root file system is on a device besides these.
func (r *resources) otherRoot(driveID, pmemID string) bool {
	return slices.ContainsFunc(r.drives, func(o *drive) bool { return o.IsRootDevice && o.DriveID != driveID }) ||
		slices.ContainsFunc(r.pmems, func(o *pmem) bool { return o.RootDevice && o.ID != pmemID })
}

// plain tells whether a word can stand on a command line as it is.
func plain(word string) bool {
	for _, r := range word {
		if r <= ' ' || r >= 0x7f || r == '"' {
			return false
		}
	}
	return word != ""
}

func ptr[T any](v T) *T { return &v }

// checkDisk says why a file cannot be a disk.
func checkDisk(path string, readOnly bool) error {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	bad := func(err error) error {
		return refuse("Error manipulating the backing file: %s %s", osError(err), path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return bad(err)
	}
	if kind := info.Mode().Type(); kind != 0 && kind != os.ModeDevice {
		return bad(errors.New("not a regular file or a block device"))
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return bad(err)
	}
	if info.Mode().IsRegular() && (info.Size() == 0 || info.Size()%sectorSize != 0) {
		err = bad(fmt.Errorf("%d bytes, which are not whole sectors of %d bytes", info.Size(), sectorSize))
	}
	return errors.Join(err, f.Close())
}

// maxDiskID is the longest name that a guest can be told, in bytes.
const maxDiskID = 20

// diskID is what the machine and the guest call a disk: its name if that is short enough. A minus is in no name.
func (r *resources) diskID(d *drive) string {
	if len(d.DriveID) <= maxDiskID {
		return d.DriveID
	}
	return fmt.Sprintf("drive-%d", slices.Index(r.drives, d))
}

func (r *resources) drive(id string) *drive {
	for _, d := range r.drives {
		if d.DriveID == id {
			return d
		}
	}
	return nil
}

// patchDrive changes the file, or the limits, of a disk while the guest runs.
func (s *Server) patchDrive(p *drivePatch) (any, error) {
	d := s.resources.drive(p.DriveID)
	if d == nil {
		return nil, refuse("Drive config error: Error during drive update (patch): there is no drive %q", p.DriveID)
	}
	if p.PathOnHost == nil && p.RateLimiter == nil {
		return nil, refuse("Drive config error: Error during drive update (patch): nothing to change is given; only vhost-user disks can be asked to look for themselves")
	}
	id := s.resources.diskID(d)
	if p.PathOnHost != nil {
		if err := s.changeDisk(d, id, *p.PathOnHost); err != nil {
			return nil, refuse("Drive config error: Error during drive update (patch): %v", err)
		}
		d.PathOnHost = p.PathOnHost
	}
	if p.RateLimiter != nil {
		limiter := d.RateLimiter.patched(p.RateLimiter)
		if err := s.machine.SetDiskLimits(id, limiter.disk()); err != nil {
			return nil, refuse("Drive config error: Error during drive update (patch): %v", err)
		}
		d.RateLimiter = limiter
	}
	return nil, nil
}

// changeDisk has a disk look at its file again, or at another one.
func (s *Server) changeDisk(d *drive, id, path string) error {
	if err := checkDisk(path, d.readOnly()); err != nil {
		return err
	}
	now, err := os.Stat(*d.PathOnHost)
	if err == nil {
		if next, err := os.Stat(path); err == nil && os.SameFile(now, next) {
			return s.machine.ResizeDisk(id)
		}
	}
	return s.machine.ReplaceDisk(id, vmm.Disk{ID: id, ReadOnly: d.readOnly(), File: &vmm.File{Path: path}})
}
