package kvm

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// DevicePath is where the kernel puts the device.
const DevicePath = "/dev/kvm"

// System is an open /dev/kvm.
type System struct {
	fd       int
	mmapSize int
}

// Open opens /dev/kvm and checks its version. Errors say how to mend what is
// missing and match fs.ErrNotExist or fs.ErrPermission.
func Open() (*System, error) {
	fd, err := unix.Open(DevicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(err)
	}
	return newSystem(fd)
}

// FromFD takes over an open descriptor of /dev/kvm, for a process that may not
// open it by itself.
func FromFD(fd int) (*System, error) { return newSystem(fd) }

func openError(err error) error {
	e := &fs.PathError{Op: "open", Path: DevicePath, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: this host offers no KVM; load kvm_intel or kvm_amd, and switch virtualization on in the firmware (or nested virtualization in the VM's settings)", e)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: add yourself to the group that owns it (usually \"usermod -aG kvm $USER\", then log in anew)", e)
	}
	return e
}

func newSystem(fd int) (*System, error) {
	s := &System{fd: fd}
	v, err := ioctl(fd, KVM_GET_API_VERSION, 0)
	if err != nil || v != KVM_API_VERSION {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: KVM_GET_API_VERSION: got %d, want %d: %w", DevicePath, v, KVM_API_VERSION, errors.Join(err, errors.ErrUnsupported))
	}
	if s.mmapSize, err = ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: KVM_GET_VCPU_MMAP_SIZE: %w", DevicePath, err)
	}
	return s, nil
}

// Close closes /dev/kvm. VMs made from it live on.
func (s *System) Close() error { return unix.Close(s.fd) }

// CheckExtension returns 0 when KVM lacks c, else a positive number whose
// meaning depends on c.
func (s *System) CheckExtension(c Cap) (int, error) {
	n, err := ioctl(s.fd, KVM_CHECK_EXTENSION, uintptr(c))
	if err != nil {
		return 0, fmt.Errorf("KVM_CHECK_EXTENSION %d: %w", c, err)
	}
	return n, nil
}

// SupportedCPUID returns the CPUID leaves that host and KVM can give a guest.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	c := &cpuid2{nent: maxCPUIDEntries}
	if _, err := ioctlPtr(s.fd, KVM_GET_SUPPORTED_CPUID, c); err != nil {
		return nil, fmt.Errorf("KVM_GET_SUPPORTED_CPUID: %w", err)
	}
	return c.entries[:min(c.nent, maxCPUIDEntries)], nil
}

// MSRIndexList returns the model-specific registers that make up a guest's
// state.
func (s *System) MSRIndexList() ([]uint32, error) {
	l := new(msrList)
	l.nmsrs = uint32(len(l.indices))
	if _, err := ioctlPtr(s.fd, KVM_GET_MSR_INDEX_LIST, l); err != nil {
		return nil, fmt.Errorf("KVM_GET_MSR_INDEX_LIST: %w", err)
	}
	return l.indices[:min(int(l.nmsrs), len(l.indices))], nil
}

// CreateVM makes a VM without memory, vCPUs or interrupt controllers.
func (s *System) CreateVM() (*VM, error) {
	for {
		fd, err := ioctl(s.fd, KVM_CREATE_VM, 0)
		if err == unix.EINTR {
			continue // a signal arrived while the kernel was allocating; nothing was made
		}
		if err != nil {
			return nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
		}
		return &VM{fd: fd, mmapSize: s.mmapSize}, nil
	}
}
