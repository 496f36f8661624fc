package usernet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// addressesOf are those of host number n on network number net.
func addressesOf(net, n byte) Addresses {
	v4 := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{172, 30, net, n}) }
	v6 := func(n byte) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 0x30, 7: net, 15: n}) }
	return Addresses{
		Subnet4: netip.PrefixFrom(v4(0), 24), Gateway4: v4(1), DNS4: v4(1), Guest4: v4(n),
		Subnet6: netip.PrefixFrom(v6(0), 64), Gateway6: v6(1), DNS6: v6(1), Guest6: v6(n),
	}
}

// segmentDir is a directory that members can meet in, with a path short enough for sockets.
func segmentDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "seg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func memberConfig(dir string, net, n byte) UserConfig {
	return UserConfig{Addresses: addressesOf(net, n), Segment: dir, MAC: [6]byte([]byte(guestMAC))}
}

// echoing has a guest send back what comes to its port 7, by TCP and UDP, of IPv4 and IPv6.
func echoing(t testing.TB, s *stack.Stack, at Addresses) {
	t.Helper()
	for addr, protocol := range map[netip.Addr]tcpip.NetworkProtocolNumber{at.Guest4: ipv4.ProtocolNumber, at.Guest6: ipv6.ProtocolNumber} {
		var group sync.WaitGroup
		l, err := gonet.ListenTCP(s, full(addr, 7), protocol)
		if err != nil {
			t.Fatal(err)
		}
		local := full(addr, 7)
		u, err := gonet.DialUDP(s, &local, nil, protocol)
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				group.Go(func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				})
			}
		})
		group.Go(func() {
			b := make([]byte, maxDatagram)
			for {
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(b[:n], from)
			}
		})
		t.Cleanup(func() { l.Close(); _ = u.SetReadDeadline(time.Now()); group.Wait(); u.Close() })
	}
}

// Two guests, each with a stack, reach one another by TCP, UDP and ICMP.
func TestSegment(t *testing.T) {
	dir := segmentDir(t)
	ua, a := network(t, memberConfig(dir, 1, 2))
	ub, b := network(t, memberConfig(dir, 1, 3))
	atA, atB := ua.cfg.Addresses, ub.cfg.Addresses
	echoing(t, b, atB)
	echoing(t, a, atA)
	for name, to := range map[string]netip.Addr{"IPv4": atB.Guest4, "IPv6": atB.Guest6} {
		conn, err := dial(t, a, to, 7)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := make([]byte, 5<<20)
		rand.Read(want)
		var writer sync.WaitGroup
		writer.Go(func() {
			if _, err := conn.Write(want); err != nil {
				t.Error(err)
			}
			_ = conn.CloseWrite()
		})
		got, err := io.ReadAll(conn)
		writer.Wait()
		conn.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d of %d bytes came back: %v", name, len(got), len(want), err)
		}
	}
	remote := full(atA.Guest4, 7)
	udp, err := gonet.DialUDP(b, nil, &remote, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if got := ask(t, udp, "the other way"); got != "the other way" {
		t.Errorf("UDP: %q", got)
	}
	if got := pingOnce(t, a, atA.Guest4, atB.Guest4); got != nil {
		t.Error(got)
	}
	if got := pingOnce(t, b, atB.Guest6, atA.Guest6); got != nil {
		t.Error(got)
	}
	// The gateway is everybody's own.
	if got := pingOnce(t, a, atA.Guest4, atA.Gateway4); got != nil {
		t.Error(got)
	}
	if s := ua.PeerStats(); s.Sent == 0 || s.Received == 0 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

// pingOnce sends an echo request and waits for the answer.
func pingOnce(t testing.TB, s *stack.Stack, from, to netip.Addr) error {
	t.Helper()
	var queue waiter.Queue
	transport, protocol := icmp.ProtocolNumber4, ipv4.ProtocolNumber
	request := []byte{8, 0, 0, 0, 0, 0, 0, 1, 'h', 'i'}
	if to.Is6() {
		transport, protocol = icmp.ProtocolNumber6, ipv6.ProtocolNumber
		request[0] = 128
	}
	ep, err := s.NewEndpoint(transport, protocol, &queue)
	if err != nil {
		t.Fatal(err)
	}
	defer ep.Close()
	if err := ep.Bind(full(from, 0)); err != nil {
		t.Fatal(err)
	}
	if err := ep.Connect(full(to, 0)); err != nil {
		return errors.New(err.String())
	}
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	if _, err := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); err != nil {
		return errors.New(err.String())
	}
	select {
	case <-readable:
	case <-soon(t).Done():
		return errors.New("no answer from " + to.String())
	}
	var reply bytes.Buffer
	if _, err := ep.Read(&reply, tcpip.ReadOptions{}); err != nil {
		return errors.New(err.String())
	}
	if b := reply.Bytes(); len(b) < 10 || string(b[8:]) != "hi" {
		return errors.New("the answer is another")
	}
	return nil
}

// Where nobody is a guest is told so, long before its patience ends; when somebody comes the way is there.
func TestSegmentUnreachable(t *testing.T) {
	dir := segmentDir(t)
	_, a := network(t, memberConfig(dir, 1, 2))
	at := addressesOf(1, 3)
	nobody := func(what string) {
		t.Helper()
		c, err := dial(t, a, at.Guest4, 7)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "no route") {
			t.Errorf("%s: %v, want that nobody is reached", what, err)
		}
	}
	nobody("never there")
	// A member that was killed leaves its socket.
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, at.Guest4.String()), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	nobody("killed")
	for range 2 { // it comes, goes, and comes again
		t.Run("", func(t *testing.T) {
			_, b := network(t, memberConfig(dir, 1, 3))
			echoing(t, b, at)
			remote := full(at.Guest4, 7)
			udp, err := gonet.DialUDP(a, nil, &remote, ipv4.ProtocolNumber)
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			if got := ask(t, udp, "there?"); got != "there?" {
				t.Errorf("%q", got)
			}
		})
	}
}

// Members of different networks do not reach one another, whatever the guest's routes say, nor does one that is alone.
func TestSegmentsAreApart(t *testing.T) {
	one, two := segmentDir(t), segmentDir(t)
	other := addressesOf(2, 3)
	apart := func(a netip.Addr) bool { return other.inside(a) }
	cfg := memberConfig(one, 1, 2)
	cfg.Refuse = apart
	_, a := network(t, cfg)
	_, b := network(t, memberConfig(two, 2, 3))
	_, alone := network(t, UserConfig{Refuse: apart})
	echoing(t, b, other)
	for name, s := range map[string]*stack.Stack{"another network": a, "no network": alone} {
		for _, to := range []netip.Addr{other.Guest4, other.Guest6} {
			if c, err := dial(t, s, to, 7); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("from %s to %s: %v, want a refusal", name, to, err)
				if err == nil {
					c.Close()
				}
			}
		}
	}
}

func TestInternal(t *testing.T) {
	cfg := memberConfig(segmentDir(t), 1, 2)
	cfg.Internal = true
	_, a := network(t, cfg)
	if c, err := dial(t, a, example, echoServer(t)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v, want a refusal", err)
		if err == nil {
			c.Close()
		}
	}
}

// rawPeer is a connection in the name of another member, whose packets need not be good.
func rawPeer(t testing.TB, dir string, from, to netip.Addr) *net.UnixConn {
	t.Helper()
	name := filepath.Join(dir, connectionName(from, to))
	c, err := net.DialUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"},
		&net.UnixAddr{Name: filepath.Join(dir, to.String()), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(name)
	t.Cleanup(func() { c.Close() })
	return c
}

func packet4(src, dst netip.Addr, payload string) []byte {
	return frame4(src, dst, 253, []byte(payload))[header.EthernetMinimumSize:]
}

func packet6(src, dst netip.Addr) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 4, 253, 64}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	return append(b, "data"...)
}

// Of what comes from another member only its own packets for this guest are passed on.
func TestHostilePeer(t *testing.T) {
	dir := segmentDir(t)
	w := newWire(t, memberConfig(dir, 1, 2))
	at, peer, third := w.u.cfg.Addresses, addressesOf(1, 3), addressesOf(1, 4)
	if err := os.Symlink(peer.Guest4.String(), filepath.Join(dir, peer.Guest6.String())); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(third.Guest4.String(), filepath.Join(dir, third.Guest6.String())); err != nil {
		t.Fatal(err)
	}
	c := rawPeer(t, dir, peer.Guest4, at.Guest4)
	send := func(b []byte) {
		t.Helper()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	good := packet4(peer.Guest4, at.Guest4, "good")
	longer := append(bytes.Clone(good), "behind its end"...)
	shorter := good[:len(good)-1]
	bad := map[string][]byte{
		"spoofed source":        packet4(third.Guest4, at.Guest4, "x"),
		"the gateway's":         packet4(at.Gateway4, at.Guest4, "x"),
		"the guest's own":       packet4(at.Guest4, at.Guest4, "x"),
		"from outside":          packet4(example, at.Guest4, "x"),
		"loopback":              packet4(netip.MustParseAddr("127.0.0.1"), at.Guest4, "x"),
		"broadcast's":           packet4(Broadcast(at.Subnet4), at.Guest4, "x"),
		"for another":           packet4(peer.Guest4, third.Guest4, "x"),
		"for the gateway":       packet4(peer.Guest4, at.Gateway4, "x"),
		"for all":               packet4(peer.Guest4, Broadcast(at.Subnet4), "x"),
		"for the outside":       packet4(peer.Guest4, example, "x"),
		"longer than it says":   longer,
		"shorter than it says":  shorter,
		"spoofed IPv6":          packet6(third.Guest6, at.Guest6),
		"IPv6 of nobody":        packet6(addressesOf(1, 9).Guest6, at.Guest6),
		"IPv6 for another":      packet6(peer.Guest6, third.Guest6),
		"link-local":            packet6(netip.MustParseAddr("fe80::1"), at.Guest6),
		"one byte":              {0x45},
		"no IP":                 []byte("garbage that is no packet of IP at all"),
		"giant":                 make([]byte, MTU+1),
		"much more than giant":  make([]byte, 100<<10),
		"IPv4 in IPv6's header": append([]byte{0x60}, good[1:]...),
	}
	for _, b := range bad {
		send(b)
	}
	send(good)
	send(packet6(peer.Guest6, at.Guest6))
	for _, want := range []string{"good", "data"} {
		f := w.receive(20 * time.Second)
		if f == nil || !bytes.HasSuffix(f, []byte(want)) || string(f[:6]) != string(guestMAC) || string(f[6:12]) != string(gatewayMAC) {
			t.Fatalf("got %q, want the packet %q for the guest", f, want)
		}
	}
	if s := w.u.PeerStats(); s.Refused != uint64(len(bad)) || s.Received != 2 {
		t.Errorf("%+v, want %d refused and 2 received", s, len(bad))
	}
}

// Whoever does not say who they are, or says they are somebody who cannot be, is not listened to.
func TestStrangers(t *testing.T) {
	dir := segmentDir(t)
	w := newWire(t, memberConfig(dir, 1, 2))
	at, peer := w.u.cfg.Addresses, addressesOf(1, 3)
	to := &net.UnixAddr{Name: filepath.Join(dir, at.Guest4.String()), Net: "unixpacket"}
	elsewhere := segmentDir(t)
	for name, from := range map[string]string{
		"nameless":          "",
		"for somebody else": filepath.Join(dir, connectionName(peer.Guest4, peer.Guest4)),
		"the gateway":       filepath.Join(dir, connectionName(at.Gateway4, at.Guest4)),
		"the guest itself":  filepath.Join(dir, connectionName(at.Guest4, at.Guest4)),
		"of no address":     filepath.Join(dir, "me-"+at.Guest4.String()),
		"of IPv6":           filepath.Join(dir, connectionName(peer.Guest6, at.Guest4)),
		"from elsewhere":    filepath.Join(elsewhere, connectionName(peer.Guest4, at.Guest4)),
		"of another subnet": filepath.Join(dir, connectionName(addressesOf(2, 3).Guest4, at.Guest4)),
	} {
		var local *net.UnixAddr
		if from != "" {
			local = &net.UnixAddr{Name: from, Net: "unixpacket"}
		}
		c, err := net.DialUnix("unixpacket", local, to)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = c.Write(packet4(peer.Guest4, at.Guest4, name))
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v, want the end of the connection", name, err)
		}
		c.Close()
	}
	if f := w.receive(20 * time.Millisecond); f != nil {
		t.Errorf("the guest got %q", f)
	}
}

// A member that knows the directory by another path is known all the same.
func TestSegmentByAnotherPath(t *testing.T) {
	dir := segmentDir(t)
	link := filepath.Join(segmentDir(t), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	_, a := network(t, memberConfig(dir, 1, 2))
	_, _ = network(t, memberConfig(link, 1, 3))
	if err := pingOnce(t, a, addressesOf(1, 2).Guest4, addressesOf(1, 3).Guest4); err != nil {
		t.Error(err)
	}
}

// A flood from another member takes no more memory than a queue, and none of it from those who are elsewhere.
func TestPeerFlood(t *testing.T) {
	dir := segmentDir(t)
	w := newWire(t, memberConfig(dir, 1, 2))
	at, peer := w.u.cfg.Addresses, addressesOf(1, 3)
	c := rawPeer(t, dir, peer.Guest4, at.Guest4)
	const flood = 4 * maxQueued
	for range flood {
		if _, err := c.Write(packet4(peer.Guest4, at.Guest4, "flood")); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { s := w.u.PeerStats(); return s.Received+s.Lost == flood })
	if s := w.u.PeerStats(); s.Received > maxQueued || s.Lost == 0 {
		t.Errorf("%+v, want at most %d kept for a guest that does not listen", s, maxQueued)
	}
}

// await waits for something that happens soon.
func await(t testing.TB, done func() bool) {
	t.Helper()
	for ctx := soon(t); !done(); {
		select {
		case <-ctx.Done():
			t.Fatal("it has not happened")
		case <-time.After(time.Millisecond):
		}
	}
}

// A member that does not read holds up nobody, and what waits for it is bounded.
func TestStalledPeer(t *testing.T) {
	dir := segmentDir(t)
	w := newWire(t, memberConfig(dir, 1, 2))
	at, stalled := w.u.cfg.Addresses, addressesOf(1, 3)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, stalled.Guest4.String()), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	big := frame4(at.Guest4, stalled.Guest4, 253, make([]byte, 60000))
	copy(big[6:], guestMAC)
	for range 4 * maxPeerBytes / len(big) {
		w.send(big)
	}
	if n := w.u.segment.queued.Load(); n > maxPeerBytes || n == 0 {
		t.Errorf("%d bytes wait, want at most %d", n, maxPeerBytes)
	}
	if s := w.u.PeerStats(); s.Lost == 0 {
		t.Errorf("%+v, want losses", s)
	}
	_, b := network(t, memberConfig(dir, 1, 4))
	_ = b
	w.send(frame4(at.Guest4, addressesOf(1, 4).Guest4, header.ICMPv4ProtocolNumber, echo4()))
	if f := w.receive(20 * time.Second); f == nil || !bytes.HasSuffix(f, []byte("ping")) {
		t.Errorf("the member that listens answers %q", f)
	}
	l.Close()
	await(t, func() bool { return w.u.segment.queued.Load() == 0 })
}

func echo4() []byte {
	b := []byte("\x08\x00\x00\x00\x00\x01\x00\x01ping")
	icmp := header.ICMPv4(b)
	icmp.SetChecksum(^checksum.Checksum(b, 0))
	return b
}

// A guest that asks for every address costs an answer each, and nothing that stays.
func TestScan(t *testing.T) {
	dir := segmentDir(t)
	w := newWire(t, memberConfig(dir, 1, 2))
	for n := range 250 {
		w.send(frame4(w.u.cfg.Addresses.Guest4, addressesOf(1, byte(n+3)).Guest4, header.ICMPv4ProtocolNumber, echo4()))
		if n < 100 {
			f := w.receive(20 * time.Second)
			if f == nil || header.ICMPv4(header.IPv4(f[14:]).Payload()).Code() != header.ICMPv4HostUnreachable {
				t.Fatalf("host %d: %x", n, f)
			}
		}
	}
	for w.receive(0) != nil {
	}
	w.send(ethernetFrame(0x86dd, packet6(w.u.cfg.Addresses.Guest6, addressesOf(1, 9).Guest6)))
	f := w.receive(20 * time.Second)
	if f == nil || header.ICMPv6(f[54:]).Type() != header.ICMPv6DstUnreachable || header.ICMPv6(f[54:]).Code() != header.ICMPv6AddressUnreachable {
		t.Errorf("IPv6: %x", f)
	}
	w.u.segment.mu.Lock()
	defer w.u.segment.mu.Unlock()
	if n := len(w.u.segment.out); n != 0 {
		t.Errorf("%d connections to nobody", n)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}

// A checksum that a guest leaves to its device is filled in, wherever the guest says it is.
func TestFillChecksum(t *testing.T) {
	at, peer := addressesOf(1, 2), addressesOf(1, 3)
	datagram := append([]byte{0, 7, 0, 7, 0, 12, 0, 0}, "data"...)
	want := header.UDP(bytes.Clone(datagram))
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, tcpip.AddrFrom4(at.Guest4.As4()), tcpip.AddrFrom4(peer.Guest4.As4()), 12)
	want.SetChecksum(^want.CalculateChecksum(checksum.Checksum([]byte("data"), pseudo)))
	binary.BigEndian.PutUint16(datagram[6:], pseudo) // as Linux leaves it
	frame := frame4(at.Guest4, peer.Guest4, header.UDPProtocolNumber, datagram)
	h := func(flags byte, start, at uint16) *[headerSize]byte {
		var h [headerSize]byte
		h[0] = flags
		binary.LittleEndian.PutUint16(h[6:], start)
		binary.LittleEndian.PutUint16(h[8:], at)
		return &h
	}
	for name, hostile := range map[string]*[headerSize]byte{
		"not asked": h(0, 34, 6), "in the link header": h(1, 2, 0), "behind the end": h(1, 40, 60), "at the end": h(1, 34, uint16(len(frame)-34-1)),
		"far": h(1, 0xffff, 0xffff),
	} {
		f := bytes.Clone(frame)
		if fillChecksum(hostile, f); !bytes.Equal(f, frame) {
			t.Errorf("%s: the frame was changed", name)
		}
	}
	fillChecksum(h(1, 34, 6), frame)
	if got := header.UDP(header.IPv4(frame[14:]).Payload()).Checksum(); got != want.Checksum() {
		t.Errorf("checksum %#x, want %#x", got, want.Checksum())
	}
}

func TestAddresses(t *testing.T) {
	good := addressesOf(1, 2)
	only4 := good
	only4.Subnet6, only4.Gateway6, only4.DNS6, only4.Guest6 = netip.Prefix{}, netip.Addr{}, netip.Addr{}, netip.Addr{}
	for _, a := range []Addresses{good, only4, DefaultAddresses()} {
		if err := a.check(); err != nil {
			t.Error(err)
		}
	}
	for name, change := range map[string]func(*Addresses){
		"no subnet":         func(a *Addresses) { a.Subnet4 = netip.Prefix{} },
		"guest elsewhere":   func(a *Addresses) { a.Guest4 = example },
		"gateway elsewhere": func(a *Addresses) { a.Gateway4 = example },
		"guest is gateway":  func(a *Addresses) { a.Guest4 = a.Gateway4 },
		"no IPv6 guest":     func(a *Addresses) { a.Guest6 = netip.Addr{} },
		"families swapped":  func(a *Addresses) { a.Subnet4, a.Subnet6 = a.Subnet6, a.Subnet4 },
	} {
		a := good
		change(&a)
		if _, err := NewUser(UserConfig{Addresses: a}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if only4.isPeer(netip.Addr{}) || only4.isPeer(addressesOf(1, 3).Guest6) || !only4.isPeer(addressesOf(1, 3).Guest4) || only4.isPeer(Broadcast(only4.Subnet4)) {
		t.Error("who may be a member")
	}
	for prefix, want := range map[string]string{"10.0.0.0/8": "10.255.255.255", "192.0.2.128/25": "192.0.2.255", "192.0.2.7/30": "192.0.2.7", "192.0.2.1/32": "192.0.2.1"} {
		if got := Broadcast(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
	}
}

func FuzzPeer(f *testing.F) {
	at, peer := addressesOf(1, 2), addressesOf(1, 3)
	f.Add(packet4(peer.Guest4, at.Guest4, "good"))
	f.Add(packet6(peer.Guest6, at.Guest6))
	f.Add(packet4(example, at.Guest4, "bad"))
	f.Add([]byte{0x60})
	u, err := NewUser(UserConfig{Addresses: at})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { u.Close() })
	s := &segment{u: u, dir: f.TempDir()}
	if err := os.Symlink(peer.Guest4.String(), filepath.Join(s.dir, peer.Guest6.String())); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		from := member{dir: s.dir, peer: peer.Guest4}
		frame, ok := s.fromPeer(&from, append(make([]byte, header.EthernetMinimumSize), packet...))
		if !ok {
			return
		}
		src, dst, n, ok := ends(frame[header.EthernetMinimumSize:], header.Ethernet(frame).Type())
		if !ok || n != len(packet) || src != peer.Guest4 && src != peer.Guest6 || dst != at.Guest4 && dst != at.Guest6 {
			t.Errorf("passed on: %x", frame)
		}
		s.unreachable(packet)
		u.link.Drain()
	})
}

// The data path takes bytes as fast as stacks make them; how fast is for a person to look at.
func BenchmarkSegment(b *testing.B) {
	dir := segmentDir(b)
	_, one := network(b, memberConfig(dir, 1, 2))
	_, two := network(b, memberConfig(dir, 1, 3))
	l, err := gonet.ListenTCP(two, full(addressesOf(1, 3).Guest4, 7), ipv4.ProtocolNumber)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	conn, err := gonet.DialContextTCP(context.Background(), one, full(addressesOf(1, 3).Guest4, 7), ipv4.ProtocolNumber)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	other, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer other.Close()
	block := make([]byte, 1<<20)
	b.SetBytes(int64(len(block)))
	go func() {
		for range b.N {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, other, int64(b.N)*int64(len(block))); err != nil {
		b.Fatal(err)
	}
}
