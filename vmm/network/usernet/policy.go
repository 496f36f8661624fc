package usernet

import (
	"net/netip"
	"sync"
)

// refused are what no guest reaches through this host, whatever listens there: the host itself (loopback), the
// networks of this link, among them the metadata services of clouds, and what has no single destination.
var refused = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast, reserved, broadcast
	netip.MustParsePrefix("::/127"),      // unspecified and loopback
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("ff00::/8"),
	// An address of the other kind in disguise (RFC 4291, 6052): the kernel or a router on the way would undo it.
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"),
	Subnet4, Subnet6,
}

// outside tells where a guest's packet to an address goes; ok is false if nowhere.
func outside(to netip.AddrPort) (_ netip.AddrPort, ok bool) {
	addr := to.Addr().Unmap() // ::ffff:127.0.0.1 is the loopback too
	if !addr.IsValid() || to.Port() == 0 {
		return netip.AddrPort{}, false
	}
	for _, p := range refused {
		if p.Contains(addr) {
			return netip.AddrPort{}, false
		}
	}
	return netip.AddrPortFrom(addr, to.Port()), true
}

const portDNS = 53

// destination is where a guest's connection or datagram goes: outside, or for the gateway's own name server to
// one of the host's. silent is to be called if it does not answer.
func (u *User) destination(to netip.AddrPort) (_ netip.AddrPort, silent func(), ok bool) {
	if u.isDNS(to) {
		return u.upstream()
	}
	if u.internal {
		return netip.AddrPort{}, nil, false
	}
	dst, ok := u.reach(to)
	if ok && (u.cfg.Addresses.inside(dst.Addr()) || u.cfg.Refuse != nil && u.cfg.Refuse(dst.Addr())) {
		return netip.AddrPort{}, nil, false
	}
	return dst, func() {}, ok
}

// isDNS tells whether something is for the gateway's name server.
func (u *User) isDNS(to netip.AddrPort) bool {
	return to.Port() == portDNS && (to.Addr() == u.cfg.Addresses.DNS4 || u.cfg.Addresses.has6() && to.Addr() == u.cfg.Addresses.DNS6)
}

// resolvers are the host's name servers. One that does not answer gives way to the next.
type resolvers struct {
	servers []netip.AddrPort
	mu      sync.Mutex
	current int
}

func (r *resolvers) pick() (_ netip.AddrPort, silent func(), ok bool) {
	if len(r.servers) == 0 {
		return netip.AddrPort{}, nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.current
	return r.servers[i], func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.current == i {
			r.current = (i + 1) % len(r.servers)
		}
	}, true
}
