package usernet

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// wire is a guest that sees single frames.
type wire struct {
	t testing.TB
	u *User
}

func newWire(t testing.TB, cfg UserConfig) wire {
	u, err := NewUser(cfg)
	if err != nil {
		t.Fatal(err)
	}
	u.reach = theInternet
	t.Cleanup(func() { u.Close() })
	return wire{t, u}
}

func (w wire) send(frame []byte) { w.u.Send(&[headerSize]byte{}, [][]byte{frame}) }

// receive returns the next frame, or nil if none comes.
func (w wire) receive(patience time.Duration) []byte {
	b := make([]byte, MTU+header.EthernetMinimumSize)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		n, err := w.u.Receive(&[headerSize]byte{}, [][]byte{b})
		if err != nil {
			w.t.Fatal(err)
		}
		if n > 0 {
			return b[:n]
		}
		if time.Now().After(end) {
			return nil
		}
	}
}

func ethernetFrame(kind uint16, payload []byte) []byte {
	b := []byte("\xff\xff\xff\xff\xff\xff" + string(guestMAC))
	b = binary.BigEndian.AppendUint16(b, kind)
	return append(b, payload...)
}

func arpRequest(target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(b, guestMAC...)
	b = append(b, Guest4.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return ethernetFrame(0x0806, append(b, target.AsSlice()...))
}

func TestARPForTheGatewayOnly(t *testing.T) {
	w := newWire(t, UserConfig{})
	w.send(arpRequest(Guest4)) // is my address free?
	w.send(arpRequest(netip.MustParseAddr("10.0.2.99")))
	if f := w.receive(50 * time.Millisecond); f != nil {
		t.Fatalf("an answer for somebody else's address: %x", f)
	}
	w.send(arpRequest(Gateway4))
	f := w.receive(10 * time.Second)
	if f == nil || !bytes.Equal(f[28:32], Gateway4.AsSlice()) || string(f[22:28]) != string(gatewayMAC) {
		t.Errorf("the gateway's answer: %x", f)
	}
}

func dhcpFrame(t *testing.T, options ...dhcpv4.Modifier) []byte {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr([]byte(guestMAC))}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	payload := m.ToBytes()
	datagram := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(datagram[0:], portDHCPClient)
	binary.BigEndian.PutUint16(datagram[2:], portDHCPServer)
	binary.BigEndian.PutUint16(datagram[4:], uint16(8+len(payload)))
	f := frame4(netip.IPv4Unspecified(), broadcast, header.UDPProtocolNumber, append(datagram, payload...))
	return f
}

func TestDHCP(t *testing.T) {
	w := newWire(t, UserConfig{Hostname: "box"})
	exchange := func(options ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		t.Helper()
		w.send(dhcpFrame(t, options...))
		f := w.receive(10 * time.Second)
		if f == nil {
			t.Fatal("no answer")
		}
		m, err := dhcpv4.FromBytes(f[header.EthernetMinimumSize+header.IPv4MinimumSize+header.UDPMinimumSize:])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	offer := exchange(dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	if offer.MessageType() != dhcpv4.MessageTypeOffer || !offer.YourIPAddr.Equal(Guest4.AsSlice()) || offer.HostName() != "box" ||
		!offer.Router()[0].Equal(Gateway4.AsSlice()) || !offer.DNS()[0].Equal(DNS4.AsSlice()) {
		t.Errorf("offer: %s", offer.Summary())
	}
	request := func(ip netip.Addr) *dhcpv4.DHCPv4 {
		return exchange(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip.AsSlice())))
	}
	if ack := request(Guest4); ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(Guest4.AsSlice()) {
		t.Errorf("acknowledgement: %s", ack.Summary())
	}
	if nak := request(netip.MustParseAddr("10.0.2.99")); nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("another address: %s", nak.Summary())
	}
}

// solicit6 is a router solicitation, or neighbor solicitation, from an address.
func solicit6(src, dst netip.Addr, hopLimit byte, icmp []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, hopLimit}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	h := header.IPv6(b)
	c := header.ICMPv6(bytes.Clone(icmp))
	c.SetChecksum(0)
	c.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: c[:4], Src: h.SourceAddress(), Dst: h.DestinationAddress(), PayloadCsum: checksum.Checksum(c[4:], 0), PayloadLen: len(c) - 4,
	}))
	return ethernetFrame(0x86dd, append(b, c...))
}

func TestRouterAdvertisement(t *testing.T) {
	ask := []byte{133, 0, 0, 0, 0, 0, 0, 0}
	for _, tt := range []struct {
		advertise bool
		hopLimit  byte
	}{{true, 255}, {true, 254}, {false, 255}} {
		w := newWire(t, UserConfig{Advertise: tt.advertise})
		w.send(solicit6(netip.MustParseAddr("fe80::1:1"), netip.MustParseAddr("ff02::2"), tt.hopLimit, ask))
		var f []byte
		for f = w.receive(50 * time.Millisecond); f != nil && f[54] != 134; f = w.receive(50 * time.Millisecond) {
		}
		if want := tt.advertise && tt.hopLimit == 255; (f != nil) != want {
			t.Errorf("advertisements %v, hop limit %d: answered: %v", tt.advertise, tt.hopLimit, f != nil)
		}
		if f == nil {
			continue
		}
		ip := header.IPv6(f[14:])
		icmp := header.ICMPv6(ip.Payload())
		if got := header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: icmp[:4], Src: ip.SourceAddress(), Dst: ip.DestinationAddress(), PayloadCsum: checksum.Checksum(icmp[4:], 0), PayloadLen: len(icmp) - 4,
		}); got != icmp.Checksum() {
			t.Errorf("checksum %#x, want %#x", icmp.Checksum(), got)
		}
		ra := header.NDPRouterAdvert(icmp[4:])
		if !ip.IsValid(len(ip)) || ip.HopLimit() != 255 || ra.RouterLifetime() != routerLifetime || ra.ManagedAddrConfFlag() {
			t.Errorf("advertisement %x", f)
		}
		options, err := ra.Options().Iter(true)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for {
			o, done, err := options.Next()
			if err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
			switch o := o.(type) {
			case header.NDPSourceLinkLayerAddressOption:
				seen |= 1
			case header.NDPPrefixInformation:
				if got := o.Prefix(); got == tcpip.AddrFrom16(Subnet6.Addr().As16()) && o.PrefixLength() == 64 && o.OnLinkFlag() && o.AutonomousAddressConfigurationFlag() {
					seen |= 2
				}
			case header.NDPRecursiveDNSServer:
				if list, err := o.Addresses(); err == nil && len(list) == 1 && list[0] == tcpip.AddrFrom16(DNS6.As16()) {
					seen |= 4
				}
			}
		}
		if seen != 7 || !bytes.HasSuffix(f, []byte{5, 1, 0, 0, 0, 0, MTU >> 8, MTU & 0xff}) {
			t.Errorf("options seen: %b; %x", seen, f)
		}
	}
}

// The guest finds the router that has advertised itself; without advertisements there is none.
func TestRouterIsFound(t *testing.T) {
	for _, advertise := range []bool{true, false} {
		w := newWire(t, UserConfig{Advertise: advertise})
		icmp := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, router6.AsSlice()...)
		icmp = append(append(icmp, 1, 1), guestMAC...)
		w.send(solicit6(netip.MustParseAddr("fe80::1:1"), netip.MustParseAddr("ff02::1:ff00:2"), 255, icmp))
		f := w.receive(100 * time.Millisecond)
		for ; f != nil && f[54] != 136; f = w.receive(100 * time.Millisecond) {
		}
		if (f != nil) != advertise {
			t.Errorf("advertisements %v: the router answers: %v", advertise, f != nil)
		}
	}
}

func TestIsGuest6(t *testing.T) {
	for _, advertise := range []bool{true, false} {
		u := &User{cfg: UserConfig{Advertise: advertise, Addresses: DefaultAddresses()}}
		for addr, want := range map[netip.Addr]bool{
			Guest6: true, netip.MustParseAddr("fd00:10:0:2:1:2:3:4"): advertise, Gateway6: false, DNS6: false, router6: false,
			netip.MustParseAddr("fd00:10:0:3::1"): false, netip.MustParseAddr("::"): false,
		} {
			if got := u.isGuest6(addr); got != want {
				t.Errorf("advertisements %v, %v: %v, want %v", advertise, addr, got, want)
			}
		}
	}
}

func TestPing(t *testing.T) {
	fd, _, err := pingSocket()
	if err != nil {
		t.Skipf("this user may not ping: %v", err)
	}
	_ = unix.Close(fd)
	w := newWire(t, UserConfig{})
	for _, to := range []netip.Addr{example, Gateway4} {
		want := []byte{0, 0, 0, 0, 0x12, 0x34, 0, 7, 'd', 'a', 't', 'a'}
		request := bytes.Clone(want)
		request[0] = 8 // echo
		icmp := header.ICMPv4(request)
		icmp.SetChecksum(^checksum.Checksum(icmp, 0))
		w.send(arpReply())
		w.send(frame4(Guest4, to, header.ICMPv4ProtocolNumber, request))
		var f []byte
		for f = w.receive(10 * time.Second); f != nil && header.Ethernet(f).Type() != header.IPv4ProtocolNumber; f = w.receive(10 * time.Second) {
			w.send(arpReply()) // who has the guest's address?
		}
		if f == nil {
			t.Fatalf("%v does not answer", to)
		}
		ip := header.IPv4(f[header.EthernetMinimumSize:])
		got := ip.Payload()
		if src, _ := netip.AddrFromSlice(ip.SourceAddressSlice()); src != to || got[0] != 0 || !bytes.Equal(got[4:], want[4:]) {
			t.Errorf("%v answers %x from %v", to, got, src)
		}
	}
}

// arpReply says where the guest is.
func arpReply() []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	b = append(append(b, guestMAC...), Guest4.AsSlice()...)
	b = append(append(b, gatewayMAC...), Gateway4.AsSlice()...)
	return ethernetFrame(0x0806, b)
}

func TestEchoReply(t *testing.T) {
	asked := header.ICMPv4{8, 0, 0, 0, 0, 1, 0, 2}
	good := []byte{0, 0, 0, 0, 0, 1, 0, 2, 'x'}
	packet := func(icmp []byte) []byte {
		return frame4(example, Guest4, header.ICMPv4ProtocolNumber, icmp)[header.EthernetMinimumSize:]
	}
	for _, tt := range []struct {
		name string
		b    []byte
		raw  bool
		want bool
	}{
		{"answer", good, false, true},
		{"answer with the kernel's identifier", []byte{0, 0, 0, 0, 9, 9, 0, 2}, false, true},
		{"another sequence number", []byte{0, 0, 0, 0, 0, 1, 0, 3}, false, false},
		{"a request", []byte{8, 0, 0, 0, 0, 1, 0, 2}, false, false},
		{"short", good[:7], false, false},
		{"nothing", nil, false, false},
		{"packet", packet(good), true, true},
		{"packet for somebody else", packet([]byte{0, 0, 0, 0, 9, 9, 0, 2}), true, false},
		{"no packet", good, true, false},
		{"packet that is cut", packet(good)[:15], true, false},
	} {
		if got, ok := echoReply(bytes.Clone(tt.b), tt.raw, asked); ok != tt.want || ok && got.Ident() != 1 {
			t.Errorf("%s: %v, %x", tt.name, ok, got)
		}
	}
}

func TestFloodIsBounded(t *testing.T) {
	w := newWire(t, UserConfig{})
	for range 10 * maxQueued {
		w.send(arpRequest(Gateway4))
	}
	n := 0
	for w.receive(20*time.Millisecond) != nil {
		n++
	}
	if n == 0 || n > maxQueued+1 {
		t.Errorf("%d answers were kept for a guest that does not listen, want at most %d", n, maxQueued)
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for port := range uint16(3 * maxFlows / 2) {
		datagram := make([]byte, 8)
		binary.BigEndian.PutUint16(datagram[0:], 1024+port)
		binary.BigEndian.PutUint16(datagram[2:], portOf(silent.LocalAddr()))
		binary.BigEndian.PutUint16(datagram[4:], 8)
		w.send(frame4(Guest4, example, header.UDPProtocolNumber, datagram))
	}
	w.u.flows.mu.Lock()
	defer w.u.flows.mu.Unlock()
	if w.u.flows.free != 0 {
		t.Errorf("%d flows are free after a flood of more than there may be", w.u.flows.free)
	}
}

func FuzzSend(f *testing.F) {
	f.Add(arpRequest(Gateway4))
	f.Add(frame4(Guest4, Gateway4, header.ICMPv4ProtocolNumber, []byte{8, 0, 0, 0, 0, 1, 0, 1}))
	f.Add(frame4(Guest4, Gateway4, header.UDPProtocolNumber, []byte{0, 68, 0, 67, 0, 8, 0, 0}))
	f.Add(frame4(Guest4, Gateway4, header.TCPProtocolNumber, make([]byte, 20)))
	f.Add(solicit6(netip.MustParseAddr("fe80::1:1"), netip.MustParseAddr("ff02::2"), 255, []byte{133, 0, 0, 0, 0, 0, 0, 0}))
	f.Add(ethernetFrame(0x86dd, append([]byte{0x60, 0, 0, 0, 0, 24, 58, 255}, make([]byte, 56)...)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		u, err := NewUser(UserConfig{Advertise: true})
		if err != nil {
			t.Fatal(err)
		}
		u.reach = func(netip.AddrPort) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
		defer u.Close()
		u.Send(&[headerSize]byte{}, [][]byte{frame})
		for range 3 {
			if n, err := u.Receive(&[headerSize]byte{}, [][]byte{make([]byte, MTU+header.EthernetMinimumSize)}); n == 0 || err != nil {
				break
			}
		}
	})
}
