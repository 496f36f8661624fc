package engine

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/hullvm/hull/vmm/network/usernet"
)

// Pool are the addresses of a network of one family.
type Pool struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
	// Range is where addresses are handed out from; zero for all of Subnet.
	Range netip.Prefix `json:"range,omitzero"`
}

// check checks a pool that the user has described, perhaps only in part.
func (p *Pool) check(is4 bool) error {
	if !p.Subnet.IsValid() {
		if p.Gateway.IsValid() || p.Range.IsValid() {
			return errors.New("a gateway and a range need a subnet: every ip-range or gateway must have a corresponding subnet")
		}
		return nil
	}
	hosts := p.Subnet.Addr().BitLen() - p.Subnet.Bits()
	switch {
	case p.Subnet.Addr().Is4() != is4:
		return fmt.Errorf("subnet %s: wrong family", p.Subnet)
	case p.Subnet.Masked() != p.Subnet:
		return fmt.Errorf("subnet %s: it has host bits: write %s", p.Subnet, p.Subnet.Masked())
	case hosts < 2 || p.Subnet.Bits() < 8:
		return fmt.Errorf("subnet %s: its prefix must be 8 to %d bits long", p.Subnet, p.Subnet.Addr().BitLen()-2)
	case p.Subnet.Addr().IsMulticast(), p.Subnet.Addr().IsLoopback(), p.Subnet.Addr().IsLinkLocalUnicast(), p.Subnet.Addr().IsUnspecified():
		return fmt.Errorf("subnet %s: not one that hosts can have", p.Subnet)
	case p.Range.IsValid() && (p.Range.Masked() != p.Range || !p.Subnet.Contains(p.Range.Addr()) || p.Range.Bits() < p.Subnet.Bits()):
		return fmt.Errorf("ip-range %s: not within the subnet %s", p.Range, p.Subnet)
	}
	if !p.Gateway.IsValid() {
		p.Gateway = p.Subnet.Addr().Next()
	}
	if !p.usable(p.Gateway) {
		return fmt.Errorf("gateway %s: no address of a host in the subnet %s", p.Gateway, p.Subnet)
	}
	return nil
}

// usable tells whether an address is one that a host of the subnet can have.
func (p *Pool) usable(a netip.Addr) bool {
	return p.Subnet.Contains(a) && a != p.Subnet.Addr() && (a.Is6() || a != usernet.Broadcast(p.Subnet))
}

// choose sets the subnets that are left out, so that they meet no other network's nor one that this host reaches
// otherwise: that is what containers would not reach any more. What the user has chosen may not meet those of other networks.
func (n *Network) choose(all []*Network, host []netip.Prefix) error {
	taken := []netip.Prefix{usernet.Subnet4, usernet.Subnet6}
	for _, other := range all {
		if other.Name == n.Name {
			return fmt.Errorf("network with name %s %w", n.Name, ErrNetworkExists)
		}
		taken = append(taken, other.IPv4.Subnet, other.IPv6.Subnet)
	}
	meets := func(list []netip.Prefix, p netip.Prefix) bool {
		return slices.ContainsFunc(list, func(o netip.Prefix) bool { return o.IsValid() && o.Overlaps(p) })
	}
	if n.Fixed = n.IPv4.Subnet.IsValid(); !n.Fixed {
		pools := defaultPools()
		i := slices.IndexFunc(pools, func(p netip.Prefix) bool { return !meets(taken, p) && !meets(host, p) })
		if i < 0 {
			return errors.New("all predefined address pools have been fully subnetted: remove networks, or give one with --subnet")
		}
		n.IPv4 = Pool{Subnet: pools[i], Gateway: pools[i].Addr().Next()}
	} else if meets(taken, n.IPv4.Subnet) {
		return fmt.Errorf("subnet %s: %w", n.IPv4.Subnet, ErrOverlap)
	}
	if n.IPv6.Subnet.IsValid() && meets(taken, n.IPv6.Subnet) {
		return fmt.Errorf("subnet %s: %w", n.IPv6.Subnet, ErrOverlap)
	}
	return nil
}

// defaultPools are docker's pools of IPv4 addresses.
func defaultPools() []netip.Prefix {
	var list []netip.Prefix
	for b := byte(18); b < 32; b++ {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, b, 0, 0}), 16))
	}
	for b := 0; b < 256; b += 16 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(b), 0}), 20))
	}
	return list
}

// RandomPool6 is a subnet of IPv6 that nobody else has chosen (RFC 4193).
func RandomPool6() Pool {
	b := [16]byte{0xfd}
	rand.Read(b[1:6]) // never fails
	subnet := netip.PrefixFrom(netip.AddrFrom16(b), 64)
	return Pool{Subnet: subnet, Gateway: subnet.Addr().Next()}
}

// hostRoutes are the IPv4 networks that this host has routes to, but for the default one.
func hostRoutes() []netip.Prefix {
	data, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil // a host without a network is none to collide with
	}
	return parseRoutes(string(data))
}

// parseRoutes reads /proc/net/route: the second column is the destination, the eighth its mask, both in hex, in the host's byte order.
func parseRoutes(table string) []netip.Prefix {
	var list []netip.Prefix
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 8 {
			continue
		}
		dst, err1 := hex.DecodeString(fields[1])
		mask, err2 := hex.DecodeString(fields[7])
		if err1 != nil || err2 != nil || len(dst) != 4 || len(mask) != 4 {
			continue // the heading
		}
		bits := 0
		for m := binary.LittleEndian.Uint32(mask); m&0x80000000 != 0; m <<= 1 {
			bits++
		}
		slices.Reverse(dst)
		if bits > 0 {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte(dst)), bits))
		}
	}
	return list
}
