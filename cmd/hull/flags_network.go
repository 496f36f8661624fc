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
}

// register defines the flags; network is what the network is without them.
func (f *networkFlags) register(flags *pflag.FlagSet, network string) {
	flags.StringVar(&f.network, "network", network, "`Network`: user (out to the world, in by -p) or none")
	flags.StringVar(&f.network, "net", network, "")
	_ = flags.MarkHidden("net") // the flag exists
	flags.StringArrayVarP(&f.publish, "publish", "p", nil, "Publish a port: [[`IP:]HOSTPORT:]PORT[/udp]`")
	flags.StringVar(&f.mac, "mac-address", "", "MAC `address` of the network card")
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
	if f.mac != "" {
		var err error
		if c.MAC, err = engine.ParseMAC(f.mac); err != nil {
			return c, fmt.Errorf("--mac-address: %w", err)
		}
	}
	return c, nil
}
