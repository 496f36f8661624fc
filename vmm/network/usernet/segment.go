package usernet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// segment connects a guest with the other members of its network, each of which has a User of its own, in a process of
// its own: nothing is in the middle.
//
// They meet in a directory that only their user can write to. A member listens there on a SOCK_SEQPACKET socket whose name
// is its IPv4 address; a symbolic link with the name of its IPv6 address leads to it. Whoever has a packet for it connects,
// from a socket whose name is its own address and the other's: so each connection carries the packets of one known member, one way,
// and none that comes in any other name is passed on. Messages are IP packets; there are no link addresses between
// members, and so none to forge. To the guest all of them are behind the gateway's.
//
// Sending never waits: packets for a member that is slow wait in a queue, and when that is full they are lost, as on any
// network.
type segment struct {
	u        *User
	dir      string
	listener *net.UnixListener
	queued   atomic.Int64 // bytes that wait for slow members
	count    counters

	mu  sync.Mutex // of what follows
	out map[netip.Addr]*outbound
	in  map[netip.Addr]*net.UnixConn
}

// Bounds on what other members, and a guest that floods them, can have this process keep.
const (
	maxPeers       = 1024    // connections of each direction
	maxPeerPackets = 256     // that wait for one member
	maxPeerBytes   = 8 << 20 // that wait for all of them
)

type counters struct{ sent, received, lost, refused atomic.Uint64 }

// PeerStats counts the packets between a guest and the other members of its network.
type PeerStats struct {
	Sent, Received uint64
	Lost           uint64 // because somebody was slow
	Refused        uint64 // what nobody may send
}

// PeerStats counts since the network was made.
func (u *User) PeerStats() PeerStats {
	if u.segment == nil {
		return PeerStats{}
	}
	c := &u.segment.count
	return PeerStats{Sent: c.sent.Load(), Received: c.received.Load(), Lost: c.lost.Load(), Refused: c.refused.Load()}
}

// outbound is the way to one other member.
type outbound struct {
	conn  *net.UnixConn
	queue chan parcel
	done  chan struct{} // closed when the other end has
}

// parcel is a frame on its way to a member. again says that it was given to a connection that had ended.
type parcel struct {
	*buffer.View
	again bool
}

// joinSegment makes this guest a member of the network whose members meet in dir.
func (u *User) joinSegment(dir string) error {
	s := &segment{u: u, dir: dir, out: make(map[netip.Addr]*outbound), in: make(map[netip.Addr]*net.UnixConn)}
	at := &u.cfg.Addresses
	own := s.path(at.Guest4)
	bad := func(err error) error { return fmt.Errorf("joining the network of %s: %w", at.Guest4, err) }
	// Whoever had the address before is gone: it has been given to this guest.
	if err := os.Remove(own); err != nil && !errors.Is(err, os.ErrNotExist) {
		return bad(err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: own, Net: "unixpacket"})
	if err != nil {
		return bad(err)
	}
	s.listener = l
	if at.has6() {
		link := s.path(at.Guest6)
		err := os.Remove(link)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = os.Symlink(filepath.Base(own), link)
		}
		if err != nil {
			l.Close()
			return bad(err)
		}
	}
	u.segment = s
	if _, ok := u.onClose(s.close); !ok {
		s.close()
		return bad(net.ErrClosed)
	}
	u.run(s.accept)
	return nil
}

func (s *segment) path(a netip.Addr) string { return filepath.Join(s.dir, a.String()) }

// close ends all connections, which ends those who serve them.
func (s *segment) close() {
	if at := &s.u.cfg.Addresses; at.has6() {
		os.Remove(s.path(at.Guest6))
	}
	s.listener.Close() // removes its name
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.out {
		o.conn.Close()
	}
	for _, c := range s.in {
		c.Close()
	}
	s.out, s.in = nil, nil
}

// toPeer passes a frame of the guest on to another member if it is for one. The frame is the segment's then.
func (u *User) toPeer(h *[headerSize]byte, b *buffer.View) bool {
	frame := b.AsSlice()
	if u.segment == nil || len(frame) < header.EthernetMinimumSize {
		return false
	}
	at := &u.cfg.Addresses
	src, dst, length, ok := ends(frame[header.EthernetMinimumSize:], header.Ethernet(frame).Type())
	if !ok || !at.isPeer(dst) || src != at.Guest4 && src != at.Guest6 {
		return false
	}
	u.learn(frame[6:12])
	fillChecksum(h, frame)
	b.CapLength(header.EthernetMinimumSize + length) // without padding
	u.segment.send(dst, parcel{View: b})
	return true
}

// ends tells where an IP packet comes from and goes to, and how long it is. ok is false for anything else.
func ends(packet []byte, kind tcpip.NetworkProtocolNumber) (src, dst netip.Addr, length int, ok bool) {
	switch kind {
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(packet)
		if !ip.IsValid(len(packet)) {
			return
		}
		src, _ = netip.AddrFromSlice(ip.SourceAddressSlice())
		dst, _ = netip.AddrFromSlice(ip.DestinationAddressSlice())
		return src, dst, int(ip.TotalLength()), true
	case header.IPv6ProtocolNumber:
		ip := header.IPv6(packet)
		if !ip.IsValid(len(packet)) {
			return
		}
		src, _ = netip.AddrFromSlice(ip.SourceAddressSlice())
		dst, _ = netip.AddrFromSlice(ip.DestinationAddressSlice())
		return src, dst, header.IPv6MinimumSize + int(ip.PayloadLength()), true
	}
	return
}

// The guest may leave a checksum to its device (VIRTIO 1.2, 5.1.6.2): VIRTIO_NET_HDR_F_NEEDS_CSUM, and where in the
// header it says which.
const (
	headerNeedsChecksum = 1
	headerChecksumStart = 6
	headerChecksumAt    = 8
)

// fillChecksum computes the checksum that the guest has left to its device: the other guest is told that it is right.
func fillChecksum(h *[headerSize]byte, frame []byte) {
	if h[0]&headerNeedsChecksum == 0 {
		return
	}
	start := int(binary.LittleEndian.Uint16(h[headerChecksumStart:]))
	at := start + int(binary.LittleEndian.Uint16(h[headerChecksumAt:]))
	if start < header.EthernetMinimumSize || at+2 > len(frame) {
		return
	}
	sum := ^checksum.Checksum(frame[start:], 0)
	if sum == 0 {
		sum = 0xffff // 0 is "none" to UDP
	}
	binary.BigEndian.PutUint16(frame[at:], sum)
}

// send gives a frame to the member that has the address.
func (s *segment) send(dst netip.Addr, b parcel) {
	for range 2 { // the connection that is found may just have ended
		o, err := s.outbound(dst)
		if err != nil {
			s.unreachable(b.AsSlice()[header.EthernetMinimumSize:])
			b.Release()
			return
		}
		if ended, queued := s.enqueue(o, b); queued {
			return
		} else if !ended {
			break
		}
	}
	s.count.lost.Add(1)
	b.Release()
}

// enqueue puts a frame into a queue if there is room. Into that of a connection that has ended nothing is put: nobody
// would take it out.
func (s *segment) enqueue(o *outbound, b parcel) (ended, queued bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-o.done:
		return true, false
	default:
	}
	size := int64(b.Size())
	if s.queued.Add(size) <= maxPeerBytes {
		select {
		case o.queue <- b:
			return false, true
		default:
		}
	}
	s.queued.Add(-size)
	return false, false
}

var errNoMember = errors.New("nobody has this address")

// member knows the addresses of a member.
type member struct {
	dir   string
	peer  netip.Addr
	addr6 netip.Addr // zero: not known yet
}

// is tells whether the member may send from an address.
func (m *member) is(src netip.Addr) bool {
	if src.Is6() && !m.addr6.IsValid() {
		if name, err := os.Readlink(filepath.Join(m.dir, src.String())); err == nil && name == m.peer.String() {
			m.addr6 = src
		}
	}
	return src == m.peer || src == m.addr6
}

// fromPeer makes a frame for the guest of a packet that lies behind room for its link addresses, if the member may
// send it.
func (s *segment) fromPeer(from *member, frame []byte) (_ []byte, ok bool) {
	packet := frame[header.EthernetMinimumSize:]
	if len(packet) == 0 || len(packet) > MTU {
		return nil, false
	}
	kind := header.IPv4ProtocolNumber
	if packet[0]>>4 == header.IPv6Version {
		kind = header.IPv6ProtocolNumber
	}
	src, dst, length, ok := ends(packet, kind)
	at := &s.u.cfg.Addresses
	if !ok || length != len(packet) || dst != at.Guest4 && (dst != at.Guest6 || !at.has6()) || !at.isPeer(src) || !from.is(src) {
		return nil, false
	}
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: gatewayMAC, DstAddr: s.u.linkAddress(), Type: kind})
	return frame, true
}

// learn notes the guest's link address.
func (u *User) learn(mac []byte) {
	var b [8]byte
	copy(b[2:], mac)
	if v := binary.BigEndian.Uint64(b[:]); mac[0]&1 == 0 && v != u.guestMAC.Load() {
		u.guestMAC.Store(v)
	}
}

func (u *User) linkAddress() tcpip.LinkAddress {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], u.guestMAC.Load())
	return tcpip.LinkAddress(b[2:])
}

// advertiseNeighbor tells the guest that another member of its network is behind the gateway's link address, which the
// stack says of IPv4 addresses only (RFC 4861, 4.4).
func (u *User) advertiseNeighbor(target netip.Addr) {
	b := make([]byte, header.ICMPv6NeighborAdvertMinimumSize, header.ICMPv6NeighborAdvertMinimumSize+8)
	b = append(append(b, optionTargetLinkAddress, 1), gatewayMAC...)
	icmp := header.ICMPv6(b)
	icmp.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(icmp.MessageBody())
	na.SetSolicitedFlag(true)
	na.SetOverrideFlag(true)
	na.SetTargetAddress(tcpip.AddrFrom16(target.As16()))
	u.toGuest(frame6(target, u.cfg.Addresses.Guest6, ndpHopLimit, u.linkAddress(), icmp))
}

const optionTargetLinkAddress = 2 // RFC 4861, 4.6.1

// Of ICMP (RFC 792) and ICMPv6 (RFC 4443, 3.1): how much of a packet goes back with the news that nobody is there. Any
// more would be more than what was sent.
const unreachableQuote = 64

// unreachable tells the guest that nobody has the address of its packet, at once: it need not wait for the end of its
// patience.
func (s *segment) unreachable(packet []byte) {
	at := &s.u.cfg.Addresses
	quote := packet[:min(len(packet), unreachableQuote)]
	var frame []byte
	if ip := header.IPv4(packet); packet[0]>>4 == header.IPv4Version {
		// Nothing is said about errors, nor about later fragments (RFC 1122, 3.2.2).
		if p := ip.Payload(); ip.FragmentOffset() != 0 || ip.TransportProtocol() == header.ICMPv4ProtocolNumber &&
			(len(p) < header.ICMPv4MinimumSize || header.ICMPv4(p).Type() != header.ICMPv4Echo) {
			return
		}
		b := append(make([]byte, header.ICMPv4MinimumSize), quote...)
		icmp := header.ICMPv4(b)
		icmp.SetType(header.ICMPv4DstUnreachable)
		icmp.SetCode(header.ICMPv4HostUnreachable)
		icmp.SetChecksum(^checksum.Checksum(b, 0))
		frame = frame4(at.Gateway4, at.Guest4, header.ICMPv4ProtocolNumber, b)
	} else {
		ip := header.IPv6(packet)
		if p := ip.Payload(); ip.TransportProtocol() == header.ICMPv6ProtocolNumber &&
			(len(p) < header.ICMPv6MinimumSize || header.ICMPv6(p).Type() != header.ICMPv6EchoRequest) {
			return
		}
		b := append(make([]byte, header.ICMPv6DstUnreachableMinimumSize), quote...)
		icmp := header.ICMPv6(b)
		icmp.SetType(header.ICMPv6DstUnreachable)
		icmp.SetCode(header.ICMPv6AddressUnreachable)
		frame = frame6(at.Gateway6, at.Guest6, 64, header.EthernetBroadcastAddress, icmp)
	}
	copy(frame, s.u.linkAddress())
	s.u.toGuest(frame)
}
