package usernet

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	portDHCPServer = 67
	portDHCPClient = 68

	leaseTime = 24 * time.Hour
)

// broadcast is where a client without an address hears.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// dhcp answers a client's message (RFC 2131). There is one guest and one address, so there is nothing to remember.
func (u *User) dhcp(message []byte) {
	request, err := dhcpv4.FromBytes(message)
	if err != nil || request.OpCode != dhcpv4.OpcodeBootRequest {
		return
	}
	at := &u.cfg.Addresses
	var kind dhcpv4.MessageType
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
		wanted := request.RequestedIPAddress()
		if wanted == nil {
			wanted = request.ClientIPAddr
		}
		if server := request.ServerIdentifier(); server != nil && !server.Equal(at.Gateway4.AsSlice()) {
			return // meant for another server
		}
		if !wanted.Equal(at.Guest4.AsSlice()) {
			kind = dhcpv4.MessageTypeNak
		}
	case dhcpv4.MessageTypeInform:
		kind = dhcpv4.MessageTypeAck
	default:
		return
	}
	gateway, dns := net.IP(at.Gateway4.AsSlice()), net.IP(at.DNS4.AsSlice())
	options := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(gateway),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway)),
	}
	if kind != dhcpv4.MessageTypeNak {
		options = append(options,
			dhcpv4.WithYourIP(at.Guest4.AsSlice()),
			dhcpv4.WithNetmask(net.CIDRMask(at.Subnet4.Bits(), 32)),
			dhcpv4.WithRouter(gateway),
			dhcpv4.WithDNS(dns),
			dhcpv4.WithLeaseTime(uint32(leaseTime/time.Second)),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{MTU >> 8, MTU & 0xff})),
		)
		if u.cfg.Hostname != "" {
			options = append(options, dhcpv4.WithOption(dhcpv4.OptHostName(u.cfg.Hostname)))
		}
	}
	reply, err := dhcpv4.NewReplyFromRequest(request, options...)
	if err != nil {
		return
	}
	payload := reply.ToBytes()
	datagram := make([]byte, header.UDPMinimumSize+len(payload))
	udp := header.UDP(datagram)
	// A checksum of 0 is none, which IPv4 allows.
	udp.Encode(&header.UDPFields{SrcPort: portDHCPServer, DstPort: portDHCPClient, Length: uint16(len(datagram))})
	copy(udp.Payload(), payload)
	// Broadcast: the client has no address yet that it could be asked for.
	u.toGuest(frame4(at.Gateway4, broadcast, header.UDPProtocolNumber, datagram))
}
