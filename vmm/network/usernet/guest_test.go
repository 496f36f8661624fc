package usernet

import (
	"bytes"
	"context"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// theInternet is a network in which all addresses of 192.0.2.0/24 (TEST-NET-1) are this host's loopback.
func theInternet(to netip.AddrPort) (netip.AddrPort, bool) {
	if netip.MustParsePrefix("192.0.2.0/24").Contains(to.Addr()) {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port()), true
	}
	return outside(to)
}

// network is a User in whose device a guest is plugged.
func network(t testing.TB, cfg UserConfig) (*User, *stack.Stack) {
	t.Helper()
	u, err := NewUser(cfg)
	if err != nil {
		t.Fatal(err)
	}
	u.reach = theInternet
	guest := plugIn(t, u)
	return u, guest
}

const guestMAC = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01")

// plugIn makes another stack the guest of u.
func plugIn(t testing.TB, u *User) *stack.Stack {
	t.Helper()
	link := channel.New(256, MTU+header.EthernetMinimumSize, guestMAC)
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	check := func(err tcpip.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(s.CreateNIC(nic, ethernet.New(link)))
	at := u.cfg.Addresses
	for _, a := range []struct {
		protocol tcpip.NetworkProtocolNumber
		prefix   netip.Prefix
	}{{ipv4.ProtocolNumber, netip.PrefixFrom(at.Guest4, at.Subnet4.Bits())}, {ipv6.ProtocolNumber, netip.PrefixFrom(at.Guest6, at.Subnet6.Bits())}} {
		if !a.prefix.IsValid() {
			continue // no IPv6
		}
		check(s.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: a.protocol, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(a.prefix.Addr().AsSlice()), PrefixLen: a.prefix.Bits(),
		}}, stack.AddressProperties{}))
	}
	subnet := func(p netip.Prefix) tcpip.Subnet {
		a := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()}
		return a.Subnet()
	}
	routes := []tcpip.Route{
		{Destination: subnet(at.Subnet4), NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFromSlice(at.Gateway4.AsSlice()), NIC: nic},
	}
	if at.has6() {
		routes = append(routes, tcpip.Route{Destination: subnet(at.Subnet6), NIC: nic},
			tcpip.Route{Destination: header.IPv6EmptySubnet, Gateway: tcpip.AddrFromSlice(at.Gateway6.AsSlice()), NIC: nic})
	}
	s.SetRouteTable(routes)

	ctx, cancel := context.WithCancel(context.Background())
	kick := make(chan struct{}, 1)
	done := make(chan struct{}, 2)
	go func() { // from the guest
		defer func() { done <- struct{}{} }()
		for {
			pkt := link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			frame := pkt.ToView().AsSlice()
			// In pieces, as from a guest.
			half := len(frame) / 2
			u.Send(&[headerSize]byte{}, [][]byte{frame[:half], frame[half:]})
			pkt.DecRef()
		}
	}()
	go func() { // to the guest
		defer func() { done <- struct{}{} }()
		var h [headerSize]byte
		b := make([]byte, MTU+header.EthernetMinimumSize)
		for {
			n, err := u.Receive(&h, [][]byte{b[:100], b[100:]})
			if err != nil {
				t.Error(err)
			}
			if n > 0 {
				pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(bytes.Clone(b[:n]))})
				link.InjectInbound(0, pkt)
				pkt.DecRef()
				continue
			}
			select {
			case <-kick:
			case <-ctx.Done():
				return
			}
		}
	}()
	if err := u.Start(0, func() {
		select {
		case kick <- struct{}{}:
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.Stop()
		cancel()
		<-done
		<-done
		u.Close()
		s.Destroy()
		link.Drain()
	})
	return s
}
