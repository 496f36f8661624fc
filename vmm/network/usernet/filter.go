package usernet

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// toStack looks at a frame of the guest and tells whether the stack is to have it. The stack answers for all addresses,
// so what asks who is there, or whether somebody is, must not reach it unless it is about the gateway.
func (u *User) toStack(frame []byte) bool {
	if len(frame) < header.EthernetMinimumSize {
		return false
	}
	packet := frame[header.EthernetMinimumSize:]
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		arp := header.ARP(packet)
		if !arp.IsValid() {
			return false
		}
		target, _ := netip.AddrFromSlice(arp.ProtocolAddressTarget())
		at := &u.cfg.Addresses
		return at.isGateway4(target) || u.segment != nil && at.isPeer(target) // the way to whom is by the gateway
	case header.IPv4ProtocolNumber:
		return u.ipv4ToStack(packet)
	case header.IPv6ProtocolNumber:
		return u.ipv6ToStack(packet)
	}
	return false
}

func (u *User) ipv4ToStack(packet []byte) bool {
	ip := header.IPv4(packet)
	if !ip.IsValid(len(packet)) {
		return false
	}
	src, _ := netip.AddrFromSlice(ip.SourceAddressSlice())
	dst, _ := netip.AddrFromSlice(ip.DestinationAddressSlice())
	payload := ip.Payload()
	switch ip.TransportProtocol() {
	case header.UDPProtocolNumber:
		if udp := header.UDP(payload); len(udp) >= header.UDPMinimumSize && udp.DestinationPort() == portDHCPServer && !ip.More() && ip.FragmentOffset() == 0 {
			u.dhcp(udp.Payload())
			return false
		}
	case header.ICMPv4ProtocolNumber:
		if u.cfg.Addresses.isGateway4(dst) {
			return src == u.cfg.Addresses.Guest4
		}
		if icmp := header.ICMPv4(payload); len(icmp) >= header.ICMPv4MinimumSize && icmp.Type() == header.ICMPv4Echo && !ip.More() && ip.FragmentOffset() == 0 {
			u.ping(dst, payload)
		}
		return false
	case header.TCPProtocolNumber:
	default:
		return false
	}
	// One guest, one address: answers to another would go nowhere, but be kept for a while.
	return src == u.cfg.Addresses.Guest4
}

func (u *User) ipv6ToStack(packet []byte) bool {
	ip := header.IPv6(packet)
	if !ip.IsValid(len(packet)) {
		return false
	}
	src, _ := netip.AddrFromSlice(ip.SourceAddressSlice())
	dst, _ := netip.AddrFromSlice(ip.DestinationAddressSlice())
	payload := ip.Payload()
	switch ip.TransportProtocol() {
	case header.ICMPv6ProtocolNumber:
		icmp := header.ICMPv6(payload)
		if len(icmp) < header.ICMPv6MinimumSize {
			return false
		}
		switch icmp.Type() {
		case header.ICMPv6NeighborSolicit:
			if len(icmp) < header.ICMPv6NeighborSolicitMinimumSize {
				return false
			}
			target, _ := netip.AddrFromSlice(icmp[8:24])
			if u.segment != nil && u.cfg.Addresses.isPeer(target) && u.isGuest6(src) && ip.HopLimit() == ndpHopLimit {
				u.advertiseNeighbor(target)
			}
			return u.isGateway6(target)
		case header.ICMPv6RouterSolicit:
			if u.cfg.Advertise && ip.HopLimit() == ndpHopLimit {
				u.advertise()
			}
		case header.ICMPv6NeighborAdvert:
			return u.isGuest6(src) || u.cfg.Advertise && src.IsLinkLocalUnicast() && src != router6
		case header.ICMPv6EchoRequest:
			return u.isGuest6(src) && u.isGateway6(dst)
		}
		return false
	case header.TCPProtocolNumber, header.UDPProtocolNumber:
		return u.isGuest6(src)
	}
	return false
}
