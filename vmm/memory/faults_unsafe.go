package memory

// Unsafe because userfaultfd(2) takes the addresses of memory and of structs.

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux/userfaultfd.h.
const (
	_UFFDIO_API               = 0xc018aa3f // _IOWR(0xaa, 0x3f, struct uffdio_api)
	_UFFDIO_REGISTER          = 0xc020aa00 // _IOWR(0xaa, 0x00, struct uffdio_register)
	_USERFAULTFD_IOC_NEW      = 0xaa00     // _IO(0xaa, 0x00), of /dev/userfaultfd
	_UFFD_API                 = 0xaa
	_UFFD_FEATURE_REMOVE      = 1 << 3 // UFFD_FEATURE_EVENT_REMOVE
	_UFFDIO_REGISTER_MISSING  = 1 << 0 // UFFDIO_REGISTER_MODE_MISSING
	_UFFDIO_COPY_BIT          = 1 << 3 // in uffdio_register.ioctls
	faultMessageSize          = 32     // sizeof(struct uffd_msg)
	faultDrainMilliseconds    = 10
	userfaultfdDevice         = "/dev/userfaultfd"
	userfaultfdFlags          = unix.O_CLOEXEC | unix.O_NONBLOCK
	errUserfaultfdExplanation = "this host lets this process make no userfaultfd that serves KVM: run it as root or with CAP_SYS_PTRACE, " +
		"set vm.unprivileged_userfaultfd=1 (sysctl), or let its user open " + userfaultfdDevice
)

// UFFDIO_UNREGISTER is the one request of a userfaultfd that a machine needs when it runs: _IOR(0xaa, 0x01, struct uffdio_range).
const UFFDIO_UNREGISTER = 0x8010aa01

type uffdioAPI struct{ api, features, ioctls uint64 }

type uffdioRange struct{ start, len uint64 }

type uffdioRegister struct {
	uffdioRange
	mode, ioctls uint64
}

func uffdIoctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	runtime.KeepAlive(arg)
	return nil
}

// openUserfaultfd makes one that serves faults of the kernel as well, by the call or else by the device.
func openUserfaultfd() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, userfaultfdFlags, 0, 0)
	switch errno {
	case 0:
		return int(fd), nil
	case unix.ENOSYS:
		return -1, fmt.Errorf("this kernel has no userfaultfd (CONFIG_USERFAULTFD): %w", errno)
	case unix.EPERM:
	default:
		return -1, fmt.Errorf("userfaultfd: %w", errno)
	}
	dev, err := unix.Open(userfaultfdDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s (userfaultfd: %w; %s: %w)", errUserfaultfdExplanation, errno, userfaultfdDevice, err)
	}
	defer unix.Close(dev)
	fd, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(dev), _USERFAULTFD_IOC_NEW, userfaultfdFlags)
	if errno != 0 {
		return -1, fmt.Errorf("%s: a new userfaultfd: %w", userfaultfdDevice, errno)
	}
	return int(fd), nil
}

// registerFaults makes a userfaultfd for all of b, of which nothing has been touched.
func registerFaults(b []byte) (fd int, err error) {
	// A kernel without MADV_POPULATE_READ would have Go code stand in faults.
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(rangeOf(b).start), 0, unix.MADV_POPULATE_READ); errno != 0 {
		return -1, fmt.Errorf("madvise(MADV_POPULATE_READ): %w: it needs Linux 5.14", errno)
	}
	if fd, err = openUserfaultfd(); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	hello := uffdioAPI{api: _UFFD_API, features: _UFFD_FEATURE_REMOVE}
	if err := uffdIoctl(fd, _UFFDIO_API, unsafe.Pointer(&hello)); err != nil {
		return -1, fmt.Errorf("userfaultfd: UFFDIO_API with UFFD_FEATURE_EVENT_REMOVE: %w", err)
	}
	register := uffdioRegister{uffdioRange: rangeOf(b), mode: _UFFDIO_REGISTER_MISSING}
	if err := uffdIoctl(fd, _UFFDIO_REGISTER, unsafe.Pointer(&register)); err != nil {
		return -1, fmt.Errorf("userfaultfd: UFFDIO_REGISTER of %d bytes: %w", len(b), err)
	}
	if register.ioctls&_UFFDIO_COPY_BIT == 0 {
		return -1, fmt.Errorf("userfaultfd: no UFFDIO_COPY to this memory: %w", unix.ENOTSUP)
	}
	return fd, nil
}

func rangeOf(b []byte) uffdioRange {
	return uffdioRange{uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint64(len(b))}
}

// unregisterFaults has b be ordinary memory, and wakes all that wait for pages of it.
func unregisterFaults(fd int, b []byte) error {
	r := rangeOf(b)
	return uffdIoctl(fd, UFFDIO_UNREGISTER, unsafe.Pointer(&r))
}

// drainFaults reads messages that nobody has read, if there are any soon.
func drainFaults(fd int) {
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, faultDrainMilliseconds); err != nil || n == 0 {
		return
	}
	b := make([]byte, 16*faultMessageSize)
	_, _ = unix.Read(fd, b)
}

// offsetOf is where b, a piece of RAM, lies in the mapping.
func (m *Memory) offsetOf(b []byte) uint64 {
	return rangeOf(b).start - rangeOf(m.mapping).start
}
