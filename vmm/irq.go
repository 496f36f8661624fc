package vmm

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
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

// pin is an interrupt line of the guest that is raised by a system call of the
// thread that wants it raised. An eventfd's edge on an I/O APIC pin is carried
// there by a kernel thread, which a guest may outrun: the serial port's last
// words before a power-off would be lost.
type pin struct {
	vm  *kvm.VM
	gsi uint32

	// mu makes one edge of the two levels. A guest may answer the first of them
	// on another thread before the second, and that answer raise the line again:
	// high while it is still high is no edge.
	mu sync.Mutex
}

func newPin(vm *kvm.VM, gsi uint32) *pin { return &pin{vm: vm, gsi: gsi} }

// Trigger implements devices.IRQ. It cannot fail while the VM is open.
func (p *pin) Trigger() {
	p.mu.Lock()
	_ = p.vm.IRQLine(p.gsi, true)
	_ = p.vm.IRQLine(p.gsi, false)
	p.mu.Unlock()
}

func (l *irqLine) Close() error { return unix.Close(l.fd) }
