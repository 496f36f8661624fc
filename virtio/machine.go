package virtio

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Machine is the part of a transport that is the same for all transports: the device status (2.1), feature
// negotiation (2.2), the set-up and reset of queues (2.6), interrupt causes and the configuration generation.
// A transport translates its registers to calls of Machine.
//
// All methods may be called from any thread. Those that drivers use all the time (Notify, ISR, Ack, Status,
// Generation, ReadConfig) take no lock; set-up and reset do. Nothing a driver does through them can fail loudly:
// what the standard forbids is ignored.
type Machine struct {
	dev     Device
	mem     Memory
	irq     func()
	offered uint64
	sizes   []uint16
	kicks   []*Kick

	status     atomic.Uint32
	isr        atomic.Uint32
	generation atomic.Uint32
	failure    atomic.Pointer[error]
	closed     atomic.Bool
	resetting  atomic.Uint32 // index + 1 of the queue that is being reset

	mu       sync.Mutex // guards what follows, and serialises Activate and Deactivate
	features uint64     // as written by the driver
	strange  bool       // the driver wants a feature beyond bit 63
	queues   []QueueState
	active   bool // between Activate and Deactivate
	paused   bool
}

// Errors of Machine, wrapped with what they are about.
var (
	ErrClosed   = errors.New("device is closed")
	ErrFeatures = errors.New("features are not acceptable")
	ErrUnsaved  = errors.New("the device cannot be saved now")
)

// NewMachine makes a Machine for dev. irq sends an edge to the driver; it is called from any goroutine and must not
// block.
func NewMachine(dev Device, mem Memory, irq func()) (*Machine, error) {
	m := &Machine{dev: dev, mem: mem, irq: irq, sizes: slices.Clone(dev.QueueSizes())}
	m.offered = dev.Features()&^reservedFeatures | RingFeatures
	for i, n := range m.sizes {
		if !validQueueSize(uint32(n)) {
			return nil, errors.Join(fmt.Errorf("virtio device %d, queue %d: %w: %d", dev.ID(), i, ErrQueueSize, n), m.closeKicks())
		}
		k, err := NewKick()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("virtio device %d: %w", dev.ID(), err), m.closeKicks())
		}
		m.kicks = append(m.kicks, k)
	}
	m.queues = make([]QueueState, len(m.sizes))
	m.clearQueues()
	return m, nil
}

// Device returns the device.
func (m *Machine) Device() Device { return m.dev }

// Kicks returns the doorbells of all queues; they are the same until Close.
func (m *Machine) Kicks() []*Kick { return m.kicks }

// Notify rings the doorbell of queue i. An index without a queue is ignored.
func (m *Machine) Notify(i uint32) {
	if i < uint32(len(m.kicks)) && !m.closed.Load() {
		m.kicks[i].Notify()
	}
}

// ISR returns the interrupt causes that have not been acknowledged.
func (m *Machine) ISR() uint32 { return m.isr.Load() }

// Ack clears interrupt causes.
func (m *Machine) Ack(causes uint32) { m.isr.And(^causes) }

// Generation returns the configuration generation (2.5).
func (m *Machine) Generation() uint32 { return m.generation.Load() }

// Failure returns why the device needs a reset, or nil.
func (m *Machine) Failure() error {
	if p := m.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// ReadConfig reads the configuration space; bytes past its end read 0.
func (m *Machine) ReadConfig(off uint64, p []byte) {
	clear(p)
	m.dev.ReadConfig(off, p)
}

// WriteConfig writes the configuration space, where the device has something writable.
func (m *Machine) WriteConfig(off uint64, p []byte) {
	if w, ok := m.dev.(ConfigWriter); ok {
		w.WriteConfig(off, p)
	}
}

// Features returns the feature bits offered to the driver.
func (m *Machine) Features() uint64 { return m.offered }

// DriverFeatures returns the bits that the driver has written.
func (m *Machine) DriverFeatures() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.features
}

// SetDriverFeatures takes 32 feature bits from the driver: bits 32*word and up. After FEATURES_OK they are ignored
// (3.1.1).
func (m *Machine) SetDriverFeatures(word, v uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status.Load()&StatusFeaturesOK != 0 {
		return
	}
	switch word {
	case 0:
		m.features = m.features&^0xffffffff | uint64(v)
	case 1:
		m.features = m.features&0xffffffff | uint64(v)<<32
	default:
		m.strange = m.strange || v != 0
	}
}

// checkFeatures reports why the driver may not have features.
func (m *Machine) checkFeatures(features uint64) error {
	if extra := features &^ m.offered; extra != 0 {
		return fmt.Errorf("%w: bits %#x were not offered", ErrFeatures, extra)
	}
	if features&(1<<F_VERSION_1) == 0 {
		return fmt.Errorf("%w: VIRTIO_F_VERSION_1 is missing", ErrFeatures) // 6.1
	}
	if c, ok := m.dev.(FeatureChecker); ok {
		if err := c.CheckFeatures(features); err != nil {
			return fmt.Errorf("%w: %w", ErrFeatures, err)
		}
	}
	return nil
}

// Status returns the device status.
func (m *Machine) Status() uint32 { return m.status.Load() }

// SetStatus takes a write to the device status. 0 resets the device, and has done so when SetStatus returns. Otherwise
// it can only add bits, and only in the order of 3.1.1: a bit whose turn it is not stays clear.
func (m *Machine) SetStatus(v uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v == 0 {
		m.reset()
		return
	}
	add := v &^ m.status.Load()
	m.status.Or(add & StatusFailed)
	if add&StatusAcknowledge != 0 {
		m.status.Or(StatusAcknowledge)
	}
	if add&StatusDriver != 0 && m.has(StatusAcknowledge) {
		m.status.Or(StatusDriver)
	}
	if add&StatusFeaturesOK != 0 && m.has(StatusAcknowledge|StatusDriver) && !m.strange && m.checkFeatures(m.features) == nil {
		m.status.Or(StatusFeaturesOK)
	}
	if add&StatusDriverOK != 0 && m.has(StatusAcknowledge|StatusDriver|StatusFeaturesOK) && !m.broken() {
		m.status.Or(StatusDriverOK)
		m.start()
	}
}

// has reports whether all bits of status are set.
func (m *Machine) has(bits uint32) bool { return m.status.Load()&bits == bits }

// broken reports whether one side has given up.
func (m *Machine) broken() bool { return m.status.Load()&(StatusFailed|StatusNeedsReset) != 0 }

// reset brings everything back to the state after power-on (2.4).
func (m *Machine) reset() {
	m.stop()
	if r, ok := m.dev.(Resetter); ok {
		r.Reset()
	}
	m.features, m.strange = 0, false
	m.clearQueues()
	m.failure.Store(nil)
	m.isr.Store(0)
	m.status.Store(0)
}

func (m *Machine) clearQueues() {
	for i := range m.queues {
		m.queues[i] = QueueState{Size: m.sizes[i]}
	}
}

// start activates the device if the driver is ready and nothing speaks against it.
func (m *Machine) start() {
	if m.active || m.paused || m.closed.Load() || !m.has(StatusDriverOK) || m.broken() {
		return
	}
	irq := (*interrupter)(m)
	env := Env{Mem: m.mem, Queues: make([]*Queue, len(m.queues)), Features: m.features, Interrupt: irq}
	for i := range m.queues {
		s := &m.queues[i]
		if !s.Ready {
			continue
		}
		q, err := newQueue(i, *s, m.features, m.mem, irq, m.kicks[i])
		if err != nil {
			irq.NeedsReset(err)
			return
		}
		env.Queues[i] = q
	}
	if err := m.dev.Activate(env); err != nil {
		irq.NeedsReset(fmt.Errorf("activate virtio device %d: %w", m.dev.ID(), err))
		return
	}
	m.active = true
}

// stop deactivates the device and takes back its queues' positions.
func (m *Machine) stop() {
	if !m.active {
		return
	}
	m.active = false
	queues, err := m.dev.Deactivate()
	if err != nil {
		(*interrupter)(m).NeedsReset(fmt.Errorf("stop virtio device %d: %w", m.dev.ID(), err))
	}
	for _, q := range queues {
		if q != nil && q.index < len(m.queues) {
			m.queues[q.index] = q.State()
		}
	}
}

// restart runs change while the device is stopped, for what concerns one queue of a running device.
func (m *Machine) restart(change func()) {
	if !m.active {
		change()
		return
	}
	m.stop()
	change()
	m.start()
}

// interrupter is the Machine as devices see it.
type interrupter Machine

func (i *interrupter) Queue(int) { i.raise(CauseQueue) }

func (i *interrupter) Config() {
	i.generation.Add(1)
	i.raise(CauseConfig)
}

func (i *interrupter) NeedsReset(err error) {
	i.failure.CompareAndSwap(nil, &err)
	i.status.Or(StatusNeedsReset)
	if i.status.Load()&StatusDriverOK != 0 {
		i.raise(CauseConfig) // 2.1.2
	}
}

// raise sets the cause and then sends the edge, each time: an edge that a masked interrupt has swallowed must not be
// the last one.
func (i *interrupter) raise(cause uint32) {
	i.isr.Or(cause)
	i.irq()
}
