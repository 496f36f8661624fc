package guestinit

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// setUpNetwork gives network cards their addresses and routes, and sets them up.
func setUpNetwork(interfaces []proto.Interface) error {
	for _, i := range interfaces {
		if err := setUpInterface(i); err != nil {
			return fmt.Errorf("setting up network card %s: %w", i.MAC, err)
		}
	}
	return nil
}

func setUpInterface(i proto.Interface) error {
	mac, err := net.ParseMAC(i.MAC)
	if err != nil {
		return err
	}
	link, err := linkOf(mac)
	if err != nil {
		return err
	}
	if i.MTU != 0 && i.MTU != link.Attrs().MTU {
		if err := netlink.LinkSetMTU(link, i.MTU); err != nil {
			return fmt.Errorf("an MTU of %d: %w", i.MTU, err)
		}
	}
	queuesByFlow(filepath.Join("/sys/class/net", link.Attrs().Name))
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting it up: %w", err)
	}
	without6 := func(err error, is6 bool) bool {
		return is6 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES)) // a kernel without IPv6, or told to be
	}
	for _, a := range i.Addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // nobody else is on this link, and waiting takes a second
		}
		if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) && !without6(err, a.Addr().Is6()) {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	for _, g := range i.Gateways {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.AsSlice()}
		if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) && !without6(err, g.Is6()) {
			return fmt.Errorf("default route by %s: %w", g, err)
		}
	}
	return nil
}

// queuesByFlow has the kernel choose by flow, and not by CPU, which queue of the card at dir it sends from. A virtio-mmio card has one
// interrupt for all queues: what is received is acknowledged by the CPU that takes it, and by the one that the receiver
// runs on, in turn. The host's tap interface moves a flow to the queue that it was last sent from, so frames overtook one another,
// and TCP took them for lost. A kernel that cannot is only slower.
func queuesByFlow(dir string) {
	maps, _ := filepath.Glob(filepath.Join(dir, "queues/tx-*/xps_cpus")) // the pattern is a good one
	if len(maps) < 2 {
		return
	}
	for _, path := range maps {
		_ = os.WriteFile(path, []byte("0"), 0)
	}
}

func linkOf(mac net.HardwareAddr) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing network cards: %w", err)
	}
	for _, l := range links {
		if bytes.Equal(l.Attrs().HardwareAddr, mac) {
			return l, nil
		}
	}
	return nil, errors.New("the guest's kernel does not show it: it has no driver for virtio-net, perhaps")
}
