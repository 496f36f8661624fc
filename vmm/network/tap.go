package network

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Feature bits of virtio-net (5.1.3) that Offloads may have. Each is one of what a tap's kernel calls TUN_F_…, or goes
// without saying.
const (
	featureCSum      = 1 << 0  // VIRTIO_NET_F_CSUM
	featureGuestCSum = 1 << 1  // VIRTIO_NET_F_GUEST_CSUM
	featureGuestTSO4 = 1 << 7  // VIRTIO_NET_F_GUEST_TSO4
	featureGuestTSO6 = 1 << 8  // VIRTIO_NET_F_GUEST_TSO6
	featureGuestECN  = 1 << 9  // VIRTIO_NET_F_GUEST_ECN
	featureHostTSO4  = 1 << 11 // VIRTIO_NET_F_HOST_TSO4
	featureHostTSO6  = 1 << 12 // VIRTIO_NET_F_HOST_TSO6
	featureHostECN   = 1 << 13 // VIRTIO_NET_F_HOST_ECN
	featureGuestUSO4 = 1 << 54 // VIRTIO_NET_F_GUEST_USO4 (VIRTIO 1.3)
	featureGuestUSO6 = 1 << 55 // VIRTIO_NET_F_GUEST_USO6
	featureHostUSO   = 1 << 56 // VIRTIO_NET_F_HOST_USO

	tapOffloads = featureCSum | featureGuestCSum | featureGuestTSO4 | featureGuestTSO6 | featureGuestECN |
		featureHostTSO4 | featureHostTSO6 | featureHostECN
	tapUSO = featureGuestUSO4 | featureGuestUSO6 | featureHostUSO
)

// Tap is one queue of a tap interface. The kernel at its other end takes frames whose checksums are not there and TCP
// segments longer than the MTU, and gives such as the guest has agreed to.
type Tap struct {
	f        *os.File
	fd       int
	first    bool // the queue by which the interface is told what the guest takes
	attached bool
	features uint64 // that can be offered
	offload  int    // what the interface was told last, by the first queue
	out      outbox
	in       inbox
	read     func(*vector) (int, unix.Errno)
}

// NewTap takes over files, the queues of one tap interface as OpenTap opens them, and returns a backend for each. On an
// error they stay the caller's. The error is about what the files are.
func NewTap(files ...*os.File) ([]*Tap, error) {
	taps := make([]*Tap, len(files))
	features := uint64(tapOffloads)
	for i, f := range files {
		// Fd makes the file block, and so does whoever passes it on to a process.
		fd := int(f.Fd())
		ifr, err := unix.NewIfreq("")
		if err == nil {
			err = ifreq(fd, unix.TUNGETIFF, ifr)
		}
		if err == nil && ifr.Uint16()&(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR) != unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR {
			err = errors.New("it is not a tap interface with headers")
		}
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		if err == nil && i == 0 {
			features, err = setUpTap(fd)
		}
		if err != nil {
			return nil, fmt.Errorf("tap interface %s: %w", f.Name(), err)
		}
		taps[i] = &Tap{f: f, fd: fd, first: i == 0, attached: true, features: features}
		taps[i].read = func(v *vector) (int, unix.Errno) { return v.readv(fd) }
	}
	return taps, nil
}

// setUpTap tells the interface how long headers are, and finds out which features it can live with.
func setUpTap(fd int) (features uint64, err error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerSize); err != nil {
		return 0, os.NewSyscallError("TUNSETVNETHDRSZ", err)
	}
	features = tapOffloads
	// Segments of UDP came with Linux 6.2, and only trying tells.
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil {
		features |= tapUSO
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return 0, os.NewSyscallError("TUNSETOFFLOAD", err)
	}
	return features, nil
}

// ifreq is unix.IoctlIfreq with an error that says what failed.
func ifreq(fd int, request uint, ifr *unix.Ifreq) error {
	names := map[uint]string{unix.TUNGETIFF: "TUNGETIFF", unix.TUNSETIFF: "TUNSETIFF", unix.TUNSETQUEUE: "TUNSETQUEUE"}
	return os.NewSyscallError(names[request], unix.IoctlIfreq(fd, request, ifr))
}

// Close closes the queue. The device must be inactive.
func (t *Tap) Close() error { return t.f.Close() }

// Offloads implements virtio-net's Backend.
func (t *Tap) Offloads() uint64 { return t.features }

// Start implements virtio-net's Backend. A guest that has not agreed to a feature gets frames that are whole: the kernel
// computes checksums, and cuts segments.
func (t *Tap) Start(features uint64) error {
	if t.first {
		flags := 0
		for _, f := range []struct {
			feature uint64
			flag    int
		}{
			{featureGuestCSum, unix.TUN_F_CSUM}, {featureGuestTSO4, unix.TUN_F_TSO4}, {featureGuestTSO6, unix.TUN_F_TSO6},
			{featureGuestECN, unix.TUN_F_TSO_ECN},
		} {
			if features&f.feature != 0 {
				flags |= f.flag
			}
		}
		// The kernel knows segments of UDP for both or for none.
		if uso := uint64(featureGuestUSO4 | featureGuestUSO6); features&uso == uso {
			flags |= unix.TUN_F_USO4 | unix.TUN_F_USO6
		}
		if flags != t.offload {
			// An interface that is gone takes anything, as Send does.
			if err := unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, flags); err != nil && !errors.Is(err, unix.EBADFD) {
				return fmt.Errorf("tap interface %s: %w", t.f.Name(), os.NewSyscallError("TUNSETOFFLOAD", err))
			}
			t.offload = flags
		}
	}
	return nil
}

// FD implements virtio-net's Backend. While nobody looks, the kernel keeps what comes, as far as its queue is long.
func (t *Tap) FD() int { return t.fd }

// Attach implements virtio-net's Switched: the kernel spreads frames over the queues that are attached. What is in one
// that is detached is lost.
func (t *Tap) Attach(on bool) error {
	if on == t.attached {
		return nil
	}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_DETACH_QUEUE)
	if on {
		ifr.SetUint16(unix.IFF_ATTACH_QUEUE)
	}
	if err := ifreq(t.fd, unix.TUNSETQUEUE, ifr); err != nil {
		return fmt.Errorf("tap interface %s: %w", t.f.Name(), err)
	}
	t.attached = on
	if on {
		t.in.drop() // it came before the queue was detached
	}
	return nil
}

// Send implements virtio-net's Backend. What the kernel does not take, because the interface is down or the frame no
// good, is dropped.
func (t *Tap) Send(header *[headerSize]byte, frame [][]byte) {
	t.out.fill(header, frame)
	_, _ = t.out.v.writev(t.fd)
	t.out.v.reset()
}

// Receive implements virtio-net's Backend.
func (t *Tap) Receive(header *[headerSize]byte, frame [][]byte) (int, error) {
	n, errno := t.in.receive(header, frame, t.read)
	switch errno {
	case 0:
		return n, nil
	case unix.EAGAIN:
		return 0, nil
	case unix.EBADFD:
		return 0, io.EOF // the interface is gone
	}
	return 0, fmt.Errorf("tap interface %s: receiving: %w", t.f.Name(), errno)
}

// Drop implements virtio-net's Backend.
func (t *Tap) Drop() {
	if t.in.drop() {
		return
	}
	var b [headerSize]byte
	_, _ = unix.Read(t.fd, b[:]) // the rest of the frame goes with it; what is wrong, the next Receive says
}
