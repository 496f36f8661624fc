package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/snapshot"
)

// A snapshot over the API is two files. That of the memory is package vmm's. That of the state begins with the machine's
// configuration, since who loads it has none:
//
//	0   8 bytes   snapshotMagic
//	8   uint32    length of the configuration in bytes, little-endian
//	12            the configuration, as /vm/config has it
//	…             the state, as package vmm has it
const (
	snapshotMagic  = "HULLVMM\x01"
	snapshotHeader = len(snapshotMagic) + 4
)

// restore is a snapshot that a machine goes on from.
type restore struct {
	state   *os.File // where package vmm's state begins
	memory  string
	handler *pageHandler // brings the memory in the place of the file; nil: there is none
}

// SnapshotFiles are the two files of a snapshot over the API.
type SnapshotFiles struct{ State, Memory string }

func (s *Server) createSnapshot(c *snapshotCreate) (any, error) {
	diff := c.SnapshotType != nil && *c.SnapshotType == "Diff"
	switch {
	case !s.paused:
		return nil, refuse("Create snapshot error: The microVM must be paused first.")
	case diff && !s.resources.machine.TrackDirtyPages:
		return nil, notOffered("differential snapshots of a machine without track_dirty_pages")
	}
	if err := s.snapshot(SnapshotFiles{c.SnapshotPath, c.MemFilePath}, diff); err != nil {
		return nil, refuse("Create snapshot error: %v", err)
	}
	return nil, nil
}

// snapshot writes both files, and gives them their names when they are complete and on stable storage. A differential one holds the
// memory that was written to since the last snapshot, or since one was loaded; where the files of that one are it is merged into them.
// Before the first snapshot, and after one that failed, all of the memory is meant: it is a full one then.
func (s *Server) snapshot(to SnapshotFiles, diff bool) error {
	config := s.fullConfig()
	config.BootSource, config.Logger, config.Metrics, config.CPUConfig = nil, nil, nil, nil
	for i, n := range s.resources.nics {
		config.NetworkInterfaces[i].GuestMAC = ptr(fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", n.mac[0], n.mac[1], n.mac[2], n.mac[3], n.mac[4], n.mac[5]))
	}
	err := to.write(encode(config), func(dir string) error {
		if diff && !s.noBase {
			if err := s.snapshotDiff(to, dir); !errors.Is(err, vmm.ErrNoBase) {
				return err
			}
		}
		return s.machine.Snapshot(dir, vmm.SnapshotOptions{Sync: true})
	})
	s.noBase = err != nil // the machine may take what is lost for the last
	return err
}

// snapshotDiff writes a differential snapshot to dir, or the one that is at to and it merged.
func (s *Server) snapshotDiff(to SnapshotFiles, dir string) error {
	opts := vmm.SnapshotOptions{Sync: true, Diff: true}
	if _, err := os.Lstat(to.Memory); errors.Is(err, fs.ErrNotExist) {
		return s.machine.Snapshot(dir, opts)
	}
	base, diff := dir+".base", dir+".diff"
	if err := s.machine.Snapshot(diff, opts); err != nil {
		return err
	}
	_, err := to.unpack(base)
	if err == nil {
		err = vmm.MergeSnapshots(base, diff, dir)
	}
	if err != nil {
		return fmt.Errorf("%s exists, and takes up a differential snapshot only together with its state, if it is based on it: %w", to.Memory, err)
	}
	return nil
}

// write makes both files of the snapshot that save writes to a directory, and of the configuration. Until they are complete they are
// in directories beside where they will be; those of a process that did not live to this end are removed by the next that writes to
// the same place.
func (to SnapshotFiles) write(config []byte, save func(dir string) error) (err error) {
	memory, err := snapshot.Create(to.Memory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.Abort()) }()
	state, err := snapshot.Create(to.State)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Abort()) }()
	made := filepath.Join(memory.Path(), "snapshot")
	if err := save(made); err != nil {
		return err
	}
	header := append(binary.LittleEndian.AppendUint32([]byte(snapshotMagic), uint32(len(config))), config...)
	complete := filepath.Join(state.Path(), vmm.SnapshotState)
	if err := prepend(complete, header, filepath.Join(made, vmm.SnapshotState)); err != nil {
		return err
	}
	return to.install(complete, filepath.Join(made, vmm.SnapshotMemory))
}

// install gives a pair of files its names. Names of two files cannot change at once: who reads in between has a pair that is not one,
// which package vmm refuses, since memory names the state that it belongs to. If the second cannot be changed, the first is as it was.
func (to SnapshotFiles) install(state, memory string) error {
	err := unix.Renameat2(unix.AT_FDCWD, memory, unix.AT_FDCWD, to.Memory, unix.RENAME_EXCHANGE)
	replaced := err == nil
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // there was none, or a file system that exchanges none
		err = os.Rename(memory, to.Memory)
	} else if err != nil {
		err = &os.LinkError{Op: "rename", Old: memory, New: to.Memory, Err: err}
	}
	if err != nil {
		return err
	}
	if err = os.Rename(state, to.State); err == nil {
		return nil
	}
	if replaced {
		return errors.Join(err, unix.Renameat2(unix.AT_FDCWD, memory, unix.AT_FDCWD, to.Memory, unix.RENAME_EXCHANGE))
	}
	return errors.Join(err, os.Remove(to.Memory))
}

// prepend makes a file of a header and what another has, on stable storage.
func prepend(path string, header []byte, rest string) (err error) {
	in, err := os.Open(rest)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = out.Write(header); err == nil {
		if _, err = io.Copy(out, in); err == nil {
			err = out.Sync()
		}
	}
	return errors.Join(err, out.Close())
}

// MergeSnapshots lays a differential snapshot over the one that it is based on. What comes of it takes the place of the differential
// one, and is based on what the other is: it can be loaded if that is a full one. What was cut short can be done again.
func MergeSnapshots(base, diff SnapshotFiles) (err error) {
	work, err := os.MkdirTemp("", "hull-merge-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	var dirs [2]string
	var config []byte
	for i, from := range []SnapshotFiles{base, diff} {
		dirs[i] = filepath.Join(work, strconv.Itoa(i))
		if config, err = from.unpack(dirs[i]); err != nil {
			return err
		}
	}
	return diff.write(config, func(dir string) error { return vmm.MergeSnapshots(dirs[0], dirs[1], dir) })
}

// unpack makes a snapshot as package vmm has it, of which the memory stays where it is, and returns the configuration.
func (from SnapshotFiles) unpack(dir string) (config []byte, err error) {
	state, err := os.Open(from.State)
	if err != nil {
		return nil, err
	}
	defer state.Close()
	c, err := readSnapshotConfig(state)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from.State, err)
	}
	memory, err := filepath.Abs(from.Memory)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Symlink(memory, filepath.Join(dir, vmm.SnapshotMemory)); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(filepath.Join(dir, vmm.SnapshotState), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(out, state)
	return encode(c), errors.Join(err, out.Close())
}

func (s *Server) loadSnapshot(l *snapshotLoad) (any, error) {
	switch {
	case l.MemBackend != nil && l.MemFilePath != nil:
		return nil, &jsonError{message: "too many fields: either `mem_backend` or `mem_file_path` exclusively is required"}
	case l.MemBackend == nil && l.MemFilePath == nil:
		return nil, &jsonError{message: "missing field: either `mem_backend` or `mem_file_path` is required"}
	case s.resources.touched:
		return nil, refuse("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
	case l.ClockRealtime:
		return nil, notOffered("clock_realtime")
	case l.HugePages != nil && *l.HugePages != "Snapshot" && *l.HugePages != snapshotPages(hugePagesNone):
		return nil, notOffered("other huge pages for a snapshot than its own")
	}
	if err := s.restore(l); err != nil {
		// The process is as if nothing had been asked of it.
		for _, n := range s.resources.nics {
			err = errors.Join(err, n.close())
		}
		s.resources = resources{machine: defaultMachine, logger: s.resources.logger, metrics: s.resources.metrics}
		return nil, refuse("Load snapshot error: Failed to restore from snapshot: %v", err)
	}
	return nil, nil
}

func (s *Server) restore(l *snapshotLoad) error {
	f, err := os.Open(l.SnapshotPath)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := readSnapshotConfig(f)
	if err != nil {
		return fmt.Errorf("%s: %w", l.SnapshotPath, err)
	}
	for _, o := range l.NetworkOverrides {
		at := slices.IndexFunc(c.NetworkInterfaces, func(n networkInterface) bool { return n.IfaceID == o.IfaceID })
		if at < 0 {
			return fmt.Errorf("network_overrides: the snapshot has no interface %q", o.IfaceID)
		}
		c.NetworkInterfaces[at].HostDevName = o.HostDevName
	}
	if o := l.VsockOverride; o != nil {
		if c.Vsock == nil {
			return errors.New("vsock_override: the snapshot has no vsock device")
		}
		c.Vsock.UDSPath = o.UDSPath
	}
	if err := s.configure(c); err != nil {
		return err
	}
	// It is this process's business as well, whatever the one before did.
	s.resources.machine.TrackDirtyPages = l.TrackDirtyPages || l.EnableDiffSnapshots
	from := restore{state: f}
	switch {
	case l.MemBackend == nil:
		from.memory = *l.MemFilePath
	case l.MemBackend.BackendType == backendUffd:
		from.handler = &pageHandler{path: l.MemBackend.BackendPath}
	default:
		from.memory = l.MemBackend.BackendPath
	}
	m, err := s.make(&from)
	if err != nil {
		return err
	}
	if l.ResumeVM {
		if err := m.Start(); err != nil {
			return errors.Join(err, m.Close(), s.closeServices())
		}
	}
	s.paused, s.fresh = !l.ResumeVM, !l.ResumeVM
	s.run(m)
	return nil
}

// readSnapshotConfig reads the configuration at the beginning of a state file, and leaves it where the state begins.
func readSnapshotConfig(f *os.File) (*fullConfig, error) {
	header := make([]byte, snapshotHeader)
	if _, err := io.ReadFull(f, header); err != nil || string(header[:len(snapshotMagic)]) != snapshotMagic {
		return nil, errors.New("not a snapshot of hull vmm")
	}
	n := binary.LittleEndian.Uint32(header[len(snapshotMagic):])
	if n > maxConfigFile {
		return nil, fmt.Errorf("a configuration of %d bytes: at most %d are possible", n, maxConfigFile)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(f, text); err != nil {
		return nil, fmt.Errorf("its configuration is cut short: %w", err)
	}
	c := &fullConfig{}
	if err := decode(text, c); err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	// They are this process's own business.
	c.BootSource, c.Logger, c.Metrics, c.CPUConfig = nil, nil, nil, nil
	return c, nil
}
