package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm/network/usernet"
)

// PortBinding is a port of the host that leads to one of the container.
type PortBinding struct {
	Host netip.AddrPort `json:"host"` // port 0: any that is free
	// HostEnd is the last port of the range that one is to be taken from, which begins with that of Host; 0: no range.
	HostEnd   uint16 `json:"host_end,omitempty"`
	Container uint16 `json:"container"`
	Protocol  string `json:"protocol"` // "tcp" or "udp"
}

func (p PortBinding) String() string {
	return fmt.Sprintf("%s->%d/%s", p.Host, p.Container, p.Protocol)
}

// maxPorts bounds the ports that one container may publish.
const maxPorts = 4096

// ParsePorts reads what -p takes: [[IP:]HOSTPORT:]PORT[/tcp|/udp], where HOSTPORT and PORT may be ranges of the same
// length. Of a range of HOSTPORT for a single PORT one that is free is taken.
func ParsePorts(entry string) ([]PortBinding, error) {
	bad := func(why string) ([]PortBinding, error) {
		return nil, fmt.Errorf("invalid port %q: %s: want [[IP:]HOSTPORT:]PORT[/tcp|/udp]", entry, why)
	}
	rest, protocol, found := strings.Cut(entry, "/")
	if !found {
		protocol = "tcp"
	}
	if protocol != "tcp" && protocol != "udp" {
		return bad(fmt.Sprintf("protocol %q", protocol))
	}
	addr := netip.IPv4Unspecified()
	host, container := "", rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, container = rest[:i], rest[i+1:]
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			text := host[:i]
			host = host[i+1:]
			if inner, ok := strings.CutPrefix(text, "["); ok {
				text = strings.TrimSuffix(inner, "]")
			}
			var err error
			if addr, err = netip.ParseAddr(text); err != nil {
				return bad(fmt.Sprintf("%q is not an IP address", text))
			}
		}
	}
	first, last, err := portRange(container)
	if err != nil {
		return bad(err.Error())
	}
	hostFirst, hostLast := uint16(0), uint16(0)
	if host != "" {
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return bad(err.Error())
		}
		if hostLast-hostFirst != last-first && first != last {
			return bad("the ranges differ in length")
		}
	}
	var list []PortBinding
	for i := range int(last-first) + 1 {
		p := PortBinding{Host: netip.AddrPortFrom(addr, 0), Container: first + uint16(i), Protocol: protocol}
		if host != "" {
			p.Host = netip.AddrPortFrom(addr, hostFirst+uint16(i))
			if first == last && hostFirst != hostLast {
				p.HostEnd = hostLast
			}
		}
		list = append(list, p)
	}
	return list, nil
}

func portRange(s string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	parse := func(s string) uint16 {
		n, perr := strconv.ParseUint(s, 10, 16)
		if perr != nil || n == 0 {
			err = fmt.Errorf("%q is not a port", s)
		}
		return uint16(n)
	}
	first, last = parse(from), parse(to)
	if err == nil && last < first {
		err = fmt.Errorf("range %q runs backwards", s)
	}
	return first, last, err
}

// listen opens the socket of a published port, or of the first that is free in its range. Who finds it taken hears it in
// docker's words.
func (p *PortBinding) listen(ctx context.Context) (*os.File, error) {
	f, err := p.listenOne(ctx)
	for errors.Is(err, unix.EADDRINUSE) && p.Host.Port() < p.HostEnd {
		p.Host = netip.AddrPortFrom(p.Host.Addr(), p.Host.Port()+1)
		f, err = p.listenOne(ctx)
	}
	p.HostEnd = 0
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("publishing port %s: Bind for %s failed: port is already allocated: choose another host port", p, p.Host)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("publishing port %s: ports below 1024 need root: choose another host port", p)
	case err != nil:
		return nil, fmt.Errorf("publishing port %s: %w", p, err)
	}
	return f, nil
}

// listenAll opens the sockets of published ports. Those of ports have the numbers that were free.
func listenAll(ctx context.Context, publish []PortBinding) (sockets []usernet.Publish, ports []PortBinding, err error) {
	ports = slices.Clone(publish)
	for i := range ports {
		socket, err := ports[i].listen(ctx)
		if err != nil {
			closeAll(sockets)
			return nil, nil, err
		}
		sockets = append(sockets, usernet.Publish{Socket: socket, Port: ports[i].Container})
	}
	return sockets, ports, nil
}

func closeAll(sockets []usernet.Publish) {
	for _, p := range sockets {
		p.Socket.Close()
	}
}

func (p *PortBinding) listenOne(ctx context.Context) (*os.File, error) {
	var config net.ListenConfig
	if p.Protocol == "udp" {
		c, err := config.ListenPacket(ctx, "udp", p.Host.String())
		if err != nil {
			return nil, err
		}
		defer c.Close()
		p.Host = netip.AddrPortFrom(p.Host.Addr(), c.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		return c.(*net.UDPConn).File()
	}
	l, err := config.Listen(ctx, "tcp", p.Host.String())
	if err != nil {
		return nil, err
	}
	defer l.Close()
	p.Host = netip.AddrPortFrom(p.Host.Addr(), l.Addr().(*net.TCPAddr).AddrPort().Port())
	return l.(*net.TCPListener).File()
}
