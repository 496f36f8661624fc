package vmm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// irqLine is an interrupt line of the guest: an eventfd that KVM turns into an
// edge on a pin of the I/O APIC.
type irqLine struct {
	fd int
}

func newIRQLine(connect func(fd int) error) (*irqLine, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd for an interrupt line: %w", err)
	}
	if err := connect(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &irqLine{fd: fd}, nil
}

var edge = [8]byte{1} // the number 1, as an eventfd counts

// Trigger implements devices.IRQ. The only error there can be is EAGAIN, of a
// counter that is full of edges KVM has not taken yet: one more is then lost
// among them, as on a wire.
func (l *irqLine) Trigger() { _, _ = unix.Write(l.fd, edge[:]) }

func (l *irqLine) Close() error { return unix.Close(l.fd) }
