package vmm

import (
	"errors"
	"fmt"

	"github.com/hullvm/hull/virtio/net"
	"github.com/hullvm/hull/vmm/network"
)

// Backend is the host's end of a queue pair of a network card.
type Backend = net.Backend

// WithNetwork has f put something between a network card, counted from 0, and its host ends, which it is given. What f
// makes must be gone, or not care, when the machine closes them.
func WithNetwork(f func(nic int, backends []Backend) ([]Backend, error)) Option {
	return func(m *Machine) error { m.wrapNIC = f; return nil }
}

// Tap is a tap interface that this process has open, for NIC.Tap.
type Tap struct{ *network.TapFiles }

// OpenTap opens the tap interface of that name, with up to as many queues as are asked for. It may be used by its owner, and
// by root. If there is none, root gets a new one, set up, which goes when the last of its files is closed.
func OpenTap(name string, queues int) (*Tap, error) {
	files, err := network.OpenTap(name, queues)
	if err != nil {
		return nil, err
	}
	return &Tap{files}, nil
}

// ErrNoKeyboard is returned by SendCtrlAltDel of a machine without a keyboard, and ErrKeyboardBusy when the guest has not
// read what was typed before.
var (
	ErrNoKeyboard   = errors.New("the machine has no keyboard")
	ErrKeyboardBusy = errors.New("the guest does not read its keyboard")
)

// SendCtrlAltDel presses these three keys on the guest's keyboard; what comes of it is up to the guest.
func (m *Machine) SendCtrlAltDel() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.keyboard == nil:
		return fmt.Errorf("send Ctrl-Alt-Del: %w", ErrNoKeyboard)
	case m.state != stateRunning && m.state != statePaused:
		return fmt.Errorf("send Ctrl-Alt-Del: %w", ErrState)
	case !m.keyboard.CtrlAltDel():
		return fmt.Errorf("send Ctrl-Alt-Del: %w", ErrKeyboardBusy)
	}
	return nil
}
