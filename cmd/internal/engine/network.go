package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/network"
	"github.com/hullvm/hull/vmm/network/usernet"
)

// Networks of Config.Network.
const (
	NetworkUser = "user" // user-mode: out to the world, in by published ports
	NetworkNone = "none" // no network card
	NetworkTap  = "tap=" // with its name behind: a tap interface of this host
)

// CheckNetwork tells whether there is a network of that name.
func CheckNetwork(name string) error {
	if tap, ok := strings.CutPrefix(name, NetworkTap); ok {
		return network.CheckTapName(tap)
	}
	switch name {
	case NetworkUser, NetworkNone:
		return nil
	case "host":
		return errors.New(`network "host": a container has a kernel of its own and cannot be on the host's network; publish ports with -p`)
	}
	if other, ok := strings.CutPrefix(name, "container:"); ok {
		return fmt.Errorf("network %q: a container has a kernel of its own and cannot be in the network namespace of container %s; put both on a network: hull network create NAME, and --network NAME for each", name, other)
	}
	return fmt.Errorf("network %q: want %s, %sNAME or %s", name, NetworkUser, NetworkTap, NetworkNone)
}

// NetworkConfig is the network that a VM is given.
type NetworkConfig struct {
	// Network is NetworkUser, NetworkTap and a name, or NetworkNone, which "" stands for. With Endpoints it is the name of
	// the first one's.
	Network string `json:"network,omitempty"`
	// Endpoints are the container's places on named networks: a network card each.
	Endpoints []Endpoint    `json:"endpoints,omitempty"`
	Ports     []PortBinding `json:"ports,omitempty"`
	// PublishAll publishes every port that the image, or Expose, says that the container listens on.
	PublishAll bool         `json:"publish_all,omitempty"`
	Expose     []string     `json:"expose,omitempty"`
	DNS        []netip.Addr `json:"dns,omitempty"` // instead of the host's
	MAC        MAC          `json:"mac,omitzero"`  // zero: one at random

	// Of a container on a tap interface: its addresses, with the length of the network's prefix, and who it reaches
	// the rest of the world by, at most one of each family. Without, it has none.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
}

// tap is the name of the tap interface, if there is one.
func (c *NetworkConfig) tap() (name string, ok bool) { return strings.CutPrefix(c.Network, NetworkTap) }

// fill sets what was left out and checks the rest.
func (c *NetworkConfig) fill() error {
	if c.Network == "" {
		c.Network = NetworkNone
	}
	if len(c.Endpoints) == 0 {
		if err := CheckNetwork(c.Network); err != nil {
			return err
		}
	}
	_, tap := c.tap()
	switch {
	case c.Network == NetworkNone && len(c.Ports) > 0:
		return errors.New("-p needs a network: leave --network none out")
	case tap && len(c.Ports) > 0:
		return fmt.Errorf("-p needs the network %q: on a tap interface a container is reached by its own address", NetworkUser)
	case len(c.Ports) > maxPorts:
		return fmt.Errorf("%d published ports: at most %d are allowed", len(c.Ports), maxPorts)
	case !tap && len(c.Addresses)+len(c.Gateways) > 0:
		return errors.New("an address or a gateway of one's own needs --network tap=NAME")
	}
	for i, g := range c.Gateways {
		if slices.ContainsFunc(c.Gateways[:i], func(a netip.Addr) bool { return a.Is4() == g.Is4() }) {
			return fmt.Errorf("gateway %s: there is another of its family", g)
		}
		if !slices.ContainsFunc(c.Addresses, func(a netip.Prefix) bool { return a.Contains(g) && a.Addr() != g }) {
			return fmt.Errorf("gateway %s: the container has no address in its network", g)
		}
	}
	return nil
}

// guestNetwork is the host's end of a VM's network.
type guestNetwork struct {
	nics []vmm.NIC
	// cards are how the guest's agent is to set up each network card.
	cards []proto.Interface
	// ports are those of Config.Ports, with the host's ports that were free.
	ports []PortBinding
	// resolvers are who the guest asks for names, unless the user says otherwise; nil for the host's.
	resolvers []netip.Addr

	stacks  []*userStack
	bridged []*bridged
}

// userStack is one user-mode network.
type userStack struct {
	user   *usernet.User
	conn   *net.UnixConn
	done   chan error
	member *membership // nil on a network without a name
}

// networkGuest is who is given a network.
type networkGuest struct {
	hostname string
	cpus     int
	// bare says that nobody but its own kernel and programs set the guest up.
	bare bool
	// note is told what the user must know; nil if there is nobody to tell.
	note func(string)
	// Of a container, for named networks.
	store  *store
	record *Record
}

// failed is told what has ended of a network that goes on; nil if there is nobody to tell.
func (g *networkGuest) failed() func(error) {
	if g.note == nil {
		return nil
	}
	return func(err error) { g.note(err.Error()) }
}

// newNetwork makes the network that c asks for, or nil for none. The VM's end goes to table.
func newNetwork(ctx context.Context, c *NetworkConfig, guest networkGuest, table *fileTable) (_ *guestNetwork, err error) {
	n := &guestNetwork{}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if tap, ok := c.tap(); ok {
		err = n.addTap(c, tap, guest.cpus, table)
	} else if len(c.Endpoints) > 0 {
		err = n.addNamed(ctx, c, guest, table)
	} else if c.Network == NetworkUser {
		n.resolvers = []netip.Addr{usernet.DNS4}
		mac := orRandom(c.MAC)
		config := usernet.UserConfig{
			DNS: hostResolvers(), Advertise: guest.bare, Addresses: usernet.DefaultAddresses(), Hostname: guest.hostname, Failed: guest.failed(),
		}
		if guest.store != nil {
			config.Refuse = guest.store.onNetworks()
		}
		err = n.addUser(ctx, config, c.Ports, mac, guest, table, nil)
	} else {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

// add adds a network card.
func (n *guestNetwork) add(nic vmm.NIC, card proto.Interface, mac MAC) {
	nic.MAC, card.MAC = mac, mac.String()
	n.nics, n.cards = append(n.nics, nic), append(n.cards, card)
}

// addTap opens a tap interface. The guest has a queue pair for each CPU.
func (n *guestNetwork) addTap(c *NetworkConfig, name string, cpus int, table *fileTable) error {
	tap, err := network.OpenTap(name, min(cpus, network.MaxQueues))
	if err != nil {
		return err
	}
	nic := vmm.NIC{MTU: tap.MTU}
	for _, f := range tap.Queues {
		nic.Tap = append(nic.Tap, table.add(f))
	}
	n.add(nic, proto.Interface{Addresses: c.Addresses, Gateways: c.Gateways}, orRandom(c.MAC))
	return nil
}

// addNamed makes the container a member of its networks. The first that has a way out is the one that leads there, and
// that ports are published on.
func (n *guestNetwork) addNamed(ctx context.Context, c *NetworkConfig, guest networkGuest, table *fileTable) (err error) {
	servers := hostResolvers()
	if len(c.DNS) > 0 {
		servers = nil
		for _, addr := range c.DNS {
			servers = append(servers, netip.AddrPortFrom(addr, 53))
		}
	}
	known := &names{}
	// Whoever answers for names knows those of all networks, so all must be joined first.
	for _, ep := range c.Endpoints {
		who := Member{Container: guest.record.ID, Name: guest.record.Name, Names: namesOf(guest.record, ep.Aliases), MAC: ep.MAC}
		if who.MAC == (MAC{}) {
			who.MAC = randomMAC()
		}
		m, err := guest.store.join(ctx, ep, who)
		if err != nil {
			for _, m := range known.members {
				m.leave()
			}
			return err
		}
		known.members = append(known.members, m)
	}
	out := slices.IndexFunc(known.members, func(m *membership) bool { return !m.network.Internal })
	for i, m := range known.members {
		config := usernet.UserConfig{
			DNS: servers, Addresses: m.userAddresses(), Internal: m.network.Internal, Names: known,
			Segment: m.dir, MAC: m.MAC, Refuse: guest.store.onNetworks(), Hostname: guest.hostname, Failed: guest.failed(),
		}
		var ports []PortBinding
		if i == out {
			ports = c.Ports
		}
		if m.network.Driver == DriverBridge {
			err = n.addBridged(ctx, config, ports, guest, table, m)
		} else {
			err = n.addUser(ctx, config, ports, m.MAC, guest, table, m)
		}
		if err != nil {
			for _, rest := range known.members[i:] {
				rest.leave()
			}
			return err
		}
		if i != out {
			n.cards[i].Gateways = nil
		}
		// Each knows what the others do, but an internal network's does not ask others.
		if i == max(out, 0) {
			n.resolvers = []netip.Addr{config.Addresses.DNS4}
		}
	}
	return nil
}

// addUser makes a user-mode network, which lives in this process.
func (n *guestNetwork) addUser(ctx context.Context, config usernet.UserConfig, publish []PortBinding, mac MAC, guest networkGuest, table *fileTable, m *membership) (err error) {
	var ports []PortBinding
	if config.Publish, ports, err = listenAll(ctx, publish); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			closeAll(config.Publish)
		}
	}()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making the network's socket: %w", err)
	}
	theirs := table.add(os.NewFile(uintptr(fds[1]), "network"))
	ours := os.NewFile(uintptr(fds[0]), "network")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return fmt.Errorf("making the network's socket: %w", err)
	}
	s := &userStack{conn: conn.(*net.UnixConn), done: make(chan error, 1), member: m}
	s.user, err = usernet.NewUser(config)
	config.Publish = nil // its own now
	if err != nil {
		conn.Close()
		return err
	}
	go func() { s.done <- s.user.Serve(s.conn) }()
	n.stacks, n.ports = append(n.stacks, s), append(n.ports, ports...)
	card := cardOf(&config.Addresses)
	card.MTU = usernet.MTU
	n.add(vmm.NIC{MTU: usernet.MTU, Socket: &theirs}, card, mac)
	return nil
}

// cardOf is how the guest's agent is to set up the card of a network.
func cardOf(at *usernet.Addresses) proto.Interface {
	card := proto.Interface{
		Addresses: []netip.Prefix{netip.PrefixFrom(at.Guest4, at.Subnet4.Bits())},
		Gateways:  []netip.Addr{at.Gateway4},
	}
	if at.Subnet6.IsValid() {
		card.Addresses = append(card.Addresses, netip.PrefixFrom(at.Guest6, at.Subnet6.Bits()))
		card.Gateways = append(card.Gateways, at.Gateway6)
	}
	return card
}

// close ends all connections of the network. It does nothing on nil.
func (n *guestNetwork) close() {
	if n == nil {
		return
	}
	for _, s := range n.stacks {
		s.user.Close()
		s.conn.Close()
		<-s.done
		if s.member != nil {
			s.member.leave()
		}
	}
	for _, b := range n.bridged {
		b.close()
	}
	n.stacks, n.bridged = nil, nil
}

// published are the ports that lead to the container.
func (n *guestNetwork) published() []PortBinding {
	if n == nil {
		return nil
	}
	return n.ports
}

// address is the container's own: without one that of the loopback that Debian has for it.
func (n *guestNetwork) address() netip.Addr {
	if n == nil || len(n.cards[0].Addresses) == 0 {
		return netip.AddrFrom4([4]byte{127, 0, 1, 1})
	}
	return n.cards[0].Addresses[0].Addr()
}

const resolvConfPath = "/etc/resolv.conf"

// resolvConf is the container's /etc/resolv.conf: the gateway of a user-mode network asks this host's name servers, a
// container on a tap interface does so itself, unless others are named. On a named network the gateway is who is asked always,
// since it knows the others there; it is what asks others then.
func (n *guestNetwork) resolvConf(c *NetworkConfig) string {
	var b strings.Builder
	for _, words := range resolvConfLines() {
		if slices.Contains([]string{"search", "domain", "options"}, words[0]) {
			fmt.Fprintln(&b, strings.Join(words, " "))
		}
	}
	servers := c.DNS
	switch {
	case len(c.Endpoints) > 0 || len(servers) == 0 && n.resolvers != nil:
		servers = n.resolvers
	case len(servers) == 0:
		for _, s := range hostResolvers() {
			if !s.Addr().IsLoopback() { // which is the host's own
				servers = append(servers, s.Addr())
			}
		}
	}
	for _, addr := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", addr)
	}
	if len(c.Endpoints) > 0 {
		b.WriteString("options ndots:0\n") // the name alone first, and not with a domain behind it: it may be a container's
	}
	return b.String()
}
