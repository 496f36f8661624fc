package usernet

import (
	"fmt"
	"net/netip"
)

// Addresses are who is who on a user-mode network.
type Addresses struct {
	Subnet4                netip.Prefix
	Gateway4, DNS4, Guest4 netip.Addr // DNS4 may be the gateway

	// Subnet6 is the zero prefix on a network without IPv6.
	Subnet6                netip.Prefix
	Gateway6, DNS6, Guest6 netip.Addr
}

// DefaultAddresses are those of a guest that is alone with its gateway.
func DefaultAddresses() Addresses {
	return Addresses{
		Subnet4: Subnet4, Gateway4: Gateway4, DNS4: DNS4, Guest4: Guest4,
		Subnet6: Subnet6, Gateway6: Gateway6, DNS6: DNS6, Guest6: Guest6,
	}
}

func (a *Addresses) check() error {
	check := func(subnet netip.Prefix, is4 bool, gateway, dns, guest netip.Addr) error {
		switch {
		case !subnet.IsValid() || subnet.Addr().Is4() != is4:
			return fmt.Errorf("%w: subnet %v", ErrConfig, subnet)
		case !subnet.Contains(gateway), !subnet.Contains(dns), !subnet.Contains(guest):
			return fmt.Errorf("%w: gateway %v, name server %v and guest %v must be in %v", ErrConfig, gateway, dns, guest, subnet)
		case guest == gateway || guest == dns:
			return fmt.Errorf("%w: the guest's address %v is the gateway's", ErrConfig, guest)
		}
		return nil
	}
	if err := check(a.Subnet4, true, a.Gateway4, a.DNS4, a.Guest4); err != nil {
		return err
	}
	if a.Subnet6 == (netip.Prefix{}) {
		return nil
	}
	return check(a.Subnet6, false, a.Gateway6, a.DNS6, a.Guest6)
}

// has6 tells whether the network has IPv6.
func (a *Addresses) has6() bool { return a.Subnet6.IsValid() }

// inside tells whether an address belongs to the network.
func (a *Addresses) inside(addr netip.Addr) bool {
	return a.Subnet4.Contains(addr) || a.Subnet6.Contains(addr)
}

func (a *Addresses) isGateway4(addr netip.Addr) bool { return addr == a.Gateway4 || addr == a.DNS4 }

// isPeer tells whether an address may be that of another member: one of the network that is neither the guest's nor the
// gateway's, nor that of all of them.
func (a *Addresses) isPeer(addr netip.Addr) bool {
	if addr.Is4() {
		return a.Subnet4.Contains(addr) && addr != a.Guest4 && !a.isGateway4(addr) && addr != a.Subnet4.Masked().Addr() && addr != Broadcast(a.Subnet4)
	}
	// The subnet's own address is that of any router (RFC 4291, 2.6.1).
	return a.Subnet6.Contains(addr) && addr != a.Guest6 && addr != a.Gateway6 && addr != a.DNS6 && addr != a.Subnet6.Masked().Addr()
}

// Broadcast is the last address of an IPv4 subnet.
func Broadcast(subnet netip.Prefix) netip.Addr {
	b := subnet.Masked().Addr().As4()
	for bit := subnet.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}
