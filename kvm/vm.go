package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VM is one virtual machine.
type VM struct {
	fd       int
	mmapSize int
}

func (vm *VM) call(name string, op, arg uintptr) error {
	if _, err := ioctl(vm.fd, op, arg); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func vmPtr[T any](vm *VM, name string, op uintptr, arg *T) error {
	if _, err := ioctlPtr(vm.fd, op, arg); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Close releases the VM once its vCPUs are closed too.
func (vm *VM) Close() error { return unix.Close(vm.fd) }

// SetTSSAddr gives KVM three pages below 4 GiB, not RAM, that Intel CPUs need
// to run real-mode code.
func (vm *VM) SetTSSAddr(gpa uint32) error {
	return vm.call("KVM_SET_TSS_ADDR", KVM_SET_TSS_ADDR, uintptr(gpa))
}

// SetIdentityMapAddr gives KVM one page below 4 GiB, not RAM, for the same
// purpose. Before the first vCPU only.
func (vm *VM) SetIdentityMapAddr(gpa uint64) error {
	return vmPtr(vm, "KVM_SET_IDENTITY_MAP_ADDR", KVM_SET_IDENTITY_MAP_ADDR, &gpa)
}

// CreateIRQChip puts PICs, IOAPIC and one LAPIC for each vCPU into the kernel.
// Before the first vCPU only.
func (vm *VM) CreateIRQChip() error {
	return vm.call("KVM_CREATE_IRQCHIP", KVM_CREATE_IRQCHIP, 0)
}

// CreatePIT2 adds an 8254 timer with a silent speaker port.
func (vm *VM) CreatePIT2() error {
	return vmPtr(vm, "KVM_CREATE_PIT2", KVM_CREATE_PIT2, &pitConfig{flags: pitSpeakerDummy})
}

// SetUserMemoryRegion maps mem, which must be page-aligned, live outside the
// Go heap and outlast the VM, at guest physical address gpa.
func (vm *VM) SetUserMemoryRegion(slot, flags uint32, gpa uint64, mem []byte) error {
	r := userspaceMemoryRegion{slot: slot, flags: flags, guestPhysAddr: gpa, memorySize: uint64(len(mem))}
	if len(mem) > 0 {
		r.userspaceAddr = addressOf(mem)
	}
	if err := vmPtr(vm, "KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION, &r); err != nil {
		return fmt.Errorf("guest memory of %d bytes at %#x: %w", len(mem), gpa, err)
	}
	return nil
}

// IRQFD makes each write to eventfd fd an edge on interrupt line gsi.
func (vm *VM) IRQFD(fd int, gsi uint32) error {
	return vmPtr(vm, "KVM_IRQFD", KVM_IRQFD, &irqfd{fd: uint32(fd), gsi: gsi})
}

// DeassignIRQFD undoes IRQFD.
func (vm *VM) DeassignIRQFD(fd int, gsi uint32) error {
	return vmPtr(vm, "KVM_IRQFD", KVM_IRQFD, &irqfd{fd: uint32(fd), gsi: gsi, flags: irqfdFlagDeassign})
}

// IOEventFD makes a guest's 4-byte write of value to MMIO address gpa count up
// eventfd fd without an exit to user space.
func (vm *VM) IOEventFD(fd int, gpa uint64, value uint32) error {
	return vmPtr(vm, "KVM_IOEVENTFD", KVM_IOEVENTFD,
		&ioeventfd{fd: int32(fd), addr: gpa, len: 4, datamatch: uint64(value), flags: ioeventfdFlagDatamatch})
}

// DeassignIOEventFD undoes IOEventFD.
func (vm *VM) DeassignIOEventFD(fd int, gpa uint64, value uint32) error {
	return vmPtr(vm, "KVM_IOEVENTFD", KVM_IOEVENTFD,
		&ioeventfd{fd: int32(fd), addr: gpa, len: 4, datamatch: uint64(value), flags: ioeventfdFlagDatamatch | ioeventfdFlagDeassign})
}

// IOEventFDPort is IOEventFD for a write of any value and width to an I/O port.
func (vm *VM) IOEventFDPort(fd int, port uint16) error {
	return vmPtr(vm, "KVM_IOEVENTFD", KVM_IOEVENTFD, &ioeventfd{fd: int32(fd), addr: uint64(port), flags: ioeventfdFlagPIO})
}

// IRQLine sets the level of interrupt line gsi.
func (vm *VM) IRQLine(gsi uint32, high bool) error {
	l := irqLevel{irq: gsi}
	if high {
		l.level = 1
	}
	return vmPtr(vm, "KVM_IRQ_LINE", KVM_IRQ_LINE, &l)
}

// SignalMSI delivers a message-signalled interrupt and tells whether a vCPU
// took it.
func (vm *VM) SignalMSI(m MSI) (bool, error) {
	n, err := ioctlPtr(vm.fd, KVM_SIGNAL_MSI, &m)
	if err != nil {
		return false, fmt.Errorf("KVM_SIGNAL_MSI: %w", err)
	}
	return n > 0, nil
}

// EnableCap switches a per-VM extension on.
func (vm *VM) EnableCap(c Cap, args ...uint64) error {
	e := enableCap{cap: uint32(c)}
	copy(e.args[:], args)
	return vmPtr(vm, fmt.Sprintf("KVM_ENABLE_CAP %d", c), KVM_ENABLE_CAP, &e)
}

// Clock reads the guest's paravirtual clock.
func (vm *VM) Clock() (ClockData, error) {
	var c ClockData
	err := vmPtr(vm, "KVM_GET_CLOCK", KVM_GET_CLOCK, &c)
	return c, err
}

// SetClock sets the guest's paravirtual clock.
func (vm *VM) SetClock(c ClockData) error { return vmPtr(vm, "KVM_SET_CLOCK", KVM_SET_CLOCK, &c) }

// IRQChip reads PIC 0, PIC 1 or the IOAPIC (chip 0, 1, 2).
func (vm *VM) IRQChip(chip uint32) (IRQChip, error) {
	c := IRQChip{ChipID: chip}
	err := vmPtr(vm, "KVM_GET_IRQCHIP", KVM_GET_IRQCHIP, &c)
	return c, err
}

// SetIRQChip writes what IRQChip read.
func (vm *VM) SetIRQChip(c IRQChip) error {
	return vmPtr(vm, "KVM_SET_IRQCHIP", KVM_SET_IRQCHIP, &c)
}

// PIT2 reads the 8254's state.
func (vm *VM) PIT2() (PITState2, error) {
	var p PITState2
	err := vmPtr(vm, "KVM_GET_PIT2", KVM_GET_PIT2, &p)
	return p, err
}

// SetPIT2 writes what PIT2 read.
func (vm *VM) SetPIT2(p PITState2) error { return vmPtr(vm, "KVM_SET_PIT2", KVM_SET_PIT2, &p) }

// DirtyLog fills bitmap, one bit for each page of the region, with what was
// written since the last call, and clears the log.
func (vm *VM) DirtyLog(slot uint32, bitmap []uint64) error {
	if len(bitmap) == 0 {
		return fmt.Errorf("KVM_GET_DIRTY_LOG: slot %d: empty bitmap", slot)
	}
	return vmPtr(vm, "KVM_GET_DIRTY_LOG", KVM_GET_DIRTY_LOG, &dirtyLog{slot: slot, bitmap: &bitmap[0]})
}

// ClearDirtyLog clears the log of the pages whose bits are set in bitmap, whose
// first bit stands for page first (a multiple of 64) of the region.
func (vm *VM) ClearDirtyLog(slot uint32, first uint64, pages uint32, bitmap []uint64) error {
	if uint64(len(bitmap))*64 < uint64(pages) || pages == 0 {
		return fmt.Errorf("KVM_CLEAR_DIRTY_LOG: slot %d: a bitmap of %d words for %d pages", slot, len(bitmap), pages)
	}
	return vmPtr(vm, "KVM_CLEAR_DIRTY_LOG", KVM_CLEAR_DIRTY_LOG,
		&clearDirtyLog{slot: slot, firstPage: first, numPages: pages, bitmap: &bitmap[0]})
}

// XSaveSize is how many bytes the state that XSAVE knows takes, for VCPU.XSave.
func (vm *VM) XSaveSize() (int, error) {
	n, err := ioctl(vm.fd, KVM_CHECK_EXTENSION, uintptr(KVM_CAP_XSAVE2))
	if err != nil {
		return 0, fmt.Errorf("KVM_CHECK_EXTENSION %d: %w", KVM_CAP_XSAVE2, err)
	}
	return max(n, xsaveSize), nil
}

// CreateVCPU makes vCPU number id. It is to be called on the thread that will
// run it.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, err := ioctl(vm.fd, KVM_CREATE_VCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VCPU %d: %w", id, err)
	}
	page, err := unix.Mmap(fd, 0, vm.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map run page of vCPU %d: %w", id, err)
	}
	return &VCPU{fd: fd, page: page, run: runPage(page)}, nil
}
