package usernet

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Router advertisements (RFC 4861, 4.2) give a guest that sets itself up an address and a default route of IPv6.

// router6 is the gateway's link-local address, which they come from.
var router6 = netip.MustParseAddr("fe80::2")

// allNodes is whom they go to.
var allNodes = netip.MustParseAddr("ff02::1")

const (
	// RFC 4861, 6.2.1: the defaults of MaxRtrAdvInterval, AdvDefaultLifetime, AdvValidLifetime and AdvPreferredLifetime.
	advertiseEvery    = 600 * time.Second
	routerLifetime    = 3 * advertiseEvery
	validLifetime     = 30 * 24 * time.Hour
	preferredLifetime = 7 * 24 * time.Hour

	ndpHopLimit = 255 // what comes from further away is not believed (RFC 4861, 6.1)

	// Flags of a prefix information option (RFC 4861, 4.6.2).
	prefixOnLink     = 0x80
	prefixAutonomous = 0x40

	optionMTU = 5 // RFC 4861, 4.6.4
)

// advertiseRouter sends advertisements until the network is closed.
func (u *User) advertiseRouter() {
	tick := time.NewTicker(advertiseEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			u.advertise()
		case <-u.ctx.Done():
			return
		}
	}
}

// advertise sends one.
func (u *User) advertise() {
	seconds := func(d time.Duration) uint32 { return uint32(d / time.Second) }
	b := make([]byte, header.ICMPv6HeaderSize+header.NDPRAMinimumSize)
	icmp := header.ICMPv6(b)
	icmp.SetType(header.ICMPv6RouterAdvert)
	b[4] = 64 // hop limit of what the guest sends
	binary.BigEndian.PutUint16(b[6:], uint16(routerLifetime/time.Second))

	prefix := make(header.NDPPrefixInformation, 30) // without type and length
	at := &u.cfg.Addresses
	prefix[0] = byte(at.Subnet6.Bits())
	prefix[1] = prefixOnLink | prefixAutonomous
	binary.BigEndian.PutUint32(prefix[2:], seconds(validLifetime))
	binary.BigEndian.PutUint32(prefix[6:], seconds(preferredLifetime))
	copy(prefix[14:], at.Subnet6.Addr().AsSlice())
	dns := make(header.NDPRecursiveDNSServer, 6+16)
	binary.BigEndian.PutUint32(dns[2:], seconds(routerLifetime))
	copy(dns[6:], at.DNS6.AsSlice())
	options := header.NDPOptionsSerializer{header.NDPSourceLinkLayerAddressOption(gatewayMAC), prefix, dns}
	end := len(b)
	b = append(b, make([]byte, options.Length())...)
	header.NDPOptions(b[end:]).Serialize(options)
	b = append(b, optionMTU, 1, 0, 0)
	b = binary.BigEndian.AppendUint32(b, MTU)

	u.toGuest(frame6(router6, allNodes, ndpHopLimit, header.EthernetAddressFromMulticastIPv6Address(tcpip.AddrFrom16(allNodes.As16())), b))
}

// frame6 is an Ethernet frame with an ICMPv6 message, whose checksum it fills in.
func frame6(src, dst netip.Addr, hopLimit uint8, to tcpip.LinkAddress, icmp header.ICMPv6) []byte {
	from, target := tcpip.AddrFrom16(src.As16()), tcpip.AddrFrom16(dst.As16())
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp[:header.ICMPv6HeaderSize], Src: from, Dst: target,
		PayloadCsum: checksum.Checksum(icmp[header.ICMPv6HeaderSize:], 0), PayloadLen: len(icmp) - header.ICMPv6HeaderSize,
	}))
	frame := make([]byte, header.EthernetMinimumSize+header.IPv6MinimumSize+len(icmp))
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: gatewayMAC, DstAddr: to, Type: header.IPv6ProtocolNumber})
	ip := header.IPv6(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(icmp)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: hopLimit,
		SrcAddr: from, DstAddr: target,
	})
	copy(ip.Payload(), icmp)
	return frame
}

// isGuest6 tells whether an address may be the guest's: one, or with advertisements any that it has given itself.
func (u *User) isGuest6(a netip.Addr) bool {
	at := &u.cfg.Addresses
	return at.has6() && (a == at.Guest6 || u.cfg.Advertise && at.Subnet6.Contains(a) && a != at.Gateway6 && a != at.DNS6)
}

// isGateway6 tells whether an address is the gateway's own.
func (u *User) isGateway6(a netip.Addr) bool {
	at := &u.cfg.Addresses
	return at.has6() && (a == at.Gateway6 || a == at.DNS6 || u.cfg.Advertise && a == router6)
}
