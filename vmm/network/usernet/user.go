// Package usernet is a network without privileges: a TCP/IP stack in this process (gVisor's netstack) is the guest's
// gateway, and each of the guest's connections becomes a socket of this process.
//
// It does not belong into the VM process, which stays lean and without a network of its own: frames come over a
// socket (serve.go) that the VM process has the other end of (vmm/network).
//
// Read in this order: user.go (the stack), link.go (frames in and out), filter.go (which frames), policy.go (what the guest
// may reach), tcp.go, udp.go, ping.go, dhcp.go, router.go (what the gateway does), publish.go (the other direction). A guest
// may have others on its network: segment.go (the way to them), dns.go (their names).
//
// A guest's frames are hostile: what is looked at here is a copy, parsed with checked lengths, and everything that a
// guest can make this process keep (connections, flows, frames in a queue) is counted and bounded.
package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

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
	cfg    UserConfig
	stack  *stack.Stack
	link   *channel.Endpoint
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	dialer net.Dialer

	// reach is outside, but in tests.
	reach func(netip.AddrPort) (netip.AddrPort, bool)

	keepAlive   keepAlive
	connections slots
	flows       slots
	pings       pings
	resolvers   resolvers
	segment     *segment // nil for a guest that is alone
	guestMAC    atomic.Uint64

	mu        sync.Mutex // of what follows
	ready     func()
	next      *stack.PacketBuffer // the frame that Receive looked at last
	closed    bool
	closers   map[uint64]func() // sockets to close, by number
	nextClose uint64
}

// ErrConfig is wrapped by the error of a UserConfig that cannot be.
var ErrConfig = errors.New("not a user-mode network")

// dialTimeout is how long a guest's connection may take to be made, as Linux's own six SYNs would at least.
const dialTimeout = 60 * time.Second

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
		cfg:         cfg,
		link:        channel.New(maxQueued, MTU+header.EthernetMinimumSize, gatewayMAC),
		dialer:      net.Dialer{Timeout: dialTimeout},
		reach:       outside,
		keepAlive:   defaultKeepAlive,
		connections: slots{free: maxConnections},
		flows:       slots{free: maxFlows},
		resolvers:   resolvers{servers: cfg.DNS},
		closers:     map[uint64]func(){},
	}
	u.pings.init()
	u.learn(cfg.MAC[:])
	// The guest leaves checksums to its device, and nothing between it and here can damage a frame.
	u.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	u.link.AddNotify(u)
	u.ctx, u.cancel = context.WithCancel(context.Background())
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
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return nil
	}
	u.closed = true
	closers := u.closers
	u.closers = nil
	u.mu.Unlock()
	u.cancel()
	for _, c := range closers {
		c()
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

// onClose has f called by Close, unless forget, which calls nothing, is called before. ok is false if it is closed
// already.
func (u *User) onClose(f func()) (forget func(), ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, false
	}
	u.nextClose++
	n := u.nextClose
	u.closers[n] = f
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.closers, n)
	}, true
}

// run starts a goroutine that Close waits for. It does nothing once the network is closed.
func (u *User) run(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.group.Add(1)
	go func() {
		defer u.group.Done()
		f()
	}()
	return true
}

// failed reports what has ended for good.
func (u *User) failed(err error) {
	if u.cfg.Failed != nil {
		u.cfg.Failed(fmt.Errorf("user-mode network: %w", err))
	}
}

// slots counts down how many more of something there may be.
type slots struct {
	mu   sync.Mutex
	free int
}

func (s *slots) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == 0 {
		return false
	}
	s.free--
	return true
}

func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
}
