package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/hullvm/hull/vmm"
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
	state  *os.File // where package vmm's state begins
	memory string
}

func (s *Server) createSnapshot(c *snapshotCreate) (any, error) {
	switch {
	case !s.paused:
		return nil, refuse("Create snapshot error: The microVM must be paused first.")
	case c.SnapshotType != nil && *c.SnapshotType == "Diff":
		return nil, notOffered("differential snapshots over this API")
	}
	if err := s.snapshot(c.SnapshotPath, c.MemFilePath); err != nil {
		return nil, refuse("Create snapshot error: %v", err)
	}
	return nil, nil
}

// snapshot writes both files, and gives them their names when they are complete.
func (s *Server) snapshot(statePath, memoryPath string) (err error) {
	dir := fmt.Sprintf("%s.%d.new", memoryPath, os.Getpid())
	if err := s.machine.Snapshot(dir, vmm.SnapshotOptions{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	state, err := os.Open(filepath.Join(dir, vmm.SnapshotState))
	if err != nil {
		return err
	}
	defer state.Close()
	config := s.fullConfig()
	config.BootSource, config.Logger, config.Metrics, config.CPUConfig = nil, nil, nil, nil
	for i, n := range s.resources.nics {
		config.NetworkInterfaces[i].GuestMAC = ptr(fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", n.mac[0], n.mac[1], n.mac[2], n.mac[3], n.mac[4], n.mac[5]))
	}
	temp := statePath + filepath.Ext(dir)
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	text := encode(config)
	_, err = out.Write(append(binary.LittleEndian.AppendUint32([]byte(snapshotMagic), uint32(len(text))), text...))
	if err == nil {
		_, err = io.Copy(out, state)
	}
	if err = errors.Join(err, out.Close()); err == nil {
		if err = os.Rename(filepath.Join(dir, vmm.SnapshotMemory), memoryPath); err == nil {
			err = os.Rename(temp, statePath)
		}
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

func (s *Server) loadSnapshot(l *snapshotLoad) (any, error) {
	switch {
	case l.MemBackend != nil && l.MemFilePath != nil:
		return nil, &jsonError{message: "too many fields: either `mem_backend` or `mem_file_path` exclusively is required"}
	case l.MemBackend == nil && l.MemFilePath == nil:
		return nil, &jsonError{message: "missing field: either `mem_backend` or `mem_file_path` is required"}
	case s.resources.touched:
		return nil, refuse("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
	case l.MemBackend != nil && l.MemBackend.BackendType != "File":
		return nil, notOffered("memory backends but File")
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
	from := restore{state: f}
	if l.MemBackend != nil {
		from.memory = l.MemBackend.BackendPath
	} else {
		from.memory = *l.MemFilePath
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
