package usernet

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// theNames is a network in which two members are "web", one of them "web1" too.
type theNames struct{}

func (theNames) Lookup(name string) ([]netip.Addr, bool) {
	one, two := addressesOf(1, 3), addressesOf(1, 4)
	switch name {
	case "web":
		return []netip.Addr{one.Guest4, one.Guest6, two.Guest4}, true
	case "web1":
		return []netip.Addr{one.Guest4}, true
	}
	return nil, false
}

func (theNames) Reverse(a netip.Addr) (string, bool) {
	one := addressesOf(1, 3)
	if a == one.Guest4 || a == one.Guest6 {
		return "web1.net", true
	}
	return "", one.inside(a)
}

func dnsQuery(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answers are the records of a reply, in words.
func answers(t testing.TB, reply []byte) string {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		return fmt.Sprintf("%v of %q", err, reply)
	}
	if m.ID != 7 || !m.Response || !m.RecursionDesired {
		t.Errorf("header %+v", m.Header)
	}
	words := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	for _, a := range m.Answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			words = append(words, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			words = append(words, netip.AddrFrom16(body.AAAA).String())
		case *dnsmessage.PTRResource:
			words = append(words, body.PTR.String())
		}
	}
	return strings.Join(words, " ")
}

func TestNames(t *testing.T) {
	u := &sockets{names: theNames{}}
	for _, tt := range []struct {
		name string
		kind dnsmessage.Type
		want string // "" is for others
	}{
		{"web1.", dnsmessage.TypeA, "Success 172.30.1.3"},
		{"WeB1.", dnsmessage.TypeA, "Success 172.30.1.3"},
		{"web1.", dnsmessage.TypeAAAA, "Success"},
		{"web.", dnsmessage.TypeAAAA, "Success fd30:0:0:1::3"},
		{"web1.", dnsmessage.TypeMX, "Success"},
		{"3.1.30.172.in-addr.arpa.", dnsmessage.TypePTR, "Success web1.net."},
		{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.3.d.f.ip6.arpa.", dnsmessage.TypePTR, "Success web1.net."},
		{"9.1.30.172.in-addr.arpa.", dnsmessage.TypePTR, "NameError"},
		{"1.2.0.192.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{"example.org.", dnsmessage.TypeA, ""},
		{"1.30.172.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{"x.0.0.0.ip6.arpa.", dnsmessage.TypePTR, ""},
		{".", dnsmessage.TypeNS, ""},
	} {
		query := dnsQuery(t, tt.name, tt.kind)
		reply := u.answer(query, true)
		if (reply == nil) != (tt.want == "") || reply != nil && answers(t, reply) != tt.want {
			t.Errorf("%s %v: %q, want %q", tt.name, tt.kind, reply, tt.want)
		}
		// Without anybody else to ask there is an answer to all.
		want := tt.want
		if want == "" {
			want = "ServerFailure"
		}
		if got := answers(t, u.answer(query, false)); got != want {
			t.Errorf("%s %v, nobody to ask: %q, want %q", tt.name, tt.kind, got, want)
		}
	}
	seen := make(map[string]bool)
	for range 100 {
		seen[answers(t, u.answer(dnsQuery(t, "web.", dnsmessage.TypeA), true))] = true
	}
	if len(seen) != 2 || !seen["Success 172.30.1.3 172.30.1.4"] {
		t.Errorf("those who have a name together do not take turns: %v", seen)
	}
	if u.answer([]byte("short"), false) != nil {
		t.Error("an answer to what is no query")
	}
}

// lookup asks the gateway's name server, over UDP or TCP.
func lookup(t testing.TB, guest *stack.Stack, server netip.Addr, query []byte, tcp bool) []byte {
	t.Helper()
	if tcp {
		c, err := dial(t, guest, server, portDNS)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if err := writeMessage(c, query); err != nil {
			t.Fatal(err)
		}
		reply, err := readMessage(c)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	to := full(server, portDNS)
	c, err := gonet.DialUDP(guest, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return []byte(ask(t, c, string(query)))
}

// The guest asks the gateway, which answers or asks others.
func TestNameServer(t *testing.T) {
	for _, internal := range []bool{false, true} {
		cfg := memberConfig(segmentDir(t), 1, 2)
		cfg.Names, cfg.DNS, cfg.Internal = theNames{}, []netip.AddrPort{udpServer(t, "asked: ")}, internal
		_, guest := network(t, cfg)
		for _, tcp := range []bool{false, true} {
			if got := answers(t, lookup(t, guest, cfg.Addresses.DNS4, dnsQuery(t, "web1.", dnsmessage.TypeA), tcp)); got != "Success 172.30.1.3" {
				t.Errorf("internal %v, TCP %v: %q", internal, tcp, got)
			}
		}
		elsewhere := dnsQuery(t, "example.org.", dnsmessage.TypeA)
		got := string(lookup(t, guest, cfg.Addresses.DNS4, elsewhere, false))
		if want := "asked: " + string(elsewhere); !internal && got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if internal && answers(t, []byte(got)) != "ServerFailure" {
			t.Errorf("on an internal network: %q", got)
		}
		if internal {
			if got := answers(t, lookup(t, guest, cfg.Addresses.DNS4, elsewhere, true)); got != "ServerFailure" {
				t.Errorf("on an internal network, TCP: %q", got)
			}
		}
	}
}

// A host without a network knows its containers' names all the same.
func TestNameServerAlone(t *testing.T) {
	cfg := memberConfig(segmentDir(t), 1, 2)
	cfg.Names, cfg.DNS = theNames{}, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
	u, guest := network(t, cfg)
	u.dialer.Control = func(string, string, syscall.RawConn) error { return syscall.ENETUNREACH }
	for _, tcp := range []bool{false, true} {
		for name, want := range map[string]string{"web1.": "Success 172.30.1.3", "example.org.": "ServerFailure"} {
			if got := answers(t, lookup(t, guest, cfg.Addresses.DNS4, dnsQuery(t, name, dnsmessage.TypeA), tcp)); got != want {
				t.Errorf("%s, TCP %v: %q, want %q", name, tcp, got, want)
			}
		}
	}
}

// Over TCP, too, others are asked for what is not known here.
func TestNameServerTCP(t *testing.T) {
	cfg := memberConfig(segmentDir(t), 1, 2)
	cfg.Names, cfg.DNS = theNames{}, []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), echoServer(t))}
	_, guest := network(t, cfg)
	query := dnsQuery(t, "example.org.", dnsmessage.TypeA)
	if got := lookup(t, guest, cfg.Addresses.DNS4, query, true); string(got) != string(query) {
		t.Errorf("%q, want what the other server has sent, %q", got, query)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add(dnsQuery(f, "web.", dnsmessage.TypeA))
	f.Add(dnsQuery(f, "3.1.30.172.in-addr.arpa.", dnsmessage.TypePTR))
	f.Add([]byte{0, 7, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0xc0, 12})
	u := &sockets{names: theNames{}}
	f.Fuzz(func(t *testing.T, query []byte) {
		for _, more := range []bool{true, false} {
			if reply := u.answer(query, more); reply != nil {
				var m dnsmessage.Message
				if err := m.Unpack(reply); err != nil || !m.Response || len(reply) > 2048 {
					t.Errorf("reply %x to %x: %v", reply, query, err)
				}
			}
		}
	})
}
