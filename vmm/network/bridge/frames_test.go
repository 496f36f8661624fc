package bridge

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hullvm/hull/vmm/network"
)

// card is the guest's end of a tap interface: what it writes, the guest sends.
type card struct {
	t    testing.TB
	fd   int
	mac  tcpip.LinkAddress
	ip4  netip.Addr
	ip6  netip.Addr
	gate tcpip.LinkAddress // the gateway's
}

func openCard(t testing.TB, name string, mac [6]byte) *card {
	t.Helper()
	tap, err := network.OpenTap(name, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	fd := int(tap.Queues[0].Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	return &card{t: t, fd: fd, mac: tcpip.LinkAddress(mac[:])}
}

// guestOn puts a guest on a bridge. Its address ends in n.
func guestOn(t testing.TB, b *Bridge, n byte) (*card, Port) {
	t.Helper()
	a4, a6 := b.Subnet4.Addr().As4(), b.Subnet6.Addr().As16()
	a4[3], a6[15] = n, n
	p := Port{MAC: [6]byte{2, 0, 0, 0, a4[2], n}, IPv4: netip.AddrFrom4(a4), IPv6: netip.AddrFrom16(a6)}
	p.Interface = b.TapName(p.IPv4)
	c := openCard(t, p.Interface, p.MAC)
	if err := b.Attach(&p); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(b.Name)
	if err != nil {
		t.Fatal(err)
	}
	c.ip4, c.ip6, c.gate = p.IPv4, p.IPv6, tcpip.LinkAddress(link.Attrs().HardwareAddr)
	for _, addr := range []netip.Addr{p.IPv4, p.IPv6} { // the test's guests answer no questions
		neighbor := &netlink.Neigh{LinkIndex: link.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: p.MAC[:], State: netlink.NUD_PERMANENT}
		if err := netlink.NeighSet(neighbor); err != nil {
			t.Fatal(err)
		}
	}
	return c, p
}

func (c *card) send(frame []byte) {
	c.t.Helper()
	if _, err := unix.Write(c.fd, append(make([]byte, headerSize), frame...)); err != nil {
		c.t.Fatal(err)
	}
}

// until reads frames until one has the word in it. Those that came before are returned by their words; what nobody of the test has sent is
// left out.
func (c *card) until(last string) (before map[string][]byte, frame []byte) {
	c.t.Helper()
	buf := make([]byte, 4096)
	before = make(map[string][]byte)
	for end := time.Now().Add(patience); ; {
		n, err := unix.Read(c.fd, buf)
		if err == unix.EAGAIN {
			fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, 1000); err != nil && err != unix.EINTR || time.Now().After(end) {
				c.t.Fatalf("no frame with %q came; before it %q: %v", last, slices.Collect(maps.Keys(before)), err)
			}
			continue
		}
		if err != nil || n < headerSize {
			c.t.Fatal(n, err)
		}
		b := bytes.Clone(buf[headerSize:n])
		if i := bytes.Index(b, []byte("word:")); i >= 0 {
			word, _, _ := strings.Cut(string(b[i+5:]), ".")
			if word == last {
				return before, b
			}
			before[word] = b
		}
	}
}

func ethernet(src, dst tcpip.LinkAddress, kind tcpip.NetworkProtocolNumber, payload []byte) []byte {
	b := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(payload))
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: src, DstAddr: dst, Type: kind})
	return append(b, payload...)
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// ip is a packet of either family.
func ip(src, dst netip.Addr, protocol tcpip.TransportProtocolNumber, payload []byte) ([]byte, tcpip.NetworkProtocolNumber) {
	if src.Is4() {
		b := make([]byte, header.IPv4MinimumSize)
		h := header.IPv4(b)
		h.Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + len(payload)), TTL: 64, Protocol: uint8(protocol), SrcAddr: address(src), DstAddr: address(dst)})
		h.SetChecksum(^h.CalculateChecksum())
		return append(b, payload...), header.IPv4ProtocolNumber
	}
	b := make([]byte, header.IPv6MinimumSize)
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)), TransportProtocol: protocol, HopLimit: 255, SrcAddr: address(src), DstAddr: address(dst)})
	return append(b, payload...), header.IPv6ProtocolNumber
}

// datagram is a frame with a word in it.
func datagram(from, to tcpip.LinkAddress, src, dst netip.Addr, sport, dport uint16, word string) []byte {
	payload := []byte("word:" + word + ".")
	b := make([]byte, header.UDPMinimumSize)
	udp := header.UDP(b)
	udp.Encode(&header.UDPFields{SrcPort: sport, DstPort: dport, Length: uint16(len(b) + len(payload))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(src), address(dst), uint16(len(b)+len(payload)))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(payload, sum)))
	packet, kind := ip(src, dst, header.UDPProtocolNumber, append(b, payload...))
	return ethernet(from, to, kind, packet)
}

func arp(from, sender tcpip.LinkAddress, src, dst netip.Addr, word string) []byte {
	b := make([]byte, header.ARPSize)
	h := header.ARP(b)
	h.SetIPv4OverEthernet()
	h.SetOp(header.ARPRequest)
	copy(h.HardwareAddressSender(), sender)
	copy(h.ProtocolAddressSender(), src.AsSlice())
	copy(h.ProtocolAddressTarget(), dst.AsSlice())
	return ethernet(from, header.EthernetBroadcastAddress, header.ARPProtocolNumber, append(b, "word:"+word+"."...))
}

// icmp6 is a message of ICMPv6 whose body begins with the four bytes after the checksum. The word is an option of a kind that nobody knows.
func icmp6(from, to tcpip.LinkAddress, src, dst netip.Addr, kind header.ICMPv6Type, body []byte, word string) []byte {
	b := append([]byte{byte(kind), 0, 0, 0}, body...)
	option := append([]byte{253, 0}, "word:"+word+"."...)
	option = append(option, make([]byte, (8-len(option)%8)%8)...)
	option[1] = byte(len(option) / 8)
	b = append(b, option...)
	header.ICMPv6(b).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: b[:header.ICMPv6HeaderSize], Src: address(src), Dst: address(dst),
		PayloadCsum: checksum.Checksum(b[header.ICMPv6HeaderSize:], 0), PayloadLen: len(b) - header.ICMPv6HeaderSize,
	}))
	packet, kind6 := ip(src, dst, header.ICMPv6ProtocolNumber, b)
	return ethernet(from, to, kind6, packet)
}
