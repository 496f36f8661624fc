package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/pmem"
	"github.com/hullvm/hull/vmm/memory"
	"github.com/hullvm/hull/vmm/snapshot"
)

// Version is that of the program, for people who look into a snapshot.
var Version = ""

// Names of the files in a snapshot's directory.
const (
	SnapshotState  = snapshot.StateFile
	SnapshotMemory = snapshot.MemoryFile
)

// Snapshot names the files of one, for Config.Restore. Memory means nothing if WithMemoryBackend brings it.
type Snapshot struct {
	State  File `json:"state"`
	Memory File `json:"memory"`
	// Populate has the host map all of the guest's memory at once instead of
	// page by page as the guest touches it.
	Populate bool `json:"populate,omitempty"`
}

// SnapshotOptions are the choices one has about Machine.Snapshot.
type SnapshotOptions struct {
	// Sync returns only when the snapshot is on stable storage.
	Sync bool
	// Diff saves only the memory that has been written to since the last snapshot, or since the machine was restored
	// from one. Config.TrackDirty must be set. MergeSnapshots puts the two together.
	Diff bool
}

// ErrNoBase is wrapped by the error of a differential snapshot that there is none for it to differ from.
var ErrNoBase = errors.New("a differential one needs another before it, and a machine that notes what is written to (TrackDirty)")

// Snapshot writes all of a paused machine to the directory dir, which appears
// when it is complete and takes the place of another one of the name. The
// machine stays as it is: Resume lets it go on.
//
// What is on disks and in files that are persistent memory is not in it: whoever restores brings them as they are now.
func (m *Machine) Snapshot(dir string, opts SnapshotOptions) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.canSave(opts); err != nil {
		return err
	}
	out, err := snapshot.Create(dir)
	if err != nil {
		return err
	}
	state, memory, err := out.Files()
	if err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", dir, err), out.Abort())
	}
	id, err := m.save(state, memory, opts)
	if err = errors.Join(err, state.Close(), memory.Close()); err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", dir, err), out.Abort())
	}
	if err := out.Commit(); err != nil {
		return err
	}
	m.savedAs(id)
	return nil
}

// SnapshotTo is Snapshot for a process that cannot make files: it writes to two that are new and empty.
func (m *Machine) SnapshotTo(state, memory *os.File, opts SnapshotOptions) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.canSave(opts); err != nil {
		return err
	}
	id, err := m.save(state, memory, opts)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	m.savedAs(id)
	return nil
}

// PrepareSnapshots opens what SnapshotTo needs of this host besides the two files, for processes that will not be able to.
func (m *Machine) PrepareSnapshots() error {
	if err := m.mem.PrepareSave(); err != nil {
		return fmt.Errorf("preparing snapshots: %w", err)
	}
	return nil
}

func (m *Machine) canSave(opts SnapshotOptions) error {
	if m.state != statePaused || m.hasEnded() {
		return fmt.Errorf("snapshot: %w: it must be paused", ErrState)
	}
	if opts.Diff && (!m.cfg.TrackDirty || m.latest == snapshot.ID{}) {
		return fmt.Errorf("snapshot: %w", ErrNoBase)
	}
	if m.padded != "" {
		return fmt.Errorf("snapshot: what the guest has written to persistent memory behind the end of %s is in no file; "+
			"make the file a multiple of %d MiB long, or read-only", m.padded, pmem.Align>>20)
	}
	return nil
}

// save writes both files of a snapshot, whose ID it returns.
func (m *Machine) save(state, memory *os.File, opts SnapshotOptions) (snapshot.ID, error) {
	defer m.awaitFaults("the machine is saved")()
	base := snapshot.ID{}
	if opts.Diff {
		base = m.latest
	}
	s, err := m.saveState(base)
	if err == nil {
		err = m.writeSnapshot(state, memory, s, opts)
	}
	if err != nil {
		return snapshot.ID{}, err
	}
	return s.ID, nil
}

// savedAs notes that a snapshot is complete, so that the next one can be of what has changed since.
func (m *Machine) savedAs(id snapshot.ID) {
	if m.cfg.TrackDirty {
		m.latest = id
	}
}

// takeDirty returns the memory that was written to since the last call, by the guest or by devices.
func (m *Machine) takeDirty() ([]memory.Extent, error) {
	var guest [][]uint64
	for i, r := range m.mem.Regions() {
		bitmap := make([]uint64, (r.Size/memory.PageSize+63)/64)
		if err := m.vm.DirtyLog(uint32(i), bitmap); err != nil {
			return nil, err
		}
		guest = append(guest, bitmap)
	}
	return m.mem.TakeDirty(guest), nil
}

// saveState reads all of a paused machine but its RAM.
func (m *Machine) saveState(base snapshot.ID) (*snapshot.State, error) {
	s := &snapshot.State{
		Realtime: time.Now().UnixNano(), Program: Version,
		Memory: snapshot.Memory{Size: m.mem.Size()}, Base: base,
		Platform: string(m.cfg.Platform), Ports: make(map[string][]byte),
	}
	if _, err := unix.Getrandom(s.ID[:], 0); err != nil {
		return nil, fmt.Errorf("a name for the snapshot: %w", err)
	}
	indices, err := m.system.MSRIndexList()
	if err != nil {
		return nil, err
	}
	xsave, err := m.vm.XSaveSize()
	if err != nil {
		return nil, err
	}
	for i, c := range m.cpus {
		err := c.Do(func(v *kvm.VCPU) error {
			cpu, err := saveCPU(v, m.leaves[i], xsave, indices)
			s.CPUs = append(s.CPUs, cpu)
			if khz, err := v.TSCKHz(); err == nil {
				s.TSCKHz = khz
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	if s.Chips, err = m.saveChips(&s.CPUs[0], s.TSCKHz); err != nil {
		return nil, err
	}
	for name, d := range m.portDevices {
		if s.Ports[name], err = d.SaveState(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for i, t := range m.slots {
		state, err := t.State()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.slotNames[i], err)
		}
		d, err := json.Marshal(state)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.slotNames[i], err)
		}
		s.Devices = append(s.Devices, snapshot.Device{Name: m.slotNames[i], State: d})
	}
	return s, nil
}

// writeSnapshot writes both files. The state comes last, since it knows where
// the memory's bytes are.
func (m *Machine) writeSnapshot(state, memory *os.File, s *snapshot.State, opts SnapshotOptions) error {
	extents, err := m.saveMemory(memory, opts.Diff)
	if err != nil {
		return err
	}
	for _, e := range extents {
		s.Memory.Extents = append(s.Memory.Extents, snapshot.Extent(e))
	}
	if _, err := memory.WriteAt(snapshot.Trailer(s.ID), int64(s.Memory.Size)); err != nil {
		return err
	}
	if err := snapshot.Write(state, s); err != nil {
		return err
	}
	if !opts.Sync {
		return nil
	}
	return errors.Join(memory.Sync(), state.Sync())
}

// saveMemory writes RAM, or what of it was written to since the last snapshot.
func (m *Machine) saveMemory(f *os.File, diff bool) (extents []memory.Extent, err error) {
	if m.cfg.TrackDirty {
		// What is taken is forgotten: if this snapshot fails, the next one must be full.
		m.latest = snapshot.ID{}
		if extents, err = m.takeDirty(); err != nil {
			return nil, err
		}
	}
	if diff {
		return extents, m.mem.SaveExtents(f, extents)
	}
	return m.mem.Save(f)
}

// openSnapshot reads the state that the configuration names, and maps its
// memory.
func (m *Machine) openSnapshot(opts memory.Options) (err error) {
	f, err := m.cfg.Restore.State.Open(os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	s, err := snapshot.Read(f)
	if err != nil {
		return fmt.Errorf("restore %s: %w", f.Name(), err)
	}
	if err := m.fits(s); err != nil {
		return fmt.Errorf("restore %s: %w", f.Name(), err)
	}
	extents := make([]memory.Extent, len(s.Memory.Extents))
	for i, e := range s.Memory.Extents {
		extents[i] = memory.Extent(e)
	}
	if m.backing.MemoryBackend != nil {
		err = m.openBacking(s.Memory.Size, opts)
	} else {
		err = m.openMemory(s, extents, opts)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if m.cfg.Restore.Populate {
		m.mem.Populate(extents)
	}
	m.saved = s
	if m.cfg.TrackDirty {
		m.latest = s.ID
	}
	return nil
}

// openMemory maps the memory file that the configuration names.
func (m *Machine) openMemory(s *snapshot.State, extents []memory.Extent, opts memory.Options) error {
	ram, err := m.cfg.Restore.Memory.Open(os.O_RDONLY)
	if err != nil {
		return err
	}
	defer ram.Close()
	if err := s.CheckMemory(ram); err != nil {
		return err
	}
	m.mem, err = memory.Restore(ram, s.Memory.Size, extents, opts)
	return err
}

// ErrMismatch is wrapped by the errors of a restore into a machine, or on a
// host, of another kind than the snapshot's.
var ErrMismatch = errors.New("the snapshot does not fit")

// fits makes sure that the snapshot is of a machine such as the configuration
// describes. Its devices are compared as they are made.
func (m *Machine) fits(s *snapshot.State) error {
	switch {
	case s.Base != snapshot.ID{}:
		return fmt.Errorf("%w: it is a differential one: merge it into the one it is based on", ErrMismatch)
	case len(s.CPUs) != m.cfg.CPUs:
		return fmt.Errorf("%w: it has %d vCPUs, the machine %d", ErrMismatch, len(s.CPUs), m.cfg.CPUs)
	case s.Memory.Size != m.cfg.Memory:
		return fmt.Errorf("%w: it has %d bytes of memory, the machine %d", ErrMismatch, s.Memory.Size, m.cfg.Memory)
	case s.Platform != string(m.cfg.Platform):
		return fmt.Errorf("%w: its platform is %s, the machine's %s", ErrMismatch, s.Platform, m.cfg.Platform)
	case (len(s.Chips.PIT) > 0) != m.cfg.PIT:
		return fmt.Errorf("%w: only one of snapshot and machine has a PIT", ErrMismatch)
	}
	return nil
}

// loadPorts puts the state of devices behind I/O ports in place. They may raise interrupts at once, so there must be
// controllers for these already (restoreChips).
func (m *Machine) loadPorts() error {
	if len(m.saved.Ports) != len(m.portDevices) {
		return fmt.Errorf("restore: %w: it has other devices behind I/O ports than the machine", ErrMismatch)
	}
	for name, d := range m.portDevices {
		p, ok := m.saved.Ports[name]
		if !ok {
			return fmt.Errorf("restore: %w: it has no %s", ErrMismatch, name)
		}
		if err := d.RestoreState(p); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
	}
	return nil
}

// loadDevices puts the state of virtio devices in place. vCPUs load theirs on their own threads (restoreCPU), the
// interrupt controllers once there are vCPUs (restoreChips), and devices behind ports after these.
func (m *Machine) loadDevices() error {
	s := m.saved
	if len(s.Devices) != len(m.slots) {
		return fmt.Errorf("restore: %w: it has %d virtio devices, the machine %d", ErrMismatch, len(s.Devices), len(m.slots))
	}
	for i, t := range m.slots {
		var state virtio.State
		err := json.Unmarshal(s.Devices[i].State, &state)
		if err == nil {
			err = t.Restore(state)
		}
		if err != nil {
			return fmt.Errorf("restore %s as %s: %w", s.Devices[i].Name, m.slotNames[i], err)
		}
	}
	return nil
}

// savedLeaves takes what the vCPUs were told of their processor from the
// snapshot, and makes sure that this host's has it.
func (m *Machine) savedLeaves(supported []kvm.CPUIDEntry) (err error) {
	for i := range m.leaves {
		if m.leaves[i], err = cpuidLeaves(m.saved.CPUs[i].CPUID); err != nil {
			return fmt.Errorf("restore: vCPU %d: %w", i, err)
		}
		if missing := kvm.MissingFeatures(m.leaves[i], supported); len(missing) > 0 {
			return fmt.Errorf("restore: %w on this host: its processor lacks %s", ErrMismatch, strings.Join(missing, ", "))
		}
	}
	return nil
}

// MergeSnapshots lays the differential snapshot in directory diff over the one in base that it is based on, and writes the
// result to directory out.
func MergeSnapshots(base, diff, out string) error { return snapshot.Merge(base, diff, out) }
