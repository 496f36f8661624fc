package usernet

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// pingTimeout is how long an echo is waited for.
const pingTimeout = 10 * time.Second

// pings are echo requests on their way: a socket each, of the kind that needs no privileges (its users are those in
// net.ipv4.ping_group_range).
type pings struct{ slots slots }

func (p *pings) init() { p.slots.free = maxPings }

// ping sends an ICMP echo request of the guest from this host, and the answer back. Where that is not allowed there is
// none, as from a host that drops them.
func (u *User) ping(to netip.Addr, request []byte) {
	dst, ok := u.reach(netip.AddrPortFrom(to, 1)) // any port: only the address counts
	if !ok || !u.pings.slots.take() {
		return
	}
	request = append([]byte(nil), request...)
	if !u.run(func() {
		defer u.pings.slots.give()
		u.forwardPing(dst.Addr(), request)
	}) {
		u.pings.slots.give()
	}
}

func (u *User) forwardPing(to netip.Addr, request []byte) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return
	}
	var once sync.Once
	end := func() { once.Do(func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) }) }
	forget, ok := u.onClose(end)
	defer unix.Close(fd)
	if !ok {
		return
	}
	defer forget()
	timeout := unix.NsecToTimeval(int64(pingTimeout))
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout) != nil ||
		unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4()}) != nil {
		return
	}
	// The kernel puts an identifier of its own into the request, and takes only answers to that.
	if _, err := unix.Write(fd, request); err != nil {
		return
	}
	reply := make([]byte, maxDatagram)
	n, err := unix.Read(fd, reply)
	if err != nil || n < header.ICMPv4MinimumSize {
		return
	}
	icmp := header.ICMPv4(reply[:n])
	icmp.SetIdent(header.ICMPv4(request).Ident())
	icmp.SetChecksum(0)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	u.toGuest(frame4(to, Guest4, header.ICMPv4ProtocolNumber, icmp))
}

// frame4 is an Ethernet frame from the gateway to the guest with an IPv4 packet in it.
func frame4(src, dst netip.Addr, protocol tcpip.TransportProtocolNumber, payload []byte) []byte {
	b := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+len(payload))
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: gatewayMAC, DstAddr: header.EthernetBroadcastAddress, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(b[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + len(payload)), TTL: 64, Protocol: uint8(protocol),
		SrcAddr: tcpip.AddrFrom4(src.As4()), DstAddr: tcpip.AddrFrom4(dst.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	copy(ip.Payload(), payload)
	return b
}
