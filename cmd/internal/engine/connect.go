package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// resolveEndpoints finds the networks that a container is to be on.
func (s *store) resolveEndpoints(c *NetworkConfig) error {
	if len(c.Endpoints) == 0 {
		return nil
	}
	all, err := s.listNetworks()
	if err != nil {
		return err
	}
	for i := range c.Endpoints {
		ep := &c.Endpoints[i]
		n, err := findNetwork(all, ep.Name)
		if err == nil {
			err = n.Broken
		}
		if err != nil {
			return err
		}
		if err := ep.fit(n); err != nil {
			return err
		}
		ep.Network, ep.Name = n.ID, n.Name
	}
	c.Network = c.Endpoints[0].Name
	return nil
}

// fit tells whether an endpoint makes sense on a network.
func (ep *Endpoint) fit(n *Network) error {
	if ep.IPv4.IsValid() && !n.Fixed {
		return errors.New("invalid endpoint settings: user specified IP address is supported only when connecting to networks with user configured subnets")
	}
	for addr, pool := range map[netip.Addr]Pool{ep.IPv4: n.IPv4, ep.IPv6: n.IPv6} {
		if addr.IsValid() && (!pool.Subnet.IsValid() || !pool.usable(addr)) {
			return fmt.Errorf("invalid endpoint settings: no configured subnet contains IP address %s", addr)
		}
	}
	for _, alias := range ep.Aliases {
		if err := checkHostname(alias); err != nil {
			return fmt.Errorf("network alias: %w", err)
		}
	}
	return nil
}

// publishAll adds the ports that the image, or --expose, says that the container listens on.
func (c *NetworkConfig) publishAll(image *v1.Config, exposed []string) error {
	ports := slices.Sorted(maps.Keys(image.ExposedPorts))
	for _, entry := range slices.Concat(ports, exposed) {
		list, err := ParseExposed(entry)
		if err != nil {
			return err
		}
		for _, p := range list {
			same := func(o PortBinding) bool { return o.Container == p.Container && o.Protocol == p.Protocol }
			if c.PublishAll && c.Network != NetworkNone && !slices.ContainsFunc(c.Ports, same) {
				c.Ports = append(c.Ports, p)
			}
		}
	}
	if len(c.Ports) > maxPorts {
		return fmt.Errorf("%d published ports: at most %d are allowed", len(c.Ports), maxPorts)
	}
	return nil
}

// ParseExposed reads what EXPOSE and --expose take: PORT[-PORT][/tcp|/udp].
func ParseExposed(entry string) ([]PortBinding, error) {
	if strings.Contains(entry, ":") {
		return nil, fmt.Errorf("invalid port format for --expose: %s", entry)
	}
	return ParsePorts(strings.ToLower(entry))
}

// Errors of connecting, in docker's words where it has them.
var (
	ErrConnectRunning   = errors.New("the network cards of a VM are put in when it starts: stop the container first")
	ErrAlreadyConnected = errors.New("already exists in network")
	ErrNotConnected     = errors.New("is not connected to network")
)

// Connect puts a container that does not run on one more network.
func (e *Engine) Connect(ctx context.Context, network, container string, ep Endpoint) error {
	return e.changeEndpoints(ctx, network, container, func(r *Record, n *Network) error {
		c := &r.Config.NetworkConfig
		if _, tap := c.tap(); tap {
			return fmt.Errorf("container %s is on a tap interface of this host: it cannot be on a named network too", r.Name)
		}
		if slices.ContainsFunc(c.Endpoints, func(o Endpoint) bool { return o.Network == n.ID }) {
			return fmt.Errorf("endpoint with name %s %w %s", r.Name, ErrAlreadyConnected, n.Name)
		}
		if err := ep.fit(n); err != nil {
			return err
		}
		ep.Network, ep.Name = n.ID, n.Name
		c.Endpoints = append(c.Endpoints, ep)
		c.Network = c.Endpoints[0].Name
		return nil
	})
}

// Disconnect takes a container that does not run off a network. Without any it has none.
func (e *Engine) Disconnect(ctx context.Context, network, container string) error {
	return e.changeEndpoints(ctx, network, container, func(r *Record, n *Network) error {
		c := &r.Config.NetworkConfig
		i := slices.IndexFunc(c.Endpoints, func(o Endpoint) bool { return o.Network == n.ID })
		if i < 0 {
			return fmt.Errorf("container %s %w %s", r.ID, ErrNotConnected, n.Name)
		}
		c.Endpoints = slices.Delete(c.Endpoints, i, i+1)
		if c.Network = NetworkNone; len(c.Endpoints) > 0 {
			c.Network = c.Endpoints[0].Name
		}
		return nil
	})
}

func (e *Engine) changeEndpoints(ctx context.Context, network, container string, change func(*Record, *Network) error) error {
	n, err := e.GetNetwork(ctx, network)
	if err != nil {
		return err
	}
	if n.Predefined() {
		return fmt.Errorf("network %s: only containers that were run with it are on it", n.Name)
	}
	r, err := e.Get(ctx, container)
	if err != nil {
		return err
	}
	lock, err := e.store.lock(r.ID)
	if errors.Is(err, errLocked) {
		return fmt.Errorf("container %s is running: %w", r.Name, ErrConnectRunning)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if r, err = e.store.load(r.ID); err != nil {
		return err
	}
	if r.State.Status == StatusDead {
		return fmt.Errorf("container %s: %s", r.Name, r.State.Error)
	}
	if err := change(r, n); err != nil {
		return err
	}
	return r.write(e.store.dir(r.ID))
}

// Members lists the living containers on a network.
func (e *Engine) Members(n *Network) []Member { return e.store.members(n) }

// EndpointState is a container's place on a network while it lives, or what it is to be.
type EndpointState struct {
	Endpoint
	Gateway4, Gateway6 netip.Addr
	Bits4, Bits6       int // lengths of the networks' prefixes
	Names              []string
}

// Endpoints lists a container's places on named networks. Addresses are zero while it does not live.
func (e *Engine) Endpoints(r *Record) []EndpointState {
	var list []EndpointState
	for _, ep := range r.Config.Endpoints {
		state := EndpointState{Endpoint: ep}
		state.IPv4, state.IPv6 = netip.Addr{}, netip.Addr{}
		if n, err := e.store.readNetwork(ep.Network); err == nil {
			for _, m := range e.store.members(n) {
				if m.Container == r.ID {
					state.IPv4, state.IPv6, state.MAC, state.Names = m.IPv4, m.IPv6, m.MAC, m.Names
					state.Gateway4, state.Gateway6 = n.IPv4.Gateway, n.IPv6.Gateway
					state.Bits4, state.Bits6 = n.IPv4.Subnet.Bits(), max(n.IPv6.Subnet.Bits(), 0)
				}
			}
		}
		list = append(list, state)
	}
	return list
}
