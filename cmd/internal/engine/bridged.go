package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/network"
	"github.com/hullvm/hull/vmm/network/bridge"
	"github.com/hullvm/hull/vmm/network/usernet"
)

// Networks whose driver is "bridge" are a bridge of this host's (vmm/network/bridge), and a tap interface on it for each container.
// What there is of one is written down in its runtime directory before it is made:
//
//	<run>/net-<short id>/bridge    a bridgeState: the bridge, and whose it is
//	<run>/forwarding               what this host's kernel was told because of bridges, and what it had been told before
//
// A living member's lease has its port of the bridge. Whoever changes the members, or finds that one was killed, makes the rules
// anew from the leases that are held, under the network's gate.

const (
	bridgeName     = "bridge"
	forwardingName = "forwarding"
)

// rulesPatience is how long others may take to make a network's rules: the first time on a host its kernel loads modules.
const rulesPatience = time.Minute

// bridgeState is what a network's bridge is.
type bridgeState struct {
	Network string // its directory: a bridge whose network is gone goes
	Bridge  bridge.Bridge
}

// Options of bridges, by docker's names.
const (
	optBridgeName = "com.docker.network.bridge.name"
	optMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optApart      = "com.docker.network.bridge.enable_icc"
	optMTU        = "com.docker.network.driver.mtu"
)

// mtuMost is the most that a bridge takes, in bytes.
const mtuMost = 65535

// bridge is the network's bridge as its options say.
func (n *Network) bridge() (*bridge.Bridge, error) {
	b := &bridge.Bridge{
		ID: ShortID(n.ID), Name: "br-" + ShortID(n.ID), Internal: n.Internal,
		Subnet4: n.IPv4.Subnet, Gateway4: n.IPv4.Gateway, Subnet6: n.IPv6.Subnet, Gateway6: n.IPv6.Gateway,
	}
	for name, value := range n.Options {
		var err error
		switch name {
		case optBridgeName:
			b.Name = value
			err = bridge.CheckName(value)
		case optMTU:
			if b.MTU, err = strconv.Atoi(value); err != nil || b.MTU < 1280 || b.MTU > mtuMost {
				err = fmt.Errorf("must be 1280 to %d", mtuMost) // IPv6 needs that much
			}
		case optMasquerade:
			b.NoMasquerade, err = isFalse(value)
		case optApart:
			b.Apart, err = isFalse(value)
		default:
			if strings.HasPrefix(name, "com.docker.network.") {
				err = errors.ErrUnsupported
			}
		}
		if err != nil {
			return nil, fmt.Errorf("option %s=%s: %w", name, value, err)
		}
	}
	return b, nil
}

func isFalse(value string) (bool, error) {
	yes, err := strconv.ParseBool(value)
	if err != nil {
		err = errors.New("must be true or false")
	}
	return !yes, err
}

// checkBridge tells whether a network can have a bridge here, beside those of all others.
func (n *Network) checkBridge(all []*Network, host []netip.Prefix) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("network driver %q: it sets up a bridge, tap interfaces and rules of this host's, which takes root; leave --driver out for the driver %q, which needs no privileges", DriverBridge, DriverUser)
	}
	b, err := n.bridge()
	if err != nil {
		return err
	}
	if err := bridge.CheckProgram(); err != nil {
		return fmt.Errorf("network driver %q: %w", DriverBridge, err)
	}
	for _, other := range all {
		if o, err := other.bridge(); err == nil && other.Driver == DriverBridge && o.Name == b.Name {
			return fmt.Errorf("bridge %s: network %s has it: networks have same bridge name", b.Name, other.Name)
		}
		if other.ID[:bridge.PrefixLength] == n.ID[:bridge.PrefixLength] { // once in 2²⁸ networks
			return fmt.Errorf("network %s: its ID begins as that of network %s does: try again", n.Name, other.Name)
		}
	}
	// It would take the place of what this host reaches now.
	if i := slices.IndexFunc(host, n.IPv4.Subnet.Overlaps); n.Fixed && i >= 0 {
		return fmt.Errorf("subnet %s: %w: this host has a route to %s", n.IPv4.Subnet, ErrOverlap, host[i])
	}
	return nil
}

// raise makes a network's bridge unless it is there. The network's gate is held.
func (s *store) raise(ctx context.Context, n *Network) error {
	b, err := n.bridge()
	if err != nil {
		return err
	}
	dir := s.meetingDir(n.ID)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := checkPrivate(dir); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, bridgeName), bridgeState{Network: s.networkDir(n.ID), Bridge: *b}); err != nil {
		return err
	}
	if err := b.Up(); err != nil {
		return err
	}
	if n.Internal {
		return nil
	}
	return s.forward(ctx, n.IPv6.Subnet.IsValid())
}

// forward has this host's kernel pass packets on.
func (s *store) forward(ctx context.Context, ipv6 bool) error {
	gate, err := s.gate(ctx)
	if err != nil {
		return err
	}
	defer gate.Close()
	changes, err := bridge.Forwarding(ipv6)
	if err != nil || len(changes) == 0 {
		return err
	}
	changed, err := s.forwarding()
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(s.dirs.Run, forwardingName), append(changed, changes...)); err != nil {
		return err
	}
	return bridge.Change(changes, false)
}

func (s *store) forwarding() (changed []bridge.Setting, err error) {
	data, err := os.ReadFile(filepath.Join(s.dirs.Run, forwardingName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &changed)
	}
	return changed, err
}

// lower removes what there is of the bridge of a network that is gone, and its runtime directory. After the last one, this host is told
// what it was told before.
func (s *store) lower(ctx context.Context, dir string) error {
	state, err := readBridgeState(dir)
	if err == nil {
		err = state.Bridge.Down()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if state == nil {
		return nil // it never was one
	}
	gate, err := s.gate(ctx)
	if err != nil {
		return err
	}
	defer gate.Close()
	if any, err := bridge.Any(); err != nil || any {
		return err
	}
	changed, err := s.forwarding()
	if err != nil || len(changed) == 0 {
		return err
	}
	return errors.Join(bridge.Change(changed, true), os.Remove(filepath.Join(s.dirs.Run, forwardingName)))
}

func readBridgeState(dir string) (*bridgeState, error) {
	data, err := os.ReadFile(filepath.Join(dir, bridgeName))
	if err != nil {
		return nil, err
	}
	var state bridgeState
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, bridgeName), err)
	}
	return &state, nil
}

// isMeetingDir tells whether an entry of the runtime directory is a network's.
func isMeetingDir(name string) bool {
	short, ok := strings.CutPrefix(name, meetingPrefix)
	return ok && len(short) == ShortIDLength && isHex(short)
}

// sweepBridge makes a network's bridge what it should be after processes were killed: one whose network is gone goes, and of members
// that are gone nothing is left.
func (s *store) sweepBridge(ctx context.Context, name string) error {
	dir := filepath.Join(s.dirs.Run, name)
	state, err := readBridgeState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // no bridge, or just gone
	}
	if err != nil {
		return err
	}
	lock, err := openLock(filepath.Join(state.Network, lockName), 0)
	switch {
	case errors.Is(err, errLocked):
		return nil // somebody is at it
	case errors.Is(err, os.ErrNotExist):
		return s.lower(ctx, dir)
	case err != nil:
		return err
	}
	defer lock.Close()
	gone := staleLeases(dir)
	if len(gone) == 0 {
		return nil
	}
	return settleBridge(&state.Bridge, dir, gone)
}

// settleBridge leaves nothing of members that are gone, whose leases these are.
func settleBridge(b *bridge.Bridge, dir string, gone []string) error {
	var addresses []netip.Addr
	for _, path := range gone {
		if m, err := parseMember(path); err == nil {
			addresses = append(addresses, m.addresses()...)
		}
	}
	ports := portsOf(readMembers(dir))
	if err := b.Apply(ports); errors.Is(err, bridge.ErrNoNFT) {
		return nil // nothing can be done before it is back, and no command is to fail for that
	} else if err != nil {
		return err
	}
	// Connections that go on are cut off by the rules; forgetting them frees the kernel of them, if it can be told.
	_ = bridge.Forget(addresses...)
	var errs []error
	for _, path := range gone {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (m *Member) addresses() []netip.Addr {
	list := []netip.Addr{m.IPv4}
	if m.IPv6.IsValid() {
		list = append(list, m.IPv6)
	}
	return list
}

// portsOf are the bridge's ports of members.
func portsOf(members []Member) []bridge.Port {
	var list []bridge.Port
	for _, m := range members {
		if m.Port != nil {
			list = append(list, *m.Port)
		}
	}
	return list
}

// occupy notes the port of the bridge that the member has, and has the rules know it.
func (m *membership) occupy(ctx context.Context, p *bridge.Port) error {
	gate, err := m.store.networkGate(ctx, m.network)
	if err != nil {
		return err
	}
	defer gate.Close()
	m.mu.Lock() // it may be renamed by now
	m.Port = p
	lease, err := m.write()
	if err == nil {
		m.lease.Close()
		m.lease = lease
	}
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("joining network %s: %w", m.network.Name, err)
	}
	b, err := m.network.bridge()
	if err != nil {
		return err
	}
	return b.Apply(portsOf(readMembers(m.dir)))
}

// vacate is leave of a network with a bridge. Where it fails, the lease stays, held by nobody, and the next command does the rest.
func (m *membership) vacate() {
	defer m.lease.Close()
	gate, err := m.store.networkGate(context.Background(), m.network)
	if err != nil {
		return
	}
	defer gate.Close()
	b, err := m.network.bridge()
	if err != nil {
		return
	}
	path := m.leasePath()
	if err := os.Rename(path, path+goneSuffix); err == nil { // it counts no more
		_ = settleBridge(b, m.dir, []string{path + goneSuffix})
	}
}

// bridged is a container's place on a bridge.
type bridged struct {
	service *usernet.Service
	member  *membership
}

func (b *bridged) close() {
	b.service.Close()
	b.member.leave()
}

// addBridged puts the container on the bridge of a network that it is a member of: a tap interface for its card, and what it needs of
// this host.
func (n *guestNetwork) addBridged(ctx context.Context, config usernet.UserConfig, publish []PortBinding, guest networkGuest, table *fileTable, m *membership) (err error) {
	b, err := m.network.bridge()
	if err != nil {
		return err
	}
	p := &bridge.Port{Interface: b.TapName(m.IPv4), MAC: m.MAC, IPv4: m.IPv4, IPv6: m.IPv6}
	nic := vmm.NIC{MTU: b.MTU}
	if nic.MTU == 0 {
		nic.MTU = bridge.DefaultMTU
	}
	tap, err := network.OpenTap(p.Interface, min(guest.cpus, network.MaxQueues))
	if err != nil {
		return err
	}
	for _, f := range tap.Queues {
		nic.Tap = append(nic.Tap, table.add(f))
	}
	if err := b.Attach(p); err != nil {
		return err
	}
	service := usernet.ServiceConfig{
		Guest: m.IPv4, Names: config.Names, DNS: config.DNS, Internal: config.Internal, Failed: config.Failed,
	}
	var ports []PortBinding
	if service.Publish, ports, err = listenAll(ctx, publish); err != nil {
		return err
	}
	if service.NameUDP, service.NameTCP, err = listenNames(config.Addresses.DNS4); err != nil {
		closeAll(service.Publish)
		return fmt.Errorf("network %s: its name server: %w", m.network.Name, err)
	}
	p.NameUDP = uint16(service.NameUDP.LocalAddr().(*net.UDPAddr).Port)
	p.NameTCP = uint16(service.NameTCP.Addr().(*net.TCPAddr).Port)
	for _, port := range ports {
		p.Publish = append(p.Publish, bridge.Publish{Host: port.Host, Port: port.Container, Protocol: port.Protocol})
	}
	s, err := usernet.NewService(service)
	if err != nil {
		return err
	}
	if err := m.occupy(ctx, p); err != nil {
		s.Close()
		return err
	}
	n.bridged, n.ports = append(n.bridged, &bridged{s, m}), append(n.ports, ports...)
	n.add(nic, cardOf(&config.Addresses), m.MAC)
	return nil
}

// listenNames opens the sockets of a name server, at ports that are free.
func listenNames(at netip.Addr) (*net.UDPConn, *net.TCPListener, error) {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		return nil, nil, err
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		udp.Close()
		return nil, nil, err
	}
	return udp, tcp, nil
}
