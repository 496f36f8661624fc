package guestinit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/guestinit/rootfs"
)

// What a guest needs that was restored from a snapshot and is to be another one.

// adjustClock adds ns to the wall clock.
func adjustClock(ns int64) error {
	const second = int64(time.Second)
	t := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO}
	t.Time.Sec, t.Time.Usec = ns/second, ns%second
	if t.Time.Usec < 0 {
		t.Time.Sec--
		t.Time.Usec += second
	}
	_, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &t)
	return err
}

// reseed feeds the kernel's random generator and has it start from that: what it was before, others know.
func reseed(seed []byte) error {
	if err := addEntropy(seed); err != nil {
		return err
	}
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0); err != nil && err != unix.ENODATA { // ENODATA: it has not given anything out yet
		return fmt.Errorf("RNDRESEEDCRNG: %w", err)
	}
	return nil
}

// readdress gives network cards other addresses.
func readdress(list []proto.Readdress) error {
	for i := range list {
		if err := readdressCard(&list[i]); err != nil {
			return fmt.Errorf("giving network card %s the address %s: %w", list[i].Was, list[i].MAC, err)
		}
	}
	return nil
}

func readdressCard(r *proto.Readdress) error {
	was, err := net.ParseMAC(r.Was)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(r.MAC)
	if err != nil {
		return err
	}
	link, err := linkOf(was)
	if err != nil {
		return err
	}
	// With the card go its routes, its neighbours and the addresses of IPv6, but not those of IPv4.
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("setting it down: %w", err)
	}
	if err := removeAddresses(link); err != nil {
		return err
	}
	if !bytes.Equal(was, mac) {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return err
		}
	}
	return setUpInterface(r.Interface)
}

func removeAddresses(link netlink.Link) error {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing its addresses: %w", err)
	}
	for i := range list {
		if err := netlink.AddrDel(link, &list[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing %s: %w", list[i].IPNet, err)
		}
	}
	return nil
}

// Of sock_diag(7): struct inet_diag_req_v2 is family, protocol, two bytes, a mask of states, and the struct inet_diag_sockid
// with which a struct inet_diag_msg goes on after its first four bytes.
const (
	diagIDLen  = 48
	diagReqLen = 8 + diagIDLen
	diagMsgID  = 4
	// diagStates are those in which a connection can be ended: all but LISTEN, TIME_WAIT and CLOSE (include/net/tcp_states.h).
	diagStates = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
)

// endConnections ends all TCP connections that leave the guest. Whoever waits for something on one gets ECONNABORTED.
func endConnections() error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		ids, err := connections(family)
		if errors.Is(err, unix.ENOENT) && family == unix.AF_INET6 {
			continue // a kernel without
		}
		if err != nil {
			return fmt.Errorf("listing TCP connections: %w", err)
		}
		for _, id := range ids {
			req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
			req.AddRawData(diagRequest(family, id))
			if _, err := req.Execute(unix.NETLINK_INET_DIAG, 0); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("ending a TCP connection: %w", err)
			}
		}
	}
	return nil
}

// connections lists the sockets of TCP connections to the outside.
func connections(family byte) (ids [][]byte, err error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(diagRequest(family, make([]byte, diagIDLen)))
	list, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	for _, m := range list {
		if len(m) < diagMsgID+diagIDLen {
			continue
		}
		if id := m[diagMsgID : diagMsgID+diagIDLen]; !isLoopback(family, id) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

func diagRequest(family byte, id []byte) []byte {
	req := make([]byte, 8, diagReqLen)
	req[0], req[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], diagStates)
	return append(req, id...)
}

// isLoopback tells whether a connection stays in the guest: ports come first, then the two addresses.
func isLoopback(family byte, id []byte) bool {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(id[4:8])).IsLoopback()
	}
	return netip.AddrFrom16([16]byte(id[4:20])).Unmap().IsLoopback()
}

// sizeTimeout bounds the wait for the kernel to learn a disk's new size.
const sizeTimeout = 5 * time.Second

// reread has the kernel forget what it knows of a disk, of whose new size the device tells it.
func reread(dev string, d proto.ChangedDisk) error {
	if !rootfs.ValidDevice(d.Disk) {
		return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("%q is not the name of a disk", d.Disk)}
	}
	f, err := os.Open(filepath.Join(dev, d.Disk))
	if err != nil {
		return err
	}
	defer f.Close()
	deadline := time.Now().Add(sizeTimeout)
	for {
		size, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKGETSIZE64)
		if err != nil {
			return fmt.Errorf("asking for its size: %w", err)
		}
		if int64(size) == d.Size {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it has %d bytes, want %d", size, d.Size)
		}
		time.Sleep(time.Millisecond) // nothing tells of it but an event to udev, which is not here
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("dropping what is cached of it: %w", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); err != nil && err != unix.EINVAL { // EINVAL: a disk that has no partitions
		return fmt.Errorf("reading its partitions: %w", err)
	}
	return nil
}
