package main

import (
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
	flags.StringArrayVar(&f.dns, "dns", nil, "Ask this name server: an `address`, instead of the host's")
	flags.StringVar(&f.ip, "ip", "", "IPv4 address on a tap interface: `ADDRESS/BITS`, such as 192.0.2.2/24")
	flags.StringVar(&f.ip6, "ip6", "", "IPv6 address on a tap interface: `ADDRESS/BITS`")
	flags.StringArrayVar(&f.gateways, "gateway", nil, "Reach the world by this `address` on a tap interface")
}

// config reads the flags.
func (f *networkFlags) config() (engine.NetworkConfig, error) {
	c := engine.NetworkConfig{Network: f.network}
	switch c.Network {
	case "bridge", "default": // what scripts written for docker ask for
		c.Network = engine.NetworkUser
	}
	if err := engine.CheckNetwork(c.Network); err != nil {
		return c, err
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
	for _, given := range []struct {
		flag, value string
		is4         bool
	}{{"--ip", f.ip, true}, {"--ip6", f.ip6, false}} {
		if given.value == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(given.value)
		if err != nil || prefix.Addr().Is4() != given.is4 {
			return c, fmt.Errorf("%s %q: want an address and the length of its network's prefix, such as 192.0.2.2/24 or 2001:db8::2/64", given.flag, given.value)
		}
		c.Addresses = append(c.Addresses, prefix)
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
	return c, nil
}
