package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm/network/bridge"
	"github.com/hullvm/hull/vmm/network/usernet"
)

// The living members of a network meet in its runtime directory:
//
//	<run>/net-<short id>/
//	    <address>.json         who has this IPv4 address: a Member; locked by whoever lives
//	    <address>              its socket, where others send to (usernet's segment.go)
//	    <IPv6 address>         symbolic link to it
//	    bridge                 of a network that has one: bridged.go
//
// The lock is an open file description's (F_OFD_SETLK): the kernel lets go of it when the process ends, however it does, and
// whether somebody holds it can be asked without taking it. Addresses are given under the network's gate.

// Endpoint is a container's place on a named network, as it was asked for.
type Endpoint struct {
	Network string     `json:"network"` // ID
	Name    string     `json:"name"`    // of the network
	IPv4    netip.Addr `json:"ipv4,omitzero"`
	IPv6    netip.Addr `json:"ipv6,omitzero"`
	Aliases []string   `json:"aliases,omitempty"` // more names of the container, on this network
	MAC     MAC        `json:"mac,omitzero"`
}

// Member is a living container on a network.
type Member struct {
	Container string     `json:"container"` // ID
	Name      string     `json:"name"`
	Names     []string   `json:"names"` // by which others find it, without capital letters
	IPv4      netip.Addr `json:"ipv4"`
	IPv6      netip.Addr `json:"ipv6,omitzero"`
	MAC       MAC        `json:"mac"`
	// Port is its place on the network's bridge; nil: there is no bridge, or it has no place yet.
	Port *bridge.Port `json:"port,omitempty"`
}

// membership is the place on a network of a container that this process runs.
type membership struct {
	Member
	store   *store
	network *Network
	dir     string
	forget  func()

	mu    sync.Mutex // for what follows, and the member's names
	lease *os.File
	// before is the lease before a change of names, locked as well: who has just opened it must not take it for a dead one's.
	before *os.File
	left   bool
}

// memberships are those of the containers that this process runs.
type memberships struct {
	mu  sync.Mutex
	all map[*membership]bool
}

func (l *memberships) add(m *membership) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make(map[*membership]bool)
	}
	l.all[m] = true
}

func (l *memberships) remove(m *membership) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, m)
}

// rename has the other members of its networks find a container by its new name.
func (l *memberships) rename(r *Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for m := range l.all {
		for _, ep := range r.Config.Endpoints {
			if m.Container == r.ID && m.network.ID == ep.Network {
				errs = append(errs, m.rename(r.Name, namesOf(r, ep.Aliases)))
			}
		}
	}
	return errors.Join(errs...)
}

// meetingDir is where the members of a network meet.
func (s *store) meetingDir(id string) string {
	return filepath.Join(s.dirs.Run, meetingPrefix+ShortID(id))
}

const (
	meetingPrefix = "net-"
	leaseSuffix   = ".json"
	goneSuffix    = ".gone" // of the lease of a member that is leaving
)

// maxLease bounds what is read of a member, in bytes: it may have published many ports.
const maxLease = 1 << 20

// join gives a container an address on a network, until the membership is left or this process ends.
func (s *store) join(ctx context.Context, want Endpoint, who Member) (_ *membership, err error) {
	n, err := s.readNetwork(want.Network)
	if errors.Is(err, ErrNoNetwork) {
		return nil, fmt.Errorf("network %s %w", want.Name, ErrNoNetwork)
	}
	if err != nil {
		return nil, err
	}
	gate, err := s.networkGate(ctx, n)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	dir := s.meetingDir(n.ID)
	// usernet's longest name there is that of a connection.
	if longest := filepath.Join(dir, "255.255.255.255-255.255.255.255"); len(longest) > maxSocketPath {
		return nil, fmt.Errorf("joining network %s: the runtime directory's path is %d characters too long for sockets; choose a shorter one with $HULL_RUN_DIR", n.Name, len(longest)-maxSocketPath)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("joining network %s: %w", n.Name, err)
	}
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	if n.Driver == DriverBridge {
		if err := s.raise(ctx, n); err != nil {
			return nil, fmt.Errorf("joining network %s: %w", n.Name, err)
		}
	}
	m := &membership{Member: who, store: s, network: n, dir: dir}
	if err := m.choose(want, s.members(n)); err != nil {
		return nil, err
	}
	if m.lease, err = m.write(); err != nil {
		return nil, fmt.Errorf("joining network %s: %w", n.Name, err)
	}
	m.forget = func() { s.joined.remove(m) }
	s.joined.add(m)
	return m, nil
}

// choose picks the addresses that were asked for, or the first that are free.
func (m *membership) choose(want Endpoint, others []Member) error {
	taken := make(map[netip.Addr]bool)
	for _, o := range others {
		taken[o.IPv4], taken[o.IPv6] = true, true
	}
	pick := func(p Pool, want netip.Addr, offset uint64) (netip.Addr, error) {
		if want.IsValid() {
			switch {
			case !p.Subnet.IsValid() || !p.usable(want):
				return want, fmt.Errorf("invalid endpoint settings: no configured subnet of network %s contains IP address %s", m.network.Name, want)
			case taken[want] || want == p.Gateway:
				return want, fmt.Errorf("network %s: address %s: Address already in use", m.network.Name, want)
			}
			return want, nil
		}
		if !p.Subnet.IsValid() {
			return netip.Addr{}, nil
		}
		from := p.Subnet
		if p.Range.IsValid() {
			from = p.Range
		} else if a := add(p.Subnet.Addr(), offset); offset > 0 && p.usable(a) && a != p.Gateway && !taken[a] {
			return a, nil // of the same number as that of IPv4
		}
		for a := from.Addr(); from.Contains(a); a = a.Next() {
			if p.usable(a) && a != p.Gateway && !taken[a] {
				return a, nil
			}
		}
		return netip.Addr{}, fmt.Errorf("network %s: no available addresses on this network's address pools: %s", m.network.Name, from)
	}
	var err error
	if m.IPv4, err = pick(m.network.IPv4, want.IPv4, 0); err != nil {
		return err
	}
	m.IPv6, err = pick(m.network.IPv6, want.IPv6, distance(m.network.IPv4.Subnet.Addr(), m.IPv4))
	return err
}

// distance is how far an IPv4 address is behind another.
func distance(from, to netip.Addr) uint64 {
	number := func(a netip.Addr) (n uint64) {
		for _, b := range a.AsSlice() {
			n = n<<8 | uint64(b)
		}
		return n
	}
	return number(to) - number(from)
}

// add is the address so far behind another.
func add(a netip.Addr, n uint64) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i], n = byte(n), n>>8
	}
	sum, _ := netip.AddrFromSlice(b)
	return sum
}

func (m *membership) leasePath() string { return filepath.Join(m.dir, m.IPv4.String()+leaseSuffix) }

// write makes the lease: it is locked before it has its name.
func (m *membership) write() (_ *os.File, err error) {
	data, err := json.Marshal(m.Member)
	if err != nil {
		return nil, err
	}
	building := m.leasePath() + ".new"
	f, err := os.OpenFile(building, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(building)
		}
	}()
	if err := ofdLock(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return nil, err
	}
	if _, err := f.Write(data); err != nil {
		return nil, err
	}
	return f, os.Rename(building, m.leasePath())
}

func ofdLock(f *os.File, command int, lock *unix.Flock_t) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno error
	if err := conn.Control(func(fd uintptr) { errno = unix.FcntlFlock(fd, command, lock) }); err != nil {
		return err
	}
	return errno
}

// rename writes the lease anew, under other names.
func (m *membership) rename(name string, names []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left {
		return nil
	}
	old := m.Member
	m.Name, m.Names = name, names
	lease, err := m.write()
	if err != nil {
		m.Member = old
		return fmt.Errorf("renaming a member of network %s: %w", m.network.Name, err)
	}
	if m.before != nil {
		m.before.Close()
	}
	m.lease, m.before = lease, m.lease
	return nil
}

// leave gives the address back.
func (m *membership) leave() {
	m.forget()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left {
		return
	}
	m.left = true
	if m.network.Driver == DriverBridge {
		m.vacate()
		if m.before != nil {
			m.before.Close()
		}
		return
	}
	os.Remove(m.leasePath()) // still this one: it is locked
	m.lease.Close()
	if m.before != nil {
		m.before.Close()
	}
	// The last one takes the directory away, unless somebody is about to come.
	if gate, err := openLock(filepath.Join(m.store.networkDir(m.network.ID), lockName), 0); err == nil {
		os.Remove(m.dir)
		gate.Close()
	}
}

// members lists the living members of a network.
func (s *store) members(n *Network) []Member { return readMembers(s.meetingDir(n.ID)) }

func readMembers(dir string) []Member {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // nobody has been there
	}
	var list []Member
	for _, e := range entries {
		address, ok := strings.CutSuffix(e.Name(), leaseSuffix)
		if !ok {
			continue
		}
		m, err := readMember(filepath.Join(dir, e.Name()))
		if err == nil && m.IPv4.String() == address {
			list = append(list, m)
		}
	}
	return list
}

var errGone = errors.New("the member is gone")

func readMember(path string) (m Member, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return m, err
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_WRLCK}
	if err := ofdLock(f, unix.F_OFD_GETLK, &held); err != nil {
		return m, err
	}
	if held.Type == unix.F_UNLCK {
		return m, errGone
	}
	return decodeMember(f)
}

func decodeMember(f *os.File) (m Member, err error) {
	data, err := io.ReadAll(io.LimitReader(f, maxLease))
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(data, &m)
}

// parseMember reads a lease, whether it is held or not.
func parseMember(path string) (Member, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Member{}, err
	}
	defer f.Close()
	return decodeMember(f)
}

// staleLeases lists what is left in a network's directory of members that are gone.
func staleLeases(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(path, goneSuffix) {
			list = append(list, path)
		} else if strings.HasSuffix(path, leaseSuffix) {
			if _, err := readMember(path); errors.Is(err, errGone) {
				list = append(list, path)
			}
		}
	}
	return list
}

// names are those by which a container is found on its networks.
type names struct{ members []*membership }

// Lookup implements usernet.Names.
func (n names) Lookup(name string) (addresses []netip.Addr, known bool) {
	for _, own := range n.members {
		alone := strings.TrimSuffix(name, "."+strings.ToLower(own.network.Name))
		for _, m := range readMembers(own.dir) {
			if !slices.Contains(m.Names, name) && !slices.Contains(m.Names, alone) {
				continue
			}
			if addresses = append(addresses, m.IPv4); m.IPv6.IsValid() {
				addresses = append(addresses, m.IPv6)
			}
		}
	}
	return addresses, len(addresses) > 0
}

// Reverse implements usernet.Names.
func (n names) Reverse(a netip.Addr) (name string, known bool) {
	for _, own := range n.members {
		if !own.network.IPv4.Subnet.Contains(a) && !own.network.IPv6.Subnet.Contains(a) {
			continue
		}
		for _, m := range readMembers(own.dir) {
			if a == m.IPv4 || a == m.IPv6 {
				return m.Name + "." + own.network.Name, true
			}
		}
		return "", true
	}
	return "", false
}

// namesOf are the names of a container on a network: docker's, all without capital letters.
func namesOf(r *Record, aliases []string) []string {
	list := append([]string{r.Name, ShortID(r.ID), r.Hostname()}, aliases...)
	for i := range list {
		list[i] = strings.ToLower(list[i])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// userAddresses are who is who on a network, to one of its members.
func (m *membership) userAddresses() usernet.Addresses {
	n := m.network
	return usernet.Addresses{
		Subnet4: n.IPv4.Subnet, Gateway4: n.IPv4.Gateway, DNS4: n.IPv4.Gateway, Guest4: m.IPv4,
		Subnet6: n.IPv6.Subnet, Gateway6: n.IPv6.Gateway, DNS6: n.IPv6.Gateway, Guest6: m.IPv6,
	}
}
