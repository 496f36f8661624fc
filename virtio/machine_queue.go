package virtio

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// QueueMax returns the largest size of queue i, or 0 when there is no such queue.
func (m *Machine) QueueMax(i uint32) uint16 {
	if i >= uint32(len(m.sizes)) {
		return 0
	}
	return m.sizes[i]
}

// ConfigureQueue lets change edit the size and addresses of queue i. It does nothing when there is no such queue or
// when it is not the time for it (3.1.1): that is after FEATURES_OK and before DRIVER_OK, or after the queue was
// reset, and while the queue is not ready.
func (m *Machine) ConfigureQueue(i uint32, change func(*QueueState)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.configurable(i); s != nil && !s.Ready {
		change(s)
		if !validQueueSize(uint32(s.Size)) || s.Size > m.sizes[i] {
			s.Size = 0 // and with that it cannot be made ready
		}
	}
}

// configurable returns the configuration of queue i if the driver may configure or enable it now.
func (m *Machine) configurable(i uint32) *QueueState {
	if i >= uint32(len(m.queues)) || !m.has(StatusFeaturesOK) || m.broken() {
		return nil
	}
	if s := &m.queues[i]; !m.has(StatusDriverOK) || s.Reset {
		return s
	}
	return nil
}

// QueueReady reports whether queue i is enabled.
func (m *Machine) QueueReady(i uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return i < uint32(len(m.queues)) && m.queues[i].Ready
}

// SetQueueReady enables or disables queue i. Enabling checks its size and addresses and leaves it disabled when they
// are not good. When disabling returns the ring is not touched any more (4.2.2.2).
func (m *Machine) SetQueueReady(i uint32, ready bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ready {
		if i < uint32(len(m.queues)) && m.queues[i].Ready {
			m.restart(func() { m.queues[i].Ready = false })
		}
		return
	}
	s := m.configurable(i)
	if s == nil || s.Ready {
		return
	}
	if _, err := s.rings(m.mem); err != nil {
		return
	}
	m.restart(func() { s.Ready, s.Reset = true, false })
}

// ResetQueue resets queue i by itself if F_RING_RESET was negotiated (2.6.1). When it returns, the queue has forgotten
// everything, and the driver may configure it anew.
func (m *Machine) ResetQueue(i uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i >= uint32(len(m.queues)) || !m.has(StatusFeaturesOK) || m.features&(1<<F_RING_RESET) == 0 {
		return
	}
	m.resetting.Store(i + 1)
	m.restart(func() { m.queues[i] = QueueState{Size: m.sizes[i], Reset: true} })
	m.resetting.Store(0)
}

// QueueResetting reports whether queue i is being reset this moment.
func (m *Machine) QueueResetting(i uint32) bool { return m.resetting.Load() == i+1 && i+1 != 0 }

// State is what a snapshot keeps of a device: the negotiation with the driver, and what the device itself has to keep.
type State struct {
	DeviceID   uint32       `json:"device_id"`
	Status     uint32       `json:"status"`
	Features   uint64       `json:"features"`
	ISR        uint32       `json:"isr"`
	Generation uint32       `json:"generation"`
	Queues     []QueueState `json:"queues"`
	// Config is the configuration space as the driver could read it, without zeros at its end. A device that is restored
	// may have another one, such as a larger disk: the driver is told.
	Config []byte `json:"config,omitempty"`
	// Device is what a Snapshotter has returned.
	Device []byte `json:"device,omitempty"`
	// Selectors are the transport's own registers, which it saves and restores by itself.
	Selectors []uint32 `json:"selectors,omitempty"`
}

const (
	// MaxDeviceState bounds State.Device, in bytes.
	MaxDeviceState = 64 << 10
	// maxConfig bounds State.Config. No device's configuration space is as long.
	maxConfig = 256
)

// config returns the configuration space without zeros at its end.
func (m *Machine) config() []byte {
	var p [maxConfig]byte
	m.dev.ReadConfig(0, p[:])
	return bytes.TrimRight(p[:], "\x00")
}

// Pause stops the device's goroutines; the driver is not told. When it returns, guest memory is not touched any more.
func (m *Machine) Pause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed.Load() {
		return fmt.Errorf("pause virtio device %d: %w", m.dev.ID(), ErrClosed)
	}
	m.stop()
	m.paused = true
	return nil
}

// Resume starts what Pause has stopped, or what Restore has loaded.
func (m *Machine) Resume() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed.Load() {
		return fmt.Errorf("resume virtio device %d: %w", m.dev.ID(), ErrClosed)
	}
	m.paused = false
	m.start()
	if m.isr.Load() != 0 {
		m.irq() // its edge may have been lost with the machine that the state is from
	}
	return nil
}

// State returns the state of a paused machine. The error wraps ErrUnsaved when the device cannot be part of a snapshot.
func (m *Machine) State() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.active {
		return State{}, fmt.Errorf("save virtio device %d: it is not paused", m.dev.ID())
	}
	s := State{
		DeviceID: m.dev.ID(), Status: m.status.Load(), Features: m.features,
		ISR: m.isr.Load(), Generation: m.generation.Load(), Queues: slices.Clone(m.queues), Config: m.config(),
	}
	if d, ok := m.dev.(Snapshotter); ok {
		var err error
		if s.Device, err = d.SaveState(); err != nil {
			return State{}, fmt.Errorf("save virtio device %d: %w", m.dev.ID(), err)
		}
	}
	return s, nil
}

// Restore loads a state into a machine that no driver has used yet, and leaves it paused. The state is not trusted: it is
// held to the same rules as what a driver writes. On error nothing has changed. Where the device's configuration is not
// what it was, the driver learns of it after Resume.
func (m *Machine) Restore(s State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkState(s); err != nil {
		return fmt.Errorf("restore virtio device %d: %w", m.dev.ID(), err)
	}
	if err := m.restoreDevice(s.Device); err != nil {
		return fmt.Errorf("restore virtio device %d: %w", m.dev.ID(), err)
	}
	if !bytes.Equal(m.config(), s.Config) {
		s.Generation++
		if s.Status&StatusDriverOK != 0 {
			s.ISR |= CauseConfig
		}
	}
	m.paused = true
	m.features = s.Features
	copy(m.queues, s.Queues)
	m.isr.Store(s.ISR)
	m.generation.Store(s.Generation)
	m.status.Store(s.Status)
	return nil
}

// restoreDevice hands the device what is its own.
func (m *Machine) restoreDevice(p []byte) error {
	if d, ok := m.dev.(Snapshotter); ok {
		return d.RestoreState(p)
	}
	if len(p) > 0 {
		return fmt.Errorf("%w: %d bytes of a device that keeps none", ErrState, len(p))
	}
	return nil
}

func (m *Machine) checkState(s State) error {
	const known = StatusAcknowledge | StatusDriver | StatusDriverOK | StatusFeaturesOK | StatusNeedsReset | StatusFailed
	switch {
	case m.closed.Load():
		return ErrClosed
	case m.status.Load() != 0:
		return fmt.Errorf("%w: the device is in use", ErrState)
	case s.DeviceID != m.dev.ID():
		return fmt.Errorf("%w: it is of a device of type %d", ErrState, s.DeviceID)
	case s.Status&^known != 0,
		s.Status&StatusDriver != 0 && s.Status&StatusAcknowledge == 0,
		s.Status&StatusFeaturesOK != 0 && s.Status&StatusDriver == 0,
		s.Status&StatusDriverOK != 0 && s.Status&StatusFeaturesOK == 0:
		return fmt.Errorf("%w: device status %#x", ErrState, s.Status)
	case s.ISR&^(CauseQueue|CauseConfig) != 0:
		return fmt.Errorf("%w: interrupt status %#x", ErrState, s.ISR)
	case len(s.Config) > maxConfig || len(s.Device) > MaxDeviceState:
		return fmt.Errorf("%w: configuration of %d bytes, device state of %d", ErrState, len(s.Config), len(s.Device))
	case len(s.Queues) != len(m.queues):
		return fmt.Errorf("%w: %d queues instead of %d", ErrState, len(s.Queues), len(m.queues))
	}
	if s.Status&StatusFeaturesOK != 0 {
		if err := m.checkFeatures(s.Features); err != nil {
			return fmt.Errorf("%w: %w", ErrState, err)
		}
	}
	for i := range s.Queues {
		q := &s.Queues[i]
		if q.Size > m.sizes[i] {
			return fmt.Errorf("%w: queue %d: %w: %d", ErrState, i, ErrQueueSize, q.Size)
		}
		if !q.Ready {
			continue
		}
		if s.Status&StatusFeaturesOK == 0 {
			return fmt.Errorf("%w: queue %d is ready before FEATURES_OK", ErrState, i)
		}
		if _, err := q.rings(m.mem); err != nil {
			return fmt.Errorf("%w: queue %d: %w", ErrState, i, err)
		}
	}
	return nil
}

// Close stops the device for good and closes the doorbells. No vCPU may reach the machine any more, and KVM must have
// forgotten the eventfds' addresses.
func (m *Machine) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed.Load() {
		return nil
	}
	m.stop()
	if r, ok := m.dev.(Resetter); ok {
		r.Reset()
	}
	m.closed.Store(true)
	return m.closeKicks()
}

func (m *Machine) closeKicks() error {
	var errs []error
	for _, k := range m.kicks {
		errs = append(errs, k.Close())
	}
	return errors.Join(errs...)
}
