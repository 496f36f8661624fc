package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hullvm/hull/vmm/network/usernet"
)

// Named networks:
//
//	<data>/networks/<id>/      one network
//	    network.json           its Network
//	    lock                   held while a container joins, or the network goes
//	<run>/net-<short id>/      where its living members meet (member.go)

// Network is a named network: the containers on it reach one another, by name too.
type Network struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Driver  string    `json:"driver"`

	IPv4 Pool `json:"ipv4,omitzero"`
	IPv6 Pool `json:"ipv6,omitzero"` // zero: the network has none
	// Fixed says that the user has chosen IPv4's subnet.
	Fixed bool `json:"fixed,omitempty"`

	Internal bool              `json:"internal,omitempty"` // nothing outside of it is reached
	Labels   map[string]string `json:"labels,omitempty"`
	Options  map[string]string `json:"options,omitempty"`

	// Broken is why the record cannot be read. Such a network has an ID, and a name that none can be given; it can be removed.
	Broken error `json:"-"`
}

// brokenName stands for the name of a network whose record cannot be read.
const brokenName = "<broken>"

// Drivers of networks.
const (
	DriverUser   = "user"   // a network stack in the process of each container
	DriverBridge = "bridge" // docker's: a bridge of this host's
	driverNull   = "null"
)

// networkVersion is the version of the format of network.json.
const networkVersion = 1

// Errors of networks, in docker's words.
var (
	ErrNoNetwork     = errors.New("not found")
	ErrNetworkExists = errors.New("already exists")
	ErrNetworkInUse  = errors.New("has active endpoints")
	ErrPredefined    = errors.New("is a pre-defined network and cannot be removed")
	ErrOverlap       = errors.New("invalid pool request: Pool overlaps with other one on this address space")
)

// predefined are the networks that are always there.
func predefined() []*Network {
	named := func(name, driver string) *Network {
		sum := sha256.Sum256([]byte("hull network " + name))
		return &Network{Version: networkVersion, ID: hex.EncodeToString(sum[:]), Name: name, Driver: driver, Created: time.Unix(0, 0)}
	}
	none, user := named(NetworkNone, driverNull), named(NetworkUser, DriverUser)
	user.IPv4 = Pool{Subnet: usernet.Subnet4, Gateway: usernet.Gateway4}
	user.IPv6 = Pool{Subnet: usernet.Subnet6, Gateway: usernet.Gateway6}
	return []*Network{none, user}
}

// Predefined tells whether the network is always there.
func (n *Network) Predefined() bool { return n.Name == NetworkNone || n.Name == NetworkUser }

// reservedNetwork tells whether a name means something else than a named network.
func reservedNetwork(name string) bool {
	return slices.Contains([]string{NetworkUser, NetworkNone, "host", "bridge", "default"}, name)
}

func (s *store) networks() string            { return filepath.Join(s.dirs.Data, "networks") }
func (s *store) networkDir(id string) string { return filepath.Join(s.networks(), id) }

const networkName = "network.json"

// CreateNetwork makes a network. What it leaves out is chosen.
func (e *Engine) CreateNetwork(ctx context.Context, n Network) (*Network, error) {
	if err := n.fill(); err != nil {
		return nil, err
	}
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	s := &e.store
	if err := makePrivate(s.networks()); err != nil {
		return nil, err
	}
	made, err := s.writeNetwork(ctx, n)
	if err != nil || n.Driver != DriverBridge {
		return made, err
	}
	gate, err := s.networkGate(ctx, made)
	if err != nil {
		return nil, err
	}
	err = s.raise(ctx, made)
	gate.Close()
	if err != nil {
		_, removeErr := e.RemoveNetwork(ctx, made.ID)
		return nil, errors.Join(fmt.Errorf("creating network %s: %w", n.Name, err), removeErr)
	}
	return made, nil
}

// writeNetwork chooses what a network's record leaves out, and writes it.
func (s *store) writeNetwork(ctx context.Context, n Network) (*Network, error) {
	gate, err := s.gate(ctx)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	all, err := s.listNetworks()
	if err != nil {
		return nil, err
	}
	routes := hostRoutes()
	if err := n.choose(all, routes); err != nil {
		return nil, err
	}
	n.Version, n.ID, n.Created = networkVersion, newID(), time.Now()
	if n.Driver == DriverBridge {
		if err := n.checkBridge(all, routes); err != nil {
			return nil, err
		}
	}
	building := s.networkDir("." + n.ID)
	if err := os.Mkdir(building, 0o700); err != nil {
		return nil, fmt.Errorf("creating network %s: %w", n.Name, err)
	}
	err = writeJSON(filepath.Join(building, networkName), &n)
	if err == nil {
		err = os.WriteFile(filepath.Join(building, lockName), nil, 0o600)
	}
	if err == nil {
		err = os.Rename(building, s.networkDir(n.ID))
	}
	if err != nil {
		os.RemoveAll(building)
		return nil, fmt.Errorf("creating network %s: %w", n.Name, err)
	}
	return &n, nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeAtomic(path, append(data, '\n'), true)
}

// fill checks what can be checked without knowing of others.
func (n *Network) fill() error {
	n.Driver = cmp.Or(n.Driver, DriverUser)
	switch {
	case !namePattern.MatchString(n.Name) || len(n.Name) > maxName:
		return fmt.Errorf("invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ is allowed, up to %d characters", n.Name, maxName)
	case reservedNetwork(n.Name):
		return fmt.Errorf("operation is not permitted on predefined %s network", n.Name)
	case n.Driver != DriverUser && n.Driver != DriverBridge:
		return fmt.Errorf("network driver %q: plugin %q not found: there are %q and %q", n.Driver, n.Driver, DriverUser, DriverBridge)
	}
	if err := n.IPv4.check(true); err != nil {
		return err
	}
	return n.IPv6.check(false)
}

// listNetworks reads the records of the networks that were made, the oldest first.
func (s *store) listNetworks() ([]*Network, error) {
	entries, err := os.ReadDir(s.networks())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing networks: %w", err)
	}
	var all []*Network
	for _, e := range entries {
		if !isID(e.Name()) {
			continue
		}
		n, err := s.readNetwork(e.Name())
		switch {
		case errors.Is(err, ErrBroken):
			n = &Network{ID: e.Name(), Name: brokenName, Created: time.Unix(0, 0), Broken: err}
		case errors.Is(err, ErrNoNetwork):
			continue
		case err != nil:
			return nil, err
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *Network) int { return a.Created.Compare(b.Created) })
	return all, nil
}

func (s *store) readNetwork(id string) (*Network, error) {
	path := filepath.Join(s.networkDir(id), networkName)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("network %s %w", ShortID(id), ErrNoNetwork)
	}
	if err != nil {
		return nil, err
	}
	n, err := parseNetwork(data, id)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w: %s: %w", ShortID(id), ErrBroken, path, err)
	}
	return n, nil
}

func parseNetwork(data []byte, id string) (*Network, error) {
	var n Network
	if err := json.Unmarshal(data, &n); err != nil {
		return nil, err
	}
	switch {
	case n.Version < 1 || n.Version > networkVersion:
		return nil, fmt.Errorf("format version %d, this hull knows up to %d", n.Version, networkVersion)
	case n.ID != id:
		return nil, fmt.Errorf("it is about network %q", ShortID(n.ID))
	case !n.IPv4.Subnet.IsValid():
		return nil, errors.New("it has no subnet")
	}
	return &n, n.fill()
}

// Networks lists all networks, those that are always there first.
func (e *Engine) Networks(ctx context.Context) ([]*Network, error) {
	if err := e.open(ctx); err != nil {
		return nil, err
	}
	all, err := e.store.listNetworks()
	return append(predefined(), all...), err
}

// GetNetwork finds a network by its name, its ID, or the beginning of that. One that is broken is an error.
func (e *Engine) GetNetwork(ctx context.Context, ref string) (*Network, error) {
	n, err := e.lookUpNetwork(ctx, ref)
	if err == nil {
		err = n.Broken
	}
	return n, err
}

// lookUpNetwork is GetNetwork that finds broken ones as well.
func (e *Engine) lookUpNetwork(ctx context.Context, ref string) (*Network, error) {
	all, err := e.Networks(ctx)
	if err != nil {
		return nil, err
	}
	switch ref {
	case "bridge", "default":
		ref = NetworkUser
	}
	return findNetwork(all, ref)
}

func findNetwork(all []*Network, ref string) (*Network, error) {
	var found []*Network
	for _, n := range all {
		if n.ID == ref || n.Name == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(n.ID, ref) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("network %s %w", ref, ErrNoNetwork)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("network %s is ambiguous (%d matches found on ID prefix)", ref, len(found))
}

// RemoveNetwork removes a network that no living container is on.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) (*Network, error) {
	n, err := e.lookUpNetwork(ctx, ref)
	if err != nil {
		return nil, err
	}
	if n.Predefined() {
		return nil, fmt.Errorf("%s %w", n.Name, ErrPredefined)
	}
	s := &e.store
	gate, err := s.networkGate(ctx, n)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	if members := s.members(n); len(members) > 0 {
		var who []string
		for _, m := range members {
			who = append(who, fmt.Sprintf("name:%q id:%q", m.Name, ShortID(m.Container)))
		}
		return nil, fmt.Errorf("error while removing network: network %s id %s %w (%s)", n.Name, n.ID, ErrNetworkInUse, strings.Join(who, ", "))
	}
	hidden := s.networkDir("." + n.ID)
	if err := os.Rename(s.networkDir(n.ID), hidden); err != nil {
		return nil, fmt.Errorf("removing network %s: %w", n.Name, err)
	}
	if err := errors.Join(s.lower(ctx, s.meetingDir(n.ID)), os.RemoveAll(hidden)); err != nil {
		return nil, fmt.Errorf("removing network %s: %w", n.Name, err)
	}
	return n, nil
}

// PruneNetworks removes the networks that no container is on, living or not, and that fit. It lists what has gone, also when it fails.
func (e *Engine) PruneNetworks(ctx context.Context, fits func(*Network) bool) (removed []*Network, err error) {
	all, err := e.Networks(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		used := slices.ContainsFunc(containers, func(r *Record) bool {
			return slices.ContainsFunc(r.Config.Endpoints, func(e Endpoint) bool { return e.Network == n.ID })
		})
		if n.Predefined() || used || !fits(n) {
			continue
		}
		_, err := e.RemoveNetwork(ctx, n.ID)
		switch {
		case err == nil:
			removed = append(removed, n)
		case !errors.Is(err, ErrNetworkInUse) && !errors.Is(err, ErrNoNetwork):
			return removed, err
		}
	}
	return removed, nil
}

// networkGate holds a network: nobody else joins or removes it meanwhile.
func (s *store) networkGate(ctx context.Context, n *Network) (*lockFile, error) {
	patience := gatePatience
	if n.Driver == DriverBridge {
		patience = rulesPatience
	}
	gate, err := waitLock(ctx, filepath.Join(s.networkDir(n.ID), lockName), 0, patience)
	if err == nil {
		// It may have been removed while it was waited for.
		if _, err = s.readNetwork(n.ID); err == nil || n.Broken != nil && errors.Is(err, ErrBroken) {
			return gate, nil
		}
		gate.Close()
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("network %s %w", n.Name, ErrNoNetwork)
	}
	return nil, err
}

// onNetworks makes a test of whether an address is of a named network, whichever there are by then: what a container
// reaches through this host must not be taken for a member's.
func (s *store) onNetworks() func(netip.Addr) bool {
	var mu sync.Mutex
	var at time.Time
	var subnets []netip.Prefix
	return func(a netip.Addr) bool {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(s.networks())
		if err != nil {
			return false // there are none
		}
		// The directory's time changes with each network that comes or goes. A record that was younger than the clock's
		// tick when it was read is read again.
		if now := info.ModTime(); !now.Equal(at) || time.Since(now) < time.Second {
			all, err := s.listNetworks()
			if err != nil {
				return true // rather than reach what may be one
			}
			at, subnets = now, nil
			for _, n := range all {
				subnets = append(subnets, n.IPv4.Subnet, n.IPv6.Subnet)
			}
		}
		return slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a) })
	}
}

// IsNamedNetwork tells whether a network of this name would be one that somebody has made.
func IsNamedNetwork(name string) bool {
	return namePattern.MatchString(name) && !reservedNetwork(name)
}
