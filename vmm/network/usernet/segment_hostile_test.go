package usernet

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

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
	// A packet is counted after the guest has it.
	await(t, func() bool { return w.u.PeerStats().Received >= 2 })
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
