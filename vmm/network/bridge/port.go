package bridge

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Port is a guest on a bridge.
type Port struct {
	Interface string // the name of its tap
	MAC       [6]byte
	IPv4      netip.Addr
	IPv6      netip.Addr // zero: it has none
	// NameUDP and NameTCP are ports at the gateway's address where the guest's queries to port 53 are answered.
	NameUDP, NameTCP uint16
	Publish          []Publish
}

// Publish is a port of this host whose connections, or datagrams, are the guest's.
type Publish struct {
	Host     netip.AddrPort // an unspecified address: all of this host's, of its family
	Port     uint16         // the guest's
	Protocol string         // "tcp" or "udp"
}

// tapPrefix begins the names of the taps of all guests of a network, and of no others: one that the rules do not know is not heard.
func (b *Bridge) tapPrefix() string { return "hv" + b.ID[:PrefixLength] }

// PrefixLength is how much of a network's ID is in the names of its taps.
const PrefixLength = 7

// TapName is the name of the tap interface of the guest that has an address.
func (b *Bridge) TapName(guest netip.Addr) string {
	a, net := guest.As4(), b.Subnet4.Addr().As4()
	host := binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(net[:])
	return fmt.Sprintf("%s%06x", b.tapPrefix(), host&0xffffff) // a subnet has no more: its prefix is 8 bits at least
}

// Attach makes a tap interface a port of the bridge. Rules must be applied before its guest runs.
func (b *Bridge) Attach(p *Port) error {
	if err := b.attach(p); err != nil {
		return fmt.Errorf("bridge %s: tap interface %s: %w", b.Name, p.Interface, explain(err))
	}
	return nil
}

func (b *Bridge) attach(p *Port) error {
	master, err := b.link()
	if err != nil {
		return err
	}
	tap, err := netlink.LinkByName(p.Interface)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(tap, master.Attrs().MTU); err != nil {
		return fmt.Errorf("an MTU of %d: %w", master.Attrs().MTU, err)
	}
	// This host is on the network by the bridge alone.
	if err := writeProc("/proc/sys/net/ipv6/conf/"+p.Interface+"/disable_ipv6", "1"); err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(tap, master); err != nil {
		return fmt.Errorf("attaching it: %w", err)
	}
	// Where its guest is, is known: there is nothing to learn from frames, in which anything may stand, and nothing to ask all
	// others for.
	if err := netlink.LinkSetLearning(tap, false); err != nil {
		return fmt.Errorf("switching off that it learns: %w", err)
	}
	if err := netlink.LinkSetFlood(tap, false); err != nil {
		return fmt.Errorf("switching off that it is flooded: %w", err)
	}
	if b.Apart {
		if err := netlink.LinkSetIsolated(tap, true); err != nil {
			return fmt.Errorf("keeping it apart from others: %w", err)
		}
	}
	entry := &netlink.Neigh{
		LinkIndex: tap.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP,
		HardwareAddr: net.HardwareAddr(p.MAC[:]),
	}
	if err := netlink.NeighSet(entry); err != nil {
		return fmt.Errorf("telling the bridge of %s: %w", entry.HardwareAddr, err)
	}
	return nil
}

// Forget ends the connections of a guest that is gone: whoever has its address next has nothing to do with them.
func Forget(guest ...netip.Addr) error {
	for _, a := range guest {
		family := netlink.InetFamily(unix.AF_INET)
		if a.Is6() {
			family = unix.AF_INET6
		}
		for _, end := range []netlink.ConntrackFilterType{netlink.ConntrackOrigSrcIP, netlink.ConntrackReplySrcIP} {
			var f netlink.ConntrackFilter
			if err := f.AddIP(end, a.AsSlice()); err != nil {
				return err
			}
			if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, &f); err != nil {
				return fmt.Errorf("ending the connections of %s: %w", a, err)
			}
		}
	}
	return nil
}
