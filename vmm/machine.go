package vmm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/devices"
	"github.com/hullvm/hull/devices/i8042"
	"github.com/hullvm/hull/devices/serial"
	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/virtio/balloon"
	"github.com/hullvm/hull/virtio/console"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/net"
	"github.com/hullvm/hull/virtio/pmem"
	"github.com/hullvm/hull/virtio/rng"
	"github.com/hullvm/hull/vmm/boot"
	"github.com/hullvm/hull/vmm/memory"
	"github.com/hullvm/hull/vmm/snapshot"
	"github.com/hullvm/hull/vmm/vcpu"
)

// Result says how a guest ended.
type Result struct {
	Reason  string // one of the Reason constants
	Status  int    // the Status constant that goes with it
	Message string // a sentence; for crashes several lines with registers
	Console string // the last lines of the serial port, unless the end was orderly
}

// Machine is one VM. Its methods may be called from any goroutine.
type Machine struct {
	cfg   Config
	event func(Event)

	system *kvm.System
	vm     *kvm.VM
	mem    *memory.Memory
	ports  devices.Bus
	mmio   devices.Bus
	cpus   []*vcpu.CPU
	leaves [][]kvm.CPUIDEntry // of each vCPU, as they were set
	slots  []*mmio.Transport  // the virtio devices, in order
	disks  []*disk            // those of them that are disks

	slotNames   []string                       // what messages call the virtio devices
	portDevices map[string]devices.Snapshotter // devices behind I/O ports that a snapshot keeps, by name
	saved       *snapshot.State                // what the machine goes on from, nil for one that boots
	stages      stages
	backing     backing     // who brings the memory's pages, if it is not this host's files
	latest      snapshot.ID // the snapshot since which it is noted what is written to; zero: none

	nics    []*net.Device
	wrapNIC func(nic int, backends []Backend) ([]Backend, error)
	pmems   []*pmem.Device // of the files that are mapped behind RAM
	pmemEnd uint64         // where the last of them ends, a guest physical address
	padded  string         // one of them that the guest can write behind the end of, "" if there is none
	serial  *serial.UART

	serialDropped atomic.Uint64 // bytes of output that Serial.Rate did not allow

	console  *console.Device // nil without one
	balloon  *balloon.Device // nil without one
	rng      *rng.Device     // nil without one
	keyboard *i8042.Keyboard // nil without one

	tail *tail

	onStart []func()
	onClose []func() error // in reverse order

	mu    sync.Mutex // one change of state at a time; held while vCPUs are waited for
	state machineState

	endOnce sync.Once
	result  Result        // set before ended is closed; Console before done is
	ended   chan struct{} // closed when the guest is to run no more
	idle    sync.Once     // closes done
	done    chan struct{} // closed when all vCPUs have finished as well
}

type machineState int

const (
	stateNew machineState = iota
	stateRunning
	statePaused
	stateClosed
)

// ErrState is returned by methods called out of order, such as Pause of a
// machine that does not run.
var ErrState = errors.New("the machine is not in a state for that")

// Option changes what New makes beyond the Config.
type Option func(*Machine) error

// WithEvents has each stage of the start reported to f, which must not block.
func WithEvents(f func(Event)) Option {
	return func(m *Machine) error { m.event = f; return nil }
}

// WithPort puts a device of the caller on the port bus.
func WithPort(base, size uint64, d devices.Device) Option {
	return func(m *Machine) error { return m.ports.Insert(base, size, d) }
}

// WithMMIO puts a device of the caller on the memory bus.
func WithMMIO(base, size uint64, d devices.Device) Option {
	return func(m *Machine) error { return m.mmio.Insert(base, size, d) }
}

// New makes a machine, ready to start. On error nothing is left behind.
func New(cfg Config, options ...Option) (_ *Machine, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Platform == "" {
		cfg.Platform = PlatformACPI
	}
	m := &Machine{
		cfg: cfg, tail: newTail(ConsoleTail), portDevices: make(map[string]devices.Snapshotter),
		ended: make(chan struct{}), done: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	for _, o := range options {
		if err := o(m); err != nil {
			return nil, err
		}
	}
	if m.system, err = kvm.Open(); err != nil {
		return nil, err
	}
	m.closing(m.system.Close)
	if cfg.Platform != PlatformNone {
		if err := m.system.RequireLinux(); err != nil {
			return nil, err
		}
	}
	defer m.awaitFaults("the machine is made")()
	thp, err := cfg.thp()
	if err != nil {
		return nil, err
	}
	opts := memory.Options{HugePages: cfg.HugePages, Transparent: thp}
	if cfg.Restore != nil {
		err = m.openSnapshot(opts)
	} else {
		m.mem, err = memory.New(cfg.Memory, opts)
	}
	if err != nil {
		return nil, err
	}
	m.closing(m.mem.Close)
	if err := m.createVM(); err != nil {
		return nil, err
	}
	m.stage(StageKVM)
	slots, err := m.attachDevices()
	if err != nil {
		return nil, err
	}
	m.stage(StageDevices)
	var start *boot.State
	if m.saved == nil {
		start, err = m.load(slots)
	} else {
		err = m.loadDevices()
	}
	if err != nil {
		return nil, err
	}
	m.stage(StageMemory)
	if err := m.createCPUs(start); err != nil {
		return nil, err
	}
	if m.saved != nil {
		if err := m.restoreChips(&m.saved.Chips); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
		if err := m.loadPorts(); err != nil {
			return nil, err
		}
	}
	return m, m.backing.made()
}

// closing has Close call f, before everything that was put there earlier.
func (m *Machine) closing(f func() error) { m.onClose = append(m.onClose, f) }

func (m *Machine) createVM() (err error) {
	if m.vm, err = m.system.CreateVM(); err != nil {
		return err
	}
	m.closing(m.vm.Close)
	// Needed by Intel CPUs that cannot run real mode as a guest; harmless to
	// all others.
	if err := m.vm.SetIdentityMapAddr(boot.KVMIdentityMap); err != nil {
		return err
	}
	if err := m.vm.SetTSSAddr(boot.KVMTSS); err != nil {
		return err
	}
	flags := uint32(0)
	if m.cfg.TrackDirty {
		flags = kvm.KVM_MEM_LOG_DIRTY_PAGES
		m.mem.Track()
	}
	for i, r := range m.mem.Regions() {
		if err := m.vm.SetUserMemoryRegion(uint32(i), flags, r.GPA, r.Bytes); err != nil {
			return err
		}
	}
	if err := m.vm.CreateIRQChip(); err != nil {
		return err
	}
	if m.cfg.PIT {
		return m.vm.CreatePIT2()
	}
	return nil
}

// load puts kernel, initramfs and tables into memory.
func (m *Machine) load(slots []boot.Device) (*boot.State, error) {
	kernel, err := openImage(m.cfg.Kernel)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	defer kernel.close()
	params := boot.Params{
		Kernel:      kernel.Image,
		Protocol:    boot.Protocol(m.cfg.Protocol),
		CommandLine: m.cfg.CommandLine,
		Devices:     slots,
		Serial:      true,
		Keyboard:    m.cfg.Keyboard,
		PVPanic:     true,
		Platform:    boot.Platform(m.cfg.Platform),
		RandomSeed:  make([]byte, 64),
	}
	// Up to 256 bytes come whole and at once; crypto/rand would add its
	// initialisation to every start.
	if _, err := unix.Getrandom(params.RandomSeed, 0); err != nil {
		return nil, fmt.Errorf("random seed for the guest: %w", err)
	}
	for i := range m.cfg.CPUs {
		params.APICIDs = append(params.APICIDs, uint32(i))
	}
	for i, f := range m.cfg.Initrd {
		image, err := openImage(f)
		if err != nil {
			return nil, fmt.Errorf("initrd %d: %w", i, err)
		}
		defer image.close()
		params.Initrd = append(params.Initrd, image.Image)
	}
	return boot.Load(m.mem, params)
}

type openedImage struct {
	boot.Image
	f *os.File
}

func (i openedImage) close() { i.f.Close() }

func openImage(file File) (openedImage, error) {
	f, err := file.Open(os.O_RDONLY)
	if err != nil {
		return openedImage{}, err
	}
	image, err := boot.FileImage(f)
	if err != nil {
		f.Close()
		return openedImage{}, err
	}
	return openedImage{image, f}, nil
}

// createCPUs makes all vCPUs, paused.
func (m *Machine) createCPUs(start *boot.State) error {
	supported, err := m.system.SupportedCPUID()
	if err != nil {
		return err
	}
	deadline, err := m.system.CheckExtension(kvm.KVM_CAP_TSC_DEADLINE_TIMER)
	if err != nil {
		return err
	}
	m.leaves = make([][]kvm.CPUIDEntry, m.cfg.CPUs)
	if m.saved != nil {
		if err := m.savedLeaves(supported); err != nil {
			return err
		}
	}
	for id := range m.cfg.CPUs {
		cfg := vcpu.Config{
			VM: m.vm, ID: id, Ports: &m.ports, MMIO: &m.mmio, Memory: m.mem,
			Setup: func(v *kvm.VCPU) error {
				if m.saved == nil {
					m.leaves[id] = guestCPUID(v, supported, id, m.cfg.CPUs, deadline > 0)
					if err := m.cfg.CPUTemplate.changeCPUID(m.leaves[id]); err != nil {
						return err
					}
				}
				if err := v.SetCPUID(m.leaves[id]); err != nil {
					return err
				}
				if m.saved != nil {
					return errors.Join(restoreTSC(v, m.saved.TSCKHz), restoreCPU(v, &m.saved.CPUs[id]))
				}
				return setupCPU(v, id, m.cfg.CPUTemplate, start)
			},
			Power:   m.power,
			Crashed: m.crashed,
		}
		if id == 0 {
			cfg.FirstRun = func() { m.stage(StageRun) }
			cfg.FirstExit = func() { m.stage(StageEntry) }
		}
		cpu, err := vcpu.New(cfg)
		if err != nil {
			return err
		}
		m.cpus = append(m.cpus, cpu)
	}
	return nil
}

// Start lets the guest run.
func (m *Machine) Start() error { return m.resume(stateNew) }

// Resume lets a paused guest go on.
func (m *Machine) Resume() error { return m.resume(statePaused) }

func (m *Machine) resume(from machineState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != from || m.hasEnded() {
		return ErrState
	}
	if from == statePaused || m.saved != nil {
		defer m.awaitFaults("the machine goes on")()
		for _, t := range m.slots {
			if err := t.Resume(); err != nil {
				return fmt.Errorf("resume: %w", err)
			}
		}
		for _, c := range m.cpus {
			// So that the guest's watchdogs do not take the pause for a
			// lock-up. A guest that does not use the clock makes this fail.
			_ = c.Do((*kvm.VCPU).KVMClockCtrl)
		}
	}
	for _, c := range m.cpus {
		if err := c.Resume(); err != nil && !errors.Is(err, vcpu.ErrFinished) {
			return fmt.Errorf("start: %w", err)
		}
	}
	if from == stateNew {
		go m.watch()
		for _, f := range m.onStart {
			f()
		}
	}
	m.state = stateRunning
	return nil
}

// Pause stops all vCPUs at an instruction boundary and then the devices, and
// returns when no thread of the machine touches the guest's memory any more.
func (m *Machine) Pause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != stateRunning || m.hasEnded() {
		return ErrState
	}
	defer m.awaitFaults("the machine is paused")()
	for _, c := range m.cpus {
		_ = c.RequestPause() // one that has finished is still enough
	}
	for _, c := range m.cpus {
		if err := c.Pause(); err != nil && !errors.Is(err, vcpu.ErrFinished) {
			return fmt.Errorf("pause: %w", err)
		}
	}
	for _, t := range m.slots {
		if err := t.Pause(); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
	}
	m.state = statePaused
	return m.backing.why()
}

// Stop ends the guest from outside. It returns at once; Wait tells when it has
// ended.
func (m *Machine) Stop(message string) {
	m.end(Result{Reason: ReasonStopped, Status: StatusStopped, Message: message})
}

// Wait returns when the guest has ended and no vCPU runs any more.
func (m *Machine) Wait() Result {
	<-m.done
	return m.result
}

// Done is closed when Wait would return.
func (m *Machine) Done() <-chan struct{} { return m.done }

// watch closes done once the guest has ended and all vCPUs are out of it.
func (m *Machine) watch() {
	<-m.ended
	m.finished()
}

func (m *Machine) finished() {
	for _, c := range m.cpus {
		<-c.Done()
	}
	m.idle.Do(func() {
		// What a crash has to say comes last: it must be out before it is
		// quoted.
		_ = errors.Join(m.flushSerial(), m.flushConsole()) // a writer that failed has nothing to quote
		if !m.result.orderly() {
			m.result.Console = m.tail.Lines(consoleLines)
		}
		close(m.done)
	})
}

// end records how the guest ended, if nobody did yet, and stops all vCPUs. It
// may run on a vCPU's thread, also while Pause holds mu and waits for that very
// vCPU, so it must not take mu.
func (m *Machine) end(r Result) {
	m.endOnce.Do(func() {
		m.result = r
		close(m.ended)
		for _, c := range m.cpus {
			c.Stop()
		}
		// vCPUs and devices that wait for pages get out only now, and no guest instruction sees what they find.
		if m.mem != nil {
			m.mem.Lose(errEnded)
		}
	})
}

func (m *Machine) hasEnded() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// Close ends the guest if it still runs and gives everything back. It may be
// called more than once.
func (m *Machine) Close() error {
	m.Stop("the machine was closed")
	m.finished()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == stateClosed {
		return nil
	}
	m.state = stateClosed
	var errs []error
	for i := len(m.onClose) - 1; i >= 0; i-- {
		errs = append(errs, m.onClose[i]())
	}
	return errors.Join(errs...)
}

// stage reports that a stage of the start was reached.
func (m *Machine) stage(name string) {
	now := Monotonic()
	m.stages.reached(name, now)
	if m.event != nil {
		m.event(Event{Event: "stage", Name: name, Time: now})
	}
}

// Monotonic is CLOCK_MONOTONIC in nanoseconds, which processes of one host can
// compare.
func Monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Now().UnixNano() // not on Linux
	}
	return ts.Nano()
}
