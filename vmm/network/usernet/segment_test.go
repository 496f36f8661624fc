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
