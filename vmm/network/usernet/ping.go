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

// pings are echo requests on their way: a socket each.
type pings struct{ slots slots }

func (p *pings) init() { p.slots.free = maxPings }

// ping sends an ICMP echo request of the guest from this host, and the answer back. Where that is not allowed (to those
// who are neither root nor in net.ipv4.ping_group_range) there is none, as from a host that drops them.
func (u *User) ping(to netip.Addr, request []byte) {
	dst, _, ok := u.destination(netip.AddrPortFrom(to, 1)) // any port: only the address counts
	if !ok || !u.pings.slots.take() {
		return
	}
	request = append([]byte(nil), request...)
	if !u.run(func() {
		defer u.pings.slots.give()
		u.forwardPing(to, dst.Addr(), request)
	}) {
		u.pings.slots.give()
	}
}

// forwardPing asks the address dst for what the guest knows as to.
func (u *User) forwardPing(to, dst netip.Addr, request []byte) {
	fd, raw, err := pingSocket()
	if err != nil {
		return
	}
	end := sync.OnceFunc(func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) })
	forget, ok := u.onClose(end)
	defer unix.Close(fd)
	if !ok {
		return
	}
	defer forget()
	timeout := unix.NsecToTimeval(int64(pingTimeout))
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout) != nil ||
		unix.Connect(fd, &unix.SockaddrInet4{Addr: dst.As4()}) != nil {
		return
	}
	asked := header.ICMPv4(request)
	if raw { // the kernel sends it as it is, and the guest may leave checksums to its device
		asked.SetChecksum(0)
		asked.SetChecksum(^checksum.Checksum(asked, 0))
	}
	if _, err := unix.Write(fd, request); err != nil {
		return
	}
	buf := make([]byte, maxDatagram)
	for deadline := time.Now().Add(pingTimeout); time.Now().Before(deadline); {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return
		}
		if reply, ok := echoReply(buf[:n], raw, asked); ok {
			u.toGuest(frame4(to, u.cfg.Addresses.Guest4, header.ICMPv4ProtocolNumber, reply))
			return
		}
	}
}

// pingSocket is a socket for echo requests: one that needs no privileges, where the user may have it, else a raw one.
func pingSocket() (fd int, raw bool, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err == nil {
		return fd, false, nil
	}
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	return fd, true, err
}

// echoReply finds the answer to a request in what a socket has read. A raw socket gives whole packets, among them those that are
// for others; the kernel gives the request of the other kind an identifier of its own, and takes just its answers.
func echoReply(b []byte, raw bool, asked header.ICMPv4) (header.ICMPv4, bool) {
	if raw {
		ip := header.IPv4(b)
		if !ip.IsValid(len(b)) {
			return nil, false
		}
		b = ip.Payload()
	}
	icmp := header.ICMPv4(b)
	if len(icmp) < header.ICMPv4MinimumSize || icmp.Type() != header.ICMPv4EchoReply || icmp.Sequence() != asked.Sequence() ||
		raw && icmp.Ident() != asked.Ident() {
		return nil, false
	}
	icmp.SetIdent(asked.Ident())
	icmp.SetChecksum(0)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return icmp, true
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
