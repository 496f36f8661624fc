package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	netHeader = 12     // bytes of struct virtio_net_hdr (5.1.6)
	etherType = 0x88b5 // for experiments (IEEE 802), as in guest.S
	tapMTU    = 65521  // the most that a tap takes: frames of 65535 bytes
)

// tap is a tap interface that lasts as long as its file is open.
type tap struct {
	*os.File
	name  string
	index int
}

// openTap makes a tap interface that is up and says nothing of its own.
func openTap() (_ *tap, err error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	t := &tap{File: os.NewFile(uintptr(fd), path)}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	ifr, err := unix.NewIfreq("iobench%d")
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, fmt.Errorf("make a tap interface: %w", os.NewSyscallError("TUNSETIFF", err))
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, netHeader); err != nil {
		return nil, os.NewSyscallError("TUNSETVNETHDRSZ", err)
	}
	t.name = ifr.Name()
	// Frames of IPv6 that nobody asked for would be measured.
	quiet := filepath.Join("/proc/sys/net/ipv6/conf", t.name, "disable_ipv6")
	if err := os.WriteFile(quiet, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return t, t.up()
}

// mayOpenTap tells why this process cannot make a tap interface, or nil.
func mayOpenTap() error {
	t, err := openTap()
	if err == nil {
		err = t.Close()
	}
	return err
}

// up sets the MTU and switches t on.
func (t *tap) up() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	for _, c := range []struct {
		name    string
		request uint
		set     func(*unix.Ifreq)
	}{
		{"SIOCGIFINDEX", unix.SIOCGIFINDEX, func(*unix.Ifreq) {}},
		{"SIOCSIFMTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) { r.SetUint32(tapMTU) }},
		{"SIOCSIFFLAGS", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP) }},
	} {
		ifr, err := unix.NewIfreq(t.name)
		if err != nil {
			return err
		}
		c.set(ifr)
		if err := unix.IoctlIfreq(s, c.request, ifr); err != nil {
			return fmt.Errorf("interface %s: %w", t.name, os.NewSyscallError(c.name, err))
		}
		if c.request == unix.SIOCGIFINDEX {
			t.index = int(ifr.Uint32())
		}
	}
	return nil
}

// received is how many frames the host got from the other end.
func (t *tap) received() (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/sys/class/net", t.name, "statistics/rx_packets"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// socket is a packet socket on t, by which frames are sent past the queueing
// discipline.
func (t *tap) socket() (int, error) {
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	err = unix.Bind(s, &unix.SockaddrLinklayer{Ifindex: t.index})
	if err == nil {
		err = unix.SetsockoptInt(s, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	}
	if err != nil {
		unix.Close(s)
		return 0, fmt.Errorf("packet socket on %s: %w", t.name, err)
	}
	return s, nil
}

// frame is a frame of size bytes, to 02:00:00:00:00:02, whom nobody is, as the
// guest sends them and expects them.
func frame(size uint64) []byte {
	f := make([]byte, size)
	f[0], f[5], f[6], f[11] = 2, 2, 2, 1
	binary.BigEndian.PutUint16(f[12:], etherType)
	return f
}

// cable is the host's end of the guest's network card: it counts what comes, or
// sends without end.
type cable struct {
	tap    *tap
	work   work
	begin  chan struct{} // closed by start
	ending chan struct{} // closed by end
	done   chan error
}

func newCable(w work) (*cable, error) {
	t, err := openTap()
	if err != nil {
		return nil, err
	}
	c := &cable{tap: t, work: w, begin: make(chan struct{}), ending: make(chan struct{}), done: make(chan error, 1)}
	go func() { c.done <- c.serve() }()
	return c, nil
}

func (c *cable) files() []*os.File { return []*os.File{c.tap.File} }

func (c *cable) start() { close(c.begin) }

// serve sends until the end. A queue that is full is tried again a little later:
// it holds more than is taken from it meanwhile.
func (c *cable) serve() error {
	select {
	case <-c.begin:
	case <-c.ending:
		return nil
	}
	if c.work.Kind != kindNetIn {
		<-c.ending
		return nil
	}
	s, err := c.tap.socket()
	if err != nil {
		return err
	}
	defer unix.Close(s)
	f := frame(c.work.Size)
	for {
		select {
		case <-c.ending:
			return nil
		default:
		}
		for range 64 {
			_, err := unix.Write(s, f)
			if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
				time.Sleep(50 * time.Microsecond)
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("send a frame to %s: %w", c.tap.name, err)
			}
		}
	}
}

// end checks that what the guest sent has come.
func (c *cable) end() error {
	defer c.tap.Close()
	close(c.ending)
	err := <-c.done
	select {
	case <-c.begin:
	default:
		return err // the guest got nowhere, and says so
	}
	if c.work.Kind == kindNetOut {
		n, failed := c.tap.received()
		if want := c.work.Warmup + c.work.Count; failed == nil && n < want {
			failed = fmt.Errorf("%d frames of %d came out of the guest", n, want)
		}
		err = errors.Join(err, failed)
	}
	return err
}
