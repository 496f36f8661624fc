// Package usernet is a network without privileges: a TCP/IP stack in this process (gVisor's netstack) is the guest's
// gateway, and each of the guest's connections becomes a socket of this process.
//
// It does not belong into the VM process, which stays lean and without a network of its own: frames come over a
// socket (serve.go) that the VM process has the other end of (vmm/network).
//
// Read in this order: user.go (the stack), sockets.go (what it has open on this host), link.go (frames in and out), filter.go (which frames), policy.go (what the guest
// may reach), tcp.go, udp.go, ping.go, dhcp.go, router.go (what the gateway does), publish.go (the other direction). A guest
// may have others on its network: segment.go (the way to them), dns.go (their names). A guest that is on a bridge of this host
// needs no stack, but some of the rest: service.go.
//
// A guest's frames are hostile: what is looked at here is a copy, parsed with checked lengths, and everything that a
// guest can make this process keep (connections, flows, frames in a queue) is counted and bounded.
package usernet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"

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

// The addresses of a user-mode network with one guest: QEMU's, which people know.
var (
	Subnet4  = netip.MustParsePrefix("10.0.2.0/24")
	Gateway4 = netip.MustParseAddr("10.0.2.2")
	DNS4     = netip.MustParseAddr("10.0.2.3")
	Guest4   = netip.MustParseAddr("10.0.2.15")

	Subnet6  = netip.MustParsePrefix("fd00:10:0:2::/64")
	Gateway6 = netip.MustParseAddr("fd00:10:0:2::2")
	DNS6     = netip.MustParseAddr("fd00:10:0:2::3")
	Guest6   = netip.MustParseAddr("fd00:10:0:2::15")
)

// gatewayMAC is the gateway's link address, locally administered.
const gatewayMAC = tcpip.LinkAddress("\x52\x55\x0a\x00\x02\x02")

// MTU of the user-mode network, in bytes. There is no wire, and a large one costs fewest packets per byte.
const MTU = 65520

const nic = 1

// Bounds on what one guest can have this process keep.
const (
	maxQueued      = 256 // frames on their way to the guest
	maxConnections = 4096
	maxConnecting  = 256
	maxFlows       = 1024 // UDP
	maxPings       = 64

	// What one connection may have waiting, in each direction, in bytes: a guest that stalls all of its connections
	// makes this process keep 2 GiB.
	defaultBuffer = 128 << 10
	maxBuffer     = 256 << 10
)

// UserConfig is what makes a User.
type UserConfig struct {
	// Addresses are those of the network; zero: DefaultAddresses.
	Addresses Addresses
	// Internal: nothing outside of the network is reached.
	Internal bool
	// Refuse tells which addresses are out of reach besides those that always are. It may be nil.
	Refuse func(netip.Addr) bool
	// Segment is a directory, private to this user, in which all members of the network have their sockets; "" for a
	// guest that is alone.
	Segment string
	// MAC is the guest's link address, until it uses another one. It is needed with Segment.
	MAC [6]byte
	// Names are those that the name server knows by itself; nil for none.
	Names Names

	// DNS are the servers that the guest's other queries to the name server go to, in order of preference.
	DNS []netip.AddrPort
	// Publish are ports of this host that lead to the guest.
	Publish []Publish
	// Hostname is what the guest is told by DHCP; "" for nothing.
	Hostname string
	// Advertise sends router advertisements, for a guest that is to set itself up. Without them its IPv6 address is
	// Guest6 and no other.
	Advertise bool
	// Failed is told why something has ended for good while the network goes on, such as a published port. It may be nil.
	Failed func(error)
}

// Publish is a socket of this host whose connections, or datagrams, go to a port of the guest.
type Publish struct {
	// Socket is a listening TCP socket, or a bound UDP socket. User takes it over.
	Socket *os.File
	// Port of the guest.
	Port uint16
}

// User is a user-mode network. It fits virtio-net's Backend, and Serve carries that over a socket.
type User struct {
	sockets
	cfg   UserConfig
	stack *stack.Stack
	link  *channel.Endpoint

	// reach is outside, but in tests.
	reach func(netip.AddrPort) (netip.AddrPort, bool)

	keepAlive keepAlive
	pings     pings
	segment   *segment // nil for a guest that is alone
	guestMAC  atomic.Uint64

	// Guarded by mu of sockets:
	ready func()
	next  *stack.PacketBuffer // the frame that Receive looked at last
}

// ErrConfig is wrapped by the error of a UserConfig that cannot be.
var ErrConfig = errors.New("not a user-mode network")

// NewUser makes a network. Frames flow when its device is activated; published ports accept at once.
func NewUser(cfg UserConfig) (*User, error) {
	if cfg.Addresses == (Addresses{}) {
		cfg.Addresses = DefaultAddresses()
	}
	if err := cfg.Addresses.check(); err != nil {
		closePublished(cfg.Publish)
		return nil, err
	}
	u := &User{
		cfg:       cfg,
		link:      channel.New(maxQueued, MTU+header.EthernetMinimumSize, gatewayMAC),
		reach:     outside,
		keepAlive: defaultKeepAlive,
	}
	u.sockets.init(u)
	u.names, u.internal = cfg.Names, cfg.Internal
	if cfg.Failed != nil {
		u.report = func(err error) { cfg.Failed(fmt.Errorf("user-mode network: %w", err)) }
	}
	u.resolvers.servers = cfg.DNS
	u.pings.init()
	u.learn(cfg.MAC[:])
	// The guest leaves checksums to its device, and nothing between it and here can damage a frame.
	u.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	u.link.AddNotify(u)
	u.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	err := u.setUp()
	if err == nil && cfg.Segment != "" {
		err = u.joinSegment(cfg.Segment)
	}
	if err != nil {
		closePublished(cfg.Publish)
		u.Close()
		return nil, err
	}
	if cfg.Advertise {
		u.run(u.advertiseRouter)
	}
	for i, p := range cfg.Publish {
		if err := u.publish(p); err != nil {
			closePublished(cfg.Publish[i:])
			u.Close()
			return nil, err
		}
	}
	return u, nil
}

// closePublished closes sockets that nobody will serve.
func closePublished(list []Publish) {
	for _, p := range list {
		p.Socket.Close()
	}
}

func (u *User) setUp() error {
	bad := func(what string, err tcpip.Error) error {
		return fmt.Errorf("user-mode network: %s: %s", what, err)
	}
	if err := u.stack.CreateNIC(nic, ethernet.New(u.link)); err != nil {
		return bad("making its interface", err)
	}
	at := &u.cfg.Addresses
	addresses := []struct {
		protocol tcpip.NetworkProtocolNumber
		address  netip.Addr
		bits     int
	}{
		{ipv4.ProtocolNumber, at.Gateway4, at.Subnet4.Bits()}, {ipv4.ProtocolNumber, at.DNS4, at.Subnet4.Bits()},
		{ipv6.ProtocolNumber, at.Gateway6, at.Subnet6.Bits()}, {ipv6.ProtocolNumber, at.DNS6, at.Subnet6.Bits()},
		{ipv6.ProtocolNumber, router6, 64},
	}
	if !u.cfg.Advertise {
		addresses = addresses[:len(addresses)-1]
	}
	given := make(map[netip.Addr]bool)
	for _, a := range addresses {
		if given[a.address] || a.protocol == ipv6.ProtocolNumber && !at.has6() {
			continue
		}
		given[a.address] = true
		address := tcpip.ProtocolAddress{
			Protocol:          a.protocol,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(a.address.AsSlice()), PrefixLen: a.bits},
		}
		if err := u.stack.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
			return bad("giving it "+a.address.String(), err)
		}
	}
	u.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	// It answers for every address of the outside.
	if err := u.stack.SetPromiscuousMode(nic, true); err != nil {
		return bad("answering for all addresses", err)
	}
	if err := u.stack.SetSpoofing(nic, true); err != nil {
		return bad("answering for all addresses", err)
	}
	sack := tcpip.TCPSACKEnabled(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: defaultBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: defaultBuffer, Max: maxBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &receive, &send} {
		if err := u.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return bad("TCP options", err)
		}
	}
	u.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(u.stack, defaultBuffer, maxConnecting, u.acceptTCP).HandlePacket)
	u.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(u.stack, u.acceptUDP).HandlePacket)
	return nil
}

// Close ends all connections, and returns when nothing of the network is left.
func (u *User) Close() error {
	if !u.closeAll() {
		return nil
	}
	u.stack.Destroy()
	u.group.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.next != nil {
		u.next.DecRef()
		u.next = nil
	}
	u.link.Drain()
	return nil
}
