package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// networkFlags are the flags of a VM's network as they were given.
type networkFlags struct {
	network, mac string
	publish, dns []string
	ip, ip6      string
	gateways     []string

	// Of containers only.
	container  bool
	aliases    []string
	publishAll bool
	expose     []string
}

// register defines the flags; network is what the network is without them.
func (f *networkFlags) register(flags *pflag.FlagSet, network string) {
	flags.StringVar(&f.network, "network", network, "`Network`: user (out to the world, in by -p), tap=NAME (a tap interface of this host) or none")
	flags.StringVar(&f.network, "net", network, "")
	_ = flags.MarkHidden("net") // the flag exists
	flags.StringArrayVarP(&f.publish, "publish", "p", nil, "Publish a port: [[`IP:]HOSTPORT:]PORT[/udp]`")
	flags.StringVar(&f.mac, "mac-address", "", "MAC `address` of the network card")
}

// registerContainer defines those that say what the guest's agent sets up.
func (f *networkFlags) registerContainer(flags *pflag.FlagSet) {
	f.container = true
	flags.Lookup("network").Usage = "`Network`: user (out to the world, in by -p), one made by hull network create, tap=NAME (a tap interface of this host) or none"
	flags.StringArrayVar(&f.aliases, "network-alias", nil, "Another `name` of the container on its network")
	flags.BoolVarP(&f.publishAll, "publish-all", "P", false, "Publish all ports that the image exposes, at ports that are free")
	flags.StringArrayVar(&f.expose, "expose", nil, "Add a `port` to those that the image exposes")
	flags.StringArrayVar(&f.dns, "dns", nil, "Ask this name server: an `address`, instead of the host's")
	flags.StringVar(&f.ip, "ip", "", "IPv4 `address` on a network; on a tap interface with its prefix, such as 192.0.2.2/24")
	flags.StringVar(&f.ip6, "ip6", "", "IPv6 `address` on a network; on a tap interface with its prefix")
	flags.StringArrayVar(&f.gateways, "gateway", nil, "Reach the world by this `address` on a tap interface")
}

// config reads the flags.
func (f *networkFlags) config() (engine.NetworkConfig, error) {
	c := engine.NetworkConfig{Network: f.network, PublishAll: f.publishAll, Expose: f.expose}
	switch c.Network {
	case "bridge", "default": // what scripts written for docker ask for
		c.Network = engine.NetworkUser
	}
	if f.container && engine.IsNamedNetwork(c.Network) {
		c.Endpoints = []engine.Endpoint{{Name: c.Network, Aliases: f.aliases}}
	} else if err := engine.CheckNetwork(c.Network); err != nil {
		return c, err
	} else if len(f.aliases) > 0 {
		return c, errors.New("network-scoped aliases are only supported for user-defined networks")
	}
	for _, entry := range f.expose {
		if _, err := engine.ParseExposed(entry); err != nil {
			return c, err
		}
	}
	for _, entry := range f.publish {
		list, err := engine.ParsePorts(entry)
		if err != nil {
			return c, err
		}
		c.Ports = append(c.Ports, list...)
	}
	for _, entry := range f.dns {
		addr, err := netip.ParseAddr(entry)
		if err != nil {
			return c, fmt.Errorf("--dns %q: not an IP address", entry)
		}
		c.DNS = append(c.DNS, addr)
	}
	if err := f.addresses(&c); err != nil {
		return c, err
	}
	for _, entry := range f.gateways {
		addr, err := netip.ParseAddr(entry)
		if err != nil {
			return c, fmt.Errorf("--gateway %q: not an IP address", entry)
		}
		c.Gateways = append(c.Gateways, addr)
	}
	if f.mac != "" {
		var err error
		if c.MAC, err = engine.ParseMAC(f.mac); err != nil {
			return c, fmt.Errorf("--mac-address: %w", err)
		}
	}
	for i := range c.Endpoints {
		c.Endpoints[i].MAC = c.MAC
	}
	return c, nil
}

// addresses reads --ip and --ip6.
func (f *networkFlags) addresses(c *engine.NetworkConfig) error {
	for _, given := range []struct {
		flag, value string
		is4         bool
	}{{"--ip", f.ip, true}, {"--ip6", f.ip6, false}} {
		if given.value == "" {
			continue
		}
		if len(c.Endpoints) > 0 {
			if err := setAddress(&c.Endpoints[0], given.flag, given.value, given.is4); err != nil {
				return err
			}
			continue
		}
		prefix, err := netip.ParsePrefix(given.value)
		switch {
		case c.Network == engine.NetworkUser || c.Network == engine.NetworkNone:
			return errors.New("user specified IP address is supported on user defined networks only")
		case err != nil || prefix.Addr().Is4() != given.is4:
			return fmt.Errorf("%s %q: want an address and the length of its network's prefix, such as 192.0.2.2/24 or 2001:db8::2/64", given.flag, given.value)
		}
		c.Addresses = append(c.Addresses, prefix)
	}
	return nil
}

// setAddress reads an address that a container is to have on a network.
func setAddress(ep *engine.Endpoint, flag, value string, is4 bool) error {
	addr, err := netip.ParseAddr(value)
	if err != nil || addr.Is4() != is4 || addr.Zone() != "" || addr.Is4In6() {
		return fmt.Errorf("%s %q: not an IPv%d address", flag, value, map[bool]int{true: 4, false: 6}[is4])
	}
	if is4 {
		ep.IPv4 = addr
	} else {
		ep.IPv6 = addr
	}
	return nil
}
