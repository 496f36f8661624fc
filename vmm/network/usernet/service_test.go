package usernet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// service makes a Service for a guest that is this host's loopback.
func service(t testing.TB, change func(*ServiceConfig)) (*Service, ServiceConfig) {
	t.Helper()
	loopback := net.IPv4(127, 0, 0, 1)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	cfg := ServiceConfig{Guest: netip.MustParseAddr("127.0.0.1"), NameUDP: udp, NameTCP: tcp, Names: theNames{}}
	change(&cfg)
	v, err := NewService(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v, cfg
}

func dialService(t testing.TB, to net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The guest's queries are answered, or passed on.
func TestServiceNames(t *testing.T) {
	for _, internal := range []bool{false, true} {
		_, cfg := service(t, func(c *ServiceConfig) {
			c.DNS, c.Internal = []netip.AddrPort{udpServer(t, "asked: ")}, internal
		})
		udp, tcp := dialService(t, cfg.NameUDP.LocalAddr()), dialService(t, cfg.NameTCP.Addr())
		query := dnsQuery(t, "web1.", dnsmessage.TypeA)
		if got := answers(t, []byte(ask(t, udp, string(query)))); got != "Success 172.30.1.3" {
			t.Errorf("internal %v: %q", internal, got)
		}
		for range 2 { // one after the other on one connection
			if err := writeMessage(tcp, query); err != nil {
				t.Fatal(err)
			}
			if reply, err := readMessage(tcp); err != nil || answers(t, reply) != "Success 172.30.1.3" {
				t.Errorf("internal %v, TCP: %q, %v", internal, reply, err)
			}
		}
		elsewhere := string(dnsQuery(t, "example.org.", dnsmessage.TypeA))
		got := ask(t, dialService(t, cfg.NameUDP.LocalAddr()), elsewhere)
		if internal && answers(t, []byte(got)) != "ServerFailure" || !internal && got != "asked: "+elsewhere {
			t.Errorf("internal %v: %q", internal, got)
		}
	}
}

// Somebody else's are not.
func TestServiceIsTheGuestsAlone(t *testing.T) {
	v, cfg := service(t, func(c *ServiceConfig) { c.Guest = netip.MustParseAddr("127.0.0.2") })
	tcp := dialService(t, cfg.NameTCP.Addr())
	if reply, err := readMessage(tcp); err == nil {
		t.Errorf("a stranger was told %q", reply)
	}
	stranger := dialService(t, cfg.NameUDP.LocalAddr())
	if _, err := stranger.Write(dnsQuery(t, "web1.", dnsmessage.TypeA)); err != nil {
		t.Fatal(err)
	}
	own, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, cfg.NameUDP.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if got := answers(t, []byte(ask(t, own, string(dnsQuery(t, "web1.", dnsmessage.TypeA))))); got != "Success 172.30.1.3" {
		t.Error(got)
	}
	own.Close()
	v.Close() // all that was asked has been looked at
	raw, err := stranger.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool {
		if n, err := unix.Read(int(fd), make([]byte, maxDatagram)); err == nil {
			t.Errorf("a stranger was sent %d bytes", n)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
}

// Connections and datagrams of published ports reach the guest; a port that nobody listens on there resets.
func TestServicePublishes(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	datagrams, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deaf, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(nobody.Addr().(*net.TCPAddr).Port)
	nobody.Close()
	var files []*os.File
	for _, s := range []interface{ File() (*os.File, error) }{listener.(*net.TCPListener), datagrams.(*net.UDPConn), deaf.(*net.TCPListener)} {
		files = append(files, file(t, s))
	}
	listener.Close()
	datagrams.Close()
	deaf.Close()
	service(t, func(c *ServiceConfig) {
		c.Publish = []Publish{{files[0], echoServer(t)}, {files[1], udpServer(t, "guest: ").Port()}, {files[2], port}}
	})
	c := dialService(t, listener.Addr())
	if got := ask(t, c, "hello"); got != "hello" {
		t.Errorf("%q", got)
	}
	for range 2 {
		if got := ask(t, dialService(t, datagrams.LocalAddr()), "hello"); got != "guest: hello" {
			t.Errorf("%q", got)
		}
	}
	if c, err := net.Dial("tcp4", deaf.Addr().String()); err == nil { // the reset may be quicker
		defer c.Close()
		checkReset(t, c)
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// The kernel's side of UDP goes without a port: nothing but a published one.
func TestServiceRefuses(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	loopback := net.IPv4(127, 0, 0, 1)
	udp, _ := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	tcp, _ := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback})
	if v, err := NewService(ServiceConfig{Guest: netip.MustParseAddr("127.0.0.1"), NameUDP: udp, NameTCP: tcp, Publish: []Publish{{f, 80}}}); err == nil {
		v.Close()
		t.Error("a file was published")
	}
	if _, err := tcp.Accept(); err == nil {
		t.Error("the name server's socket is open")
	}
}
