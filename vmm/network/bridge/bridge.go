// Package bridge makes Linux bridges for networks of virtual machines: each has addresses of its own on the bridge, this host's
// kernel is its gateway, and translates addresses between the network and the world. It takes root.
//
// A bridge has no process. Whoever changes something of it makes all of it as it should be then: Up the interface, Apply the rules
// for those who are on it, as one transaction. Callers see to it that no two do so at once.
//
// Read in this order: bridge.go (the interface), port.go (a guest's tap interface on it), rules.go (what may pass, and where to),
// forwarding.go (what the host is told besides).
//
// A guest can send any frame. What has another link address, or another IP address, than it was given is dropped where it enters
// the bridge, and the bridge learns nothing from what it sees.
package bridge

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge is a network's bridge.
type Bridge struct {
	// ID is the network's: 12 characters of hexadecimal, of which no other network of this host has the first PrefixLength. It is
	// in the names of its rules' tables, and of its guests' taps.
	ID string
	// Name is the interface's.
	Name string
	// Subnet4 and Subnet6 are the network's, Gateway4 and Gateway6 the interface's addresses in them. Those of IPv6 may be zero.
	Subnet4, Subnet6   netip.Prefix
	Gateway4, Gateway6 netip.Addr
	MTU                int // bytes; 0: DefaultMTU

	Internal     bool // its guests reach one another and nothing else
	Apart        bool // its guests do not even reach one another
	NoMasquerade bool // its guests are known to the world by their own addresses
}

// DefaultMTU is that of a bridge, in bytes: Ethernet's.
const DefaultMTU = 1500

// group marks all bridges of this package (ip link's "group"): "hull" in ASCII. Rules tell by it what comes from another network.
const group = 0x68756c6c

// maxName is IFNAMSIZ without the NUL.
const maxName = 15

// CheckName tells whether a bridge can be called that. It is narrower than what Linux takes for a name, so that there is nothing to quote
// in rules.
func CheckName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	if name == "" || len(name) > maxName || strings.Trim(name, letters+".-") != "" || strings.ContainsAny(name[:1], ".-") ||
		name == "all" || name == "default" { // of net.ipv4.conf
		return fmt.Errorf("bridge %q: a name has 1 to 15 letters, digits, '_', '.' and '-'", name)
	}
	return nil
}

// alias says in the interface's own words whose it is.
func (b *Bridge) alias() string { return "hull network " + b.ID }

// ErrForeign says that there is an interface of the name which is not the network's.
var ErrForeign = errors.New("there is an interface of that name already, which hull has not made")

// Up makes the interface if it is not there, with the rules of a network that nobody is on, and gives it its addresses. It may be called as
// often as one likes.
func (b *Bridge) Up() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("bridge %s: %w", b.Name, explain(err))
		}
	}()
	if err := CheckName(b.Name); err != nil {
		return err
	}
	link, err := b.link()
	made := errors.As(err, new(netlink.LinkNotFoundError))
	if made {
		link, err = b.make()
	}
	if err != nil {
		return err
	}
	if err = b.setUp(link); err == nil && made {
		err = b.Apply(nil)
	}
	if err != nil && made {
		_ = netlink.LinkDel(link) // the first error is the one to tell
	}
	return err
}

// link finds the interface.
func (b *Bridge) link() (netlink.Link, error) {
	link, err := netlink.LinkByName(b.Name)
	if err == nil && (link.Type() != "bridge" || link.Attrs().Alias != b.alias()) {
		return nil, ErrForeign
	}
	return link, err
}

func (b *Bridge) make() (netlink.Link, error) {
	mtu := b.MTU
	if mtu == 0 {
		mtu = DefaultMTU
	}
	// No spanning tree: no guest is to have a say in it. Multicast goes to all; IPv6 finds its neighbours by it.
	off := false
	attributes := netlink.LinkAttrs{Name: b.Name, MTU: mtu, Group: group}
	// With an address of its own the bridge does not take that of one of its ports, which come and go.
	id, err := hex.DecodeString(b.ID)
	if err != nil || len(id) < 5 {
		return nil, fmt.Errorf("network %q: not the ID of one", b.ID)
	}
	attributes.HardwareAddr = append(net.HardwareAddr{2}, id[:5]...) // locally administered
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes, MulticastSnooping: &off}); err != nil {
		return nil, fmt.Errorf("making it: %w", err)
	}
	link, err := netlink.LinkByName(b.Name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetAlias(link, b.alias()); err != nil {
		_ = netlink.LinkDel(link)
		return nil, fmt.Errorf("marking it: %w", err)
	}
	return link, nil
}

func (b *Bridge) setUp(link netlink.Link) error {
	for _, a := range []struct {
		gateway netip.Addr
		subnet  netip.Prefix
	}{{b.Gateway4, b.Subnet4}, {b.Gateway6, b.Subnet6}} {
		if !a.subnet.IsValid() {
			continue
		}
		address := &netlink.Addr{IPNet: &net.IPNet{IP: a.gateway.AsSlice(), Mask: net.CIDRMask(a.subnet.Bits(), a.gateway.BitLen())}}
		if a.gateway.Is6() {
			address.Flags = unix.IFA_F_NODAD // nobody else can have it, and waiting takes a second
		}
		if err := netlink.AddrAdd(link, address); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %s: %w", a.gateway, err)
		}
	}
	// It is this host that routes there, and no guest of it.
	if err := writeProc("/proc/sys/net/ipv6/conf/"+b.Name+"/accept_ra", "0"); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting it up: %w", err)
	}
	return nil
}

// Down removes the rules and the interface. What is not there, or not the network's, is left alone.
func (b *Bridge) Down() error {
	err := b.removeRules()
	link, linkErr := b.link()
	switch {
	case linkErr == nil:
		if linkErr = netlink.LinkDel(link); errors.Is(linkErr, unix.ENODEV) {
			linkErr = nil
		}
	case errors.Is(linkErr, ErrForeign), errors.As(linkErr, new(netlink.LinkNotFoundError)):
		linkErr = nil
	}
	if linkErr != nil {
		linkErr = fmt.Errorf("bridge %s: removing it: %w", b.Name, explain(linkErr))
	}
	return errors.Join(err, linkErr)
}

// Any tells whether this host has a bridge of this package's.
func Any() (bool, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return false, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().Group == group && l.Type() == "bridge" {
			return true, nil
		}
	}
	return false, nil
}

// explain says what an error of the kernel's means here.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: it takes root", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: this host's kernel has no bridges: try modprobe bridge", err)
	}
	return err
}

// writeProc writes a setting of the kernel's. A kernel without it has no need of it.
func writeProc(path, value string) error {
	if old, err := os.ReadFile(path); errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}
