package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// headerSize is that of virtio-net's header, which begins what a tap takes and gives.
const headerSize = 10

const patience = 30 * time.Second

// A guest is heard in its own name only.
func TestForgedFrames(t *testing.T) {
	inNamespace(t)
	b := testBridge(1)
	up(t, b)
	one, p1 := guestOn(t, b, 2)
	two, p2 := guestOn(t, b, 3)
	unknown, _ := guestOn(t, b, 4)
	if err := b.Apply([]Port{p1, p2}); err != nil {
		t.Fatal(err)
	}
	all6 := netip.MustParseAddr("ff02::1")
	allNodes := header.EthernetAddressFromMulticastIPv6Address(address(all6))
	local := linkLocalOf(p1.MAC)
	advert := func(target netip.Addr) []byte { return append([]byte{0x20, 0, 0, 0}, target.AsSlice()...) }
	other := tcpip.LinkAddress("\x02\x00\x00\x00\x09\x09")
	stranger4, stranger6 := netip.MustParseAddr("10.90.1.77"), netip.MustParseAddr("fd90:1::77")
	vlan := ethernet(one.mac, two.mac, 0x8100, append([]byte{0, 1, 8, 0}, datagram(one.mac, two.mac, one.ip4, two.ip4, 7, 7, "vlan")[header.EthernetMinimumSize:]...))

	// Those in lower case must not come through, those in capitals must.
	for word, frame := range map[string][]byte{
		"mac":           datagram(other, two.mac, one.ip4, two.ip4, 7, 7, "mac"),
		"mac of two":    datagram(two.mac, two.mac, one.ip4, two.ip4, 7, 7, "mac of two"),
		"ip":            datagram(one.mac, two.mac, stranger4, two.ip4, 7, 7, "ip"),
		"ip of gateway": datagram(one.mac, two.mac, b.Gateway4, two.ip4, 7, 7, "ip of gateway"),
		"no ip":         datagram(one.mac, two.mac, netip.IPv4Unspecified(), two.ip4, 7, 7, "no ip"),
		"ip6":           datagram(one.mac, two.mac, stranger6, two.ip6, 7, 7, "ip6"),
		"ip6 local":     datagram(one.mac, two.mac, linkLocalOf(p2.MAC), two.ip6, 7, 7, "ip6 local"),
		"arp":           arp(one.mac, one.mac, b.Gateway4, two.ip4, "arp"),
		"arp mac":       arp(one.mac, other, one.ip4, two.ip4, "arp mac"),
		"advert":        icmp6(one.mac, two.mac, one.ip6, two.ip6, header.ICMPv6NeighborAdvert, advert(b.Gateway6), "advert"),
		"advert local":  icmp6(one.mac, allNodes, local, all6, header.ICMPv6NeighborAdvert, advert(linkLocalOf(p2.MAC)), "advert local"),
		"router":        icmp6(one.mac, allNodes, local, all6, header.ICMPv6RouterAdvert, make([]byte, 12), "router"),
		"redirect":      icmp6(one.mac, two.mac, local, two.ip6, header.ICMPv6RedirectMsg, make([]byte, 36), "redirect"),
		"vlan":          vlan,
		"other kind":    ethernet(one.mac, two.mac, 0x88b5, []byte("word:other kind.")),

		"IP":           datagram(one.mac, two.mac, one.ip4, two.ip4, 7, 7, "IP"),
		"IP6":          datagram(one.mac, two.mac, one.ip6, two.ip6, 7, 7, "IP6"),
		"IP6 LOCAL":    datagram(one.mac, two.mac, local, two.ip6, 7, 7, "IP6 LOCAL"),
		"ARP":          arp(one.mac, one.mac, one.ip4, two.ip4, "ARP"),
		"ARP PROBE":    arp(one.mac, one.mac, netip.IPv4Unspecified(), two.ip4, "ARP PROBE"),
		"ADVERT":       icmp6(one.mac, two.mac, one.ip6, two.ip6, header.ICMPv6NeighborAdvert, advert(one.ip6), "ADVERT"),
		"ADVERT LOCAL": icmp6(one.mac, two.mac, local, two.ip6, header.ICMPv6NeighborAdvert, advert(local), "ADVERT LOCAL"),
		"SOLICIT":      icmp6(one.mac, allNodes, one.ip6, all6, header.ICMPv6NeighborSolicit, advert(two.ip6), "SOLICIT"),
	} {
		one.send(frame)
		one.send(datagram(one.mac, two.mac, one.ip4, two.ip4, 7, 7, "last"))
		got, _ := two.until("last")
		if wanted := strings.ToUpper(word) == word; wanted != (got[word] != nil) || len(got) > 1 {
			t.Errorf("%q: came: %v, and %d frames in all", word, got[word] != nil, len(got))
		}
	}
	// Who the rules do not know is not heard, nor does the bridge learn that somebody has moved.
	unknown.send(datagram(unknown.mac, two.mac, unknown.ip4, two.ip4, 7, 7, "unknown"))
	unknown.send(datagram(one.mac, two.mac, one.ip4, two.ip4, 7, 7, "instead of one"))
	// 01:80:c2:00:00:0e is the bridge's own business (IEEE 802.1Q, 8.6.3): it is looked at before the rules.
	unknown.send(ethernet(one.mac, "\x01\x80\xc2\x00\x00\x0e", 0x88cc, make([]byte, 46)))
	two.send(datagram(two.mac, one.mac, two.ip4, one.ip4, 7, 7, "last"))
	if got, _ := one.until("last"); len(got) > 0 {
		t.Errorf("%q came", got)
	}
	one.send(datagram(one.mac, two.mac, one.ip4, two.ip4, 7, 7, "last"))
	if got, _ := two.until("last"); len(got) > 0 {
		t.Errorf("%q came", got)
	}
	// What is for nobody is nobody's to see.
	one.send(datagram(one.mac, other, one.ip4, stranger4, 7, 7, "for nobody"))
	one.send(datagram(one.mac, two.mac, one.ip4, two.ip4, 7, 7, "last"))
	if got, _ := two.until("last"); len(got) > 0 {
		t.Errorf("%q came", got)
	}
}

// world is another host, at the other end of an interface of this one.
func world(t testing.TB) *card {
	t.Helper()
	c := openCard(t, "world", [6]byte{2, 0, 0, 0, 99, 99})
	for _, command := range []string{
		"ip addr add 192.0.2.1/24 dev world", "ip addr add 2001:db8::1/64 dev world nodad",
		"ip neigh add 192.0.2.9 lladdr 02:00:00:00:63:63 dev world", "ip neigh add 2001:db8::9 lladdr 02:00:00:00:63:63 dev world",
		"ip route add 169.254.0.0/16 dev world", "ip neigh add 169.254.169.254 lladdr 02:00:00:00:63:63 dev world",
	} {
		run(t, strings.Fields(command)...)
	}
	link, err := netlink.LinkByName("world")
	if err != nil {
		t.Fatal(err)
	}
	c.ip4, c.ip6, c.gate = netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9"), tcpip.LinkAddress(link.Attrs().HardwareAddr)
	return c
}

// ends are the addresses of a datagram.
func ends(frame []byte) string {
	b := frame[header.EthernetMinimumSize:]
	var src, dst netip.Addr
	var udp header.UDP
	if b[0]>>4 == 4 {
		h := header.IPv4(b)
		src, _ = netip.AddrFromSlice(h.SourceAddressSlice())
		dst, _ = netip.AddrFromSlice(h.DestinationAddressSlice())
		udp = h.Payload()
	} else {
		h := header.IPv6(b)
		src, _ = netip.AddrFromSlice(h.SourceAddressSlice())
		dst, _ = netip.AddrFromSlice(h.DestinationAddressSlice())
		udp = h.Payload()
	}
	return fmt.Sprintf("%s %s", netip.AddrPortFrom(src, udp.SourcePort()), netip.AddrPortFrom(dst, udp.DestinationPort()))
}

// What passes between networks, and to and from the world.
func TestRouting(t *testing.T) {
	inNamespace(t)
	changes, err := Forwarding(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := Change(changes, false); err != nil {
		t.Fatal(err)
	}
	w := world(t)
	web, back, in := testBridge(1), testBridge(2), testBridge(3)
	in.Internal = true
	apart := testBridge(4)
	apart.Apart = true
	for _, b := range []*Bridge{web, back, in, apart} {
		up(t, b)
	}
	a, pa := guestOn(t, web, 2)
	a2, pa2 := guestOn(t, web, 3)
	b, pb := guestOn(t, back, 2)
	i, pi := guestOn(t, in, 2)
	x, px := guestOn(t, apart, 2)
	y, py := guestOn(t, apart, 3)
	// Where bridges call netfilter the rules keep them apart too, so the frames below do not tell.
	if shown := run(t, "bridge", "-d", "link", "show", "dev", px.Interface); !strings.Contains(shown, "isolated on") {
		t.Errorf("guests that are to be kept apart are not: %s", shown)
	}
	publish := func(port uint16) []Publish {
		return []Publish{
			{netip.AddrPortFrom(netip.IPv4Unspecified(), port), 80, "udp"}, {netip.AddrPortFrom(netip.IPv6Unspecified(), port), 80, "udp"},
			{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port+1), 80, "udp"},
		}
	}
	pa.Publish, pb.Publish, pi.Publish = publish(8080), publish(8090), publish(8070)
	for bridge, ports := range map[*Bridge][]Port{web: {pa, pa2}, back: {pb}, in: {pi}, apart: {px, py}} {
		if err := bridge.Apply(ports); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name       string
		from, to   *card
		src, dst   netip.Addr
		port       uint16
		want       string // the addresses with which it comes; "": it does not come
		wantPrefix bool
	}{
		{"out", a, w, a.ip4, w.ip4, 7, "192.0.2.1:", true},
		{"out6", a, w, a.ip6, w.ip6, 7, "[2001:db8::1]:", true},
		{"out by name of another", a, w, b.ip4, w.ip4, 7, "", false},
		{"in", w, a, w.ip4, a.ip4, 80, "", false},
		{"in6", w, a, w.ip6, a.ip6, 80, "", false},
		{"published", w, a, w.ip4, netip.MustParseAddr("192.0.2.1"), 8080, "192.0.2.9:7 10.90.1.2:80", false},
		{"published6", w, a, w.ip6, netip.MustParseAddr("2001:db8::1"), 8080, "[2001:db8::9]:7 [fd90:1::2]:80", false},
		{"published on the loopback", w, a, w.ip4, netip.MustParseAddr("192.0.2.1"), 8081, "", false},
		{"between networks", a, b, a.ip4, b.ip4, 80, "", false},
		{"between networks6", a, b, a.ip6, b.ip6, 80, "", false},
		{"another's published", a, b, a.ip4, netip.MustParseAddr("192.0.2.1"), 8090, "", false},
		{"another's published, by its gateway", a, b, a.ip4, netip.MustParseAddr("10.90.2.1"), 8090, "", false},
		{"out of internal", i, w, i.ip4, w.ip4, 7, "", false},
		{"out of internal6", i, w, i.ip6, w.ip6, 7, "", false},
		{"from internal to another", i, b, i.ip4, b.ip4, 80, "", false},
		{"into internal", a, i, a.ip4, i.ip4, 80, "", false},
		{"internal published", w, i, w.ip4, netip.MustParseAddr("192.0.2.1"), 8070, "", false},
		{"metadata", a, w, a.ip4, netip.MustParseAddr("169.254.169.254"), 80, "", false},
		{"apart", x, y, x.ip4, y.ip4, 80, "", false},
		{"not apart", a, a2, a.ip4, a2.ip4, 80, "10.90.1.2:7 10.90.1.3:80", false},
		{"apart, by the gateway", x, y, x.ip4, y.ip4, 81, "", false},
	} {
		to := tt.from.gate
		if strings.HasSuffix(tt.name, "apart") {
			to = tt.to.mac
		}
		tt.from.send(datagram(tt.from.mac, to, tt.src, tt.dst, 7, tt.port, tt.name))
		// What the host itself sends there comes after it.
		marker(t, tt.to)
		came, _ := tt.to.until("marker")
		frame := came[tt.name]
		switch {
		case tt.want == "" && len(frame) > 0:
			t.Errorf("%s: it came: %s", tt.name, ends(frame))
		case tt.want != "" && len(frame) == 0:
			t.Errorf("%s: it did not come, but %d others", tt.name, len(came))
		case tt.wantPrefix && !strings.HasPrefix(ends(frame), tt.want), !tt.wantPrefix && tt.want != "" && ends(frame) != tt.want:
			t.Errorf("%s: %s, want %s", tt.name, ends(frame), tt.want)
		}
	}
	// An answer comes back to whoever has asked.
	a.send(datagram(a.mac, a.gate, a.ip4, w.ip4, 7, 9, "question"))
	_, question := w.until("question")
	udp := header.UDP(header.IPv4(question[header.EthernetMinimumSize:]).Payload())
	w.send(datagram(w.mac, w.gate, w.ip4, netip.MustParseAddr("192.0.2.1"), 9, udp.SourcePort(), "answer"))
	if _, answer := a.until("answer"); ends(answer) != "192.0.2.9:9 10.90.1.2:7" {
		t.Errorf("the answer is %s", ends(answer))
	}
	w.send(datagram(w.mac, w.gate, w.ip4, netip.MustParseAddr("192.0.2.1"), 7, 8080, "request"))
	a.until("request")
	a.send(datagram(a.mac, a.gate, a.ip4, w.ip4, 80, 7, "reply"))
	if _, reply := w.until("reply"); ends(reply) != "192.0.2.1:8080 192.0.2.9:7" {
		t.Errorf("the reply is %s", ends(reply))
	}
	// This host reaches a published port by its own addresses.
	c, err := net.Dial("udp4", "192.0.2.1:8090")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("word:own.")); err != nil {
		t.Fatal(err)
	}
	if _, own := b.until("own"); !strings.HasSuffix(ends(own), " 10.90.2.2:80") {
		t.Errorf("%s", ends(own))
	}
}

// A guest cannot fill the kernel's table of connections, which is for all.
func TestConnectionsAreBounded(t *testing.T) {
	inNamespace(t)
	changes, err := Forwarding(false)
	if err != nil {
		t.Fatal(err)
	}
	if err := Change(changes, false); err != nil {
		t.Fatal(err)
	}
	w := world(t)
	b := testBridge(1)
	up(t, b)
	one, p1 := guestOn(t, b, 2)
	two, p2 := guestOn(t, b, 3)
	if err := b.Apply([]Port{p1, p2}); err != nil {
		t.Fatal(err)
	}
	const all, batch = maxConnections + 500, 100 // what the tap's queue takes
	came := 0
	for n := 0; n < all; n += batch {
		for i := range batch {
			one.send(datagram(one.mac, one.gate, one.ip4, w.ip4, 7, uint16(1000+n+i), fmt.Sprint(n+i)))
		}
		marker(t, w)
		words, _ := w.until("marker")
		came += len(words)
	}
	if came != maxConnections {
		t.Errorf("%d of %d flows have passed, want %d", came, all, maxConnections)
	}
	two.send(datagram(two.mac, two.gate, two.ip4, w.ip4, 7, 7, "another guest"))
	w.until("another guest")
	if err := Forget(p1.IPv4); err != nil {
		t.Fatal(err)
	}
	one.send(datagram(one.mac, one.gate, one.ip4, w.ip4, 7, 60000, "again"))
	w.until("again")
}

// marker has this host send a datagram to a guest.
func marker(t testing.TB, to *card) {
	t.Helper()
	c, err := net.Dial("udp4", netip.AddrPortFrom(to.ip4, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("word:marker.")); err != nil {
		t.Fatal(err)
	}
}

// Each guest's queries for names go to where they are answered.
func TestNameServerIsEachGuestsOwn(t *testing.T) {
	for _, internal := range []bool{false, true} {
		t.Run(fmt.Sprint("internal ", internal), func(t *testing.T) {
			inNamespace(t)
			b := testBridge(1)
			b.Internal = internal
			up(t, b)
			var cards []*card
			var ports []Port
			var servers []*net.UDPConn
			for n := range byte(2) {
				c, p := guestOn(t, b, 2+n)
				server, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.Gateway4, 0)))
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				p.NameUDP = uint16(server.LocalAddr().(*net.UDPAddr).Port)
				p.NameTCP = p.NameUDP
				cards, ports, servers = append(cards, c), append(ports, p), append(servers, server)
			}
			if err := b.Apply(ports); err != nil {
				t.Fatal(err)
			}
			for n, c := range cards {
				c.send(datagram(c.mac, c.gate, c.ip4, b.Gateway4, 4000, 53, "query"))
				buf := make([]byte, 100)
				_ = servers[n].SetReadDeadline(time.Now().Add(patience))
				k, from, err := servers[n].ReadFromUDPAddrPort(buf)
				if err != nil || string(buf[:k]) != "word:query." || from != netip.AddrPortFrom(c.ip4, 4000) {
					t.Fatalf("%q from %v, %v", buf[:k], from, err)
				}
				if _, err := servers[n].WriteToUDPAddrPort([]byte("word:answer."), from); err != nil {
					t.Fatal(err)
				}
				if _, answer := c.until("answer"); ends(answer) != fmt.Sprintf("10.90.1.1:53 %s:4000", c.ip4) {
					t.Errorf("the answer is %s", ends(answer))
				}
			}
			// Of an internal network nothing else of this host is reached.
			server, err := net.ListenUDP("udp4", &net.UDPAddr{})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			c := cards[0]
			c.send(datagram(c.mac, c.gate, c.ip4, b.Gateway4, 4000, uint16(server.LocalAddr().(*net.UDPAddr).Port), "this host"))
			c.send(datagram(c.mac, c.gate, c.ip4, b.Gateway4, 4000, 53, "last"))
			_ = servers[0].SetReadDeadline(time.Now().Add(patience))
			if _, err := servers[0].Read(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			if queued := waiting(t, server); internal != (queued == 0) {
				t.Errorf("%d bytes have come", queued)
			}
		})
	}
}

// waiting is how much waits to be read, in bytes.
func waiting(t testing.TB, c *net.UDPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(os.NewSyscallError("TIOCINQ", err))
	}
	return n
}
