package engine

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// frameGuest is the guest's end of a user-mode network: it sees single frames.
type frameGuest struct {
	t    testing.TB
	conn *net.UnixConn
	mac  MAC
	ip   netip.Addr
}

const virtioHeader = 12

func (g frameGuest) send(kind uint16, packet []byte) {
	g.t.Helper()
	b := make([]byte, virtioHeader, virtioHeader+14+len(packet))
	b = append(append(b, 0x52, 0x55, 0x0a, 0, 2, 2), g.mac[:]...)
	b = append(binary.BigEndian.AppendUint16(b, kind), packet...)
	if _, err := g.conn.Write(b); err != nil {
		g.t.Fatal(err)
	}
}

// receive returns the packet of the next frame of a kind.
func (g frameGuest) receive(kind uint16) []byte {
	g.t.Helper()
	_ = g.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		b := make([]byte, 1<<16+100)
		n, err := g.conn.Read(b)
		if err != nil {
			g.t.Fatal(err)
		}
		if frame := b[virtioHeader:n]; binary.BigEndian.Uint16(frame[12:]) == kind {
			return frame[14:]
		} else if binary.BigEndian.Uint16(frame[12:]) == 0x0806 && frame[21] == 1 { // who has the guest's address?
			reply := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, g.mac[:]...)
			reply = append(reply, g.ip.AsSlice()...)
			g.send(0x0806, append(reply, frame[22:32]...))
		}
	}
}

// lookup asks the name server for the addresses of a name.
func (g frameGuest) lookup(server netip.Addr, name string) []netip.Addr {
	g.t.Helper()
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 1, RecursionDesired: true}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	query, err := q.Pack()
	if err != nil {
		g.t.Fatal(err)
	}
	udp := []byte{0x30, 0x39, 0, 53, 0, byte(8 + len(query)), 0, 0}
	udp = append(udp, query...)
	ip := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, 17, 0, 0}
	ip = append(append(ip, g.ip.AsSlice()...), server.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	g.send(0x0800, append(ip, udp...))
	var m dnsmessage.Message
	if err := m.Unpack(g.receive(0x0800)[28:]); err != nil {
		g.t.Fatal(err)
	}
	var list []netip.Addr
	for _, a := range m.Answers {
		if body, ok := a.Body.(*dnsmessage.AResource); ok {
			list = append(list, netip.AddrFrom4(body.A))
		}
	}
	return list
}

// A container's name server knows the others on its network.
func TestNameServerOfNetwork(t *testing.T) {
	e := newTestEngine(t)
	n := createNetwork(t, e, Network{Name: "web", IPv4: pool("10.77.0.0/16"), IPv6: RandomPool6()})
	one := joinAs(t, e, n, "one", Endpoint{})
	defer one.leave()
	table := &fileTable{}
	defer table.close()
	config := &NetworkConfig{Endpoints: []Endpoint{{Network: n.ID, Name: "web"}}}
	network, err := newNetwork(t.Context(), config, networkGuest{hostname: "h", cpus: 1, store: &e.store, record: &Record{ID: newID(), Name: "two"}}, table)
	if err != nil {
		t.Fatal(err)
	}
	defer network.close()
	f := table.files[network.nics[0].Socket.FD-fdFiles]
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mac, err := ParseMAC(network.cards[0].MAC)
	if err != nil {
		t.Fatal(err)
	}
	g := frameGuest{t, conn.(*net.UnixConn), mac, network.cards[0].Addresses[0].Addr()}
	for name, want := range map[string]netip.Addr{"one.": one.IPv4, "TWO.": g.ip, "one.web.": one.IPv4} {
		if got := g.lookup(n.IPv4.Gateway, name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}

	// Another name counts at once, and the old one no more.
	r := &Record{ID: one.Container, Name: "first", Config: Config{NetworkConfig: NetworkConfig{Endpoints: []Endpoint{{Network: n.ID, Aliases: []string{"alias"}}}}}}
	for range 3 {
		if err := e.store.joined.rename(r); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{"first.": 1, "first.web.": 1, "alias.": 1, "one.": 0} {
		if got := g.lookup(n.IPv4.Gateway, name); len(got) != want {
			t.Errorf("after the renaming, %s: %v, want %d", name, got, want)
		}
	}
	one.leave()
	if got := g.lookup(n.IPv4.Gateway, "first."); len(got) != 0 {
		t.Errorf("one that has left is still %v", got)
	}
	if err := e.store.joined.rename(r); err != nil || len(e.store.members(n)) != 1 {
		t.Errorf("renaming who has left: %v, members %v", err, e.store.members(n))
	}
}
