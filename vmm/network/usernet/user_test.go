package usernet

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

var example = netip.MustParseAddr("192.0.2.1")

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func portOf(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }

// echoServer sends back what it gets, and ends a connection when the other side does.
func echoServer(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
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
	t.Cleanup(func() { l.Close(); group.Wait() })
	return portOf(l.Addr())
}

func dial(t testing.TB, guest *stack.Stack, addr netip.Addr, port uint16) (*gonet.TCPConn, error) {
	t.Helper()
	protocol := ipv4.ProtocolNumber
	if addr.Is6() {
		protocol = ipv6.ProtocolNumber
	}
	return gonet.DialContextTCP(soon(t), guest, full(addr, port), protocol)
}

func TestTCP(t *testing.T) {
	_, guest := network(t, UserConfig{})
	port := echoServer(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			conn, err := dial(t, guest, example, port)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			want := make([]byte, 3<<20)
			rand.Read(want)
			var writer sync.WaitGroup
			writer.Go(func() {
				if _, err := conn.Write(want); err != nil {
					t.Error(err)
				}
				if err := conn.CloseWrite(); err != nil { // the answer comes all the same
					t.Error(err)
				}
			})
			got, err := io.ReadAll(conn)
			writer.Wait()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes came back: %v", len(got), len(want), err)
			}
		})
	}
	group.Wait()
}

func TestTCPRefused(t *testing.T) {
	_, guest := network(t, UserConfig{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(l.Addr())
	l.Close()
	for name, to := range map[string]netip.AddrPort{
		"nobody listens":     netip.AddrPortFrom(example, port),
		"the gateway":        netip.AddrPortFrom(Gateway4, echoServer(t)),
		"the gateway's IPv6": netip.AddrPortFrom(Gateway6, echoServer(t)),
		"metadata":           netip.MustParseAddrPort("169.254.169.254:80"),
		"DNS without one":    netip.AddrPortFrom(DNS4, portDNS),
	} {
		if c, err := dial(t, guest, to.Addr(), to.Port()); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want a refusal", name, err)
			if err == nil {
				c.Close()
			}
		}
	}
}

func TestPolicy(t *testing.T) {
	for addr, want := range map[string]bool{
		"1.1.1.1": true, "10.0.3.1": true, "192.168.1.1": true, "2606:4700::1111": true, "fd12::1": true, "::ffff:1.1.1.1": true,
		"127.0.0.1": false, "127.8.8.8": false, "0.0.0.0": false, "0.1.2.3": false, "169.254.169.254": false, "224.0.0.1": false,
		"255.255.255.255": false, "240.0.0.1": false, "10.0.2.2": false, "10.0.2.77": false,
		"::": false, "::1": false, "fe80::1": false, "ff02::1": false, "fd00:10:0:2::2": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false,
	} {
		if _, ok := outside(netip.AddrPortFrom(netip.MustParseAddr(addr), 80)); ok != want {
			t.Errorf("%s: reached: %v, want %v", addr, ok, want)
		}
	}
	if _, ok := outside(netip.AddrPortFrom(example, 0)); ok {
		t.Error("port 0 is reached")
	}
}

// udpServer answers each datagram with its bytes behind a prefix.
func udpServer(t testing.TB, prefix string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(prefix), b[:n]...), from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// ask sends a datagram and returns the answer.
func ask(t testing.TB, c net.Conn, question string) string {
	t.Helper()
	b := make([]byte, maxDatagram)
	if _, err := c.Write([]byte(question)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("no answer to %.20q: %v", question, err)
	}
	return string(b[:n])
}

func TestUDPAndDNS(t *testing.T) {
	server, name := udpServer(t, "echo "), udpServer(t, "dns ")
	_, guest := network(t, UserConfig{DNS: []netip.AddrPort{name}})
	for _, tt := range []struct {
		to   netip.AddrPort
		want string
	}{
		{netip.AddrPortFrom(example, server.Port()), "echo question"},
		{netip.AddrPortFrom(DNS4, portDNS), "dns question"},
		{netip.AddrPortFrom(DNS6, portDNS), "dns question"},
	} {
		protocol := ipv4.ProtocolNumber
		if tt.to.Addr().Is6() {
			protocol = ipv6.ProtocolNumber
		}
		remote := full(tt.to.Addr(), tt.to.Port())
		c, err := gonet.DialUDP(guest, nil, &remote, protocol)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := ask(t, c, "question"); got != tt.want {
				t.Errorf("%v answers %q", tt.to, got)
			}
		}
		c.Close()
	}
}

func TestResolversGiveWay(t *testing.T) {
	r := resolvers{servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")}}
	first, silent, _ := r.pick()
	_, alsoSilent, _ := r.pick()
	silent()
	alsoSilent() // the same silence counts once
	if second, _, _ := r.pick(); first == second {
		t.Error("a name server that does not answer is asked again")
	}
}

func file(t testing.TB, s interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPublish(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, guest := network(t, UserConfig{Publish: []Publish{
		{Socket: file(t, l.(*net.TCPListener)), Port: 80}, {Socket: file(t, p.(*net.UDPConn)), Port: 5353},
	}})
	tcpAddr, udpAddr := l.Addr().String(), p.LocalAddr().String()
	l.Close()
	p.Close()

	// Nobody listens in the guest yet.
	c, err := net.Dial("tcp", tcpAddr)
	if err == nil { // it is reset at once, which connect may see already
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection to nobody: %v", err)
	}

	server, err := gonet.ListenTCP(guest, full(Guest4, 80), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		c, err := server.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); host != Gateway4.String() {
			t.Errorf("the guest's peer is %s, want the gateway", host)
		}
		_, _ = io.Copy(c, c)
	})
	c, err = net.Dial("tcp", tcpAddr)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, c, "hello"); got != "hello" {
		t.Errorf("the guest answers %q", got)
	}
	c.Close()

	local := full(Guest4, 5353)
	listener, err := gonet.DialUDP(guest, &local, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	group.Go(func() {
		b := make([]byte, 100)
		for {
			n, from, err := listener.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = listener.WriteTo(append([]byte("guest "), b[:n]...), from)
		}
	})
	defer listener.Close()
	for _, who := range []string{"one", "two"} {
		c, err := net.Dial("udp", udpAddr)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, c, who); got != "guest "+who {
			t.Errorf("the guest answers %q to %s", got, who)
		}
		c.Close()
	}
}

// A published UDP socket that fails for good is given up with a reason, and without spinning.
func TestPublishedUDPFails(t *testing.T) {
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = p.SetReadDeadline(time.Unix(1, 0)) // every read fails
	failed := make(chan error, 1)
	u, err := NewUser(UserConfig{Failed: func(err error) { failed <- err }})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.run(func() { u.publishUDP(p.(*net.UDPConn), 53) })
	select {
	case err := <-failed:
		if !strings.Contains(err.Error(), "53/udp") {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody is told")
	}
}

func TestPublishRefusesOtherFiles(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewUser(UserConfig{Publish: []Publish{{Socket: f, Port: 80}}}); !errors.Is(err, ErrConfig) {
		t.Errorf("publishing /dev/null: %v", err)
	}
	if f.Close() == nil {
		t.Error("the file is still open")
	}
}

func BenchmarkTCP(b *testing.B) {
	_, guest := network(b, UserConfig{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	conn, err := gonet.DialContextTCP(soon(b), guest, full(example, portOf(l.Addr())), ipv4.ProtocolNumber)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	server, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	for _, way := range []struct {
		name     string
		from, to net.Conn
	}{{"up", conn, server}, {"down", server, conn}} {
		b.Run(way.name, func(b *testing.B) {
			const n = 1 << 20
			b.SetBytes(n)
			buf, in := make([]byte, n), make([]byte, n)
			for b.Loop() {
				done := make(chan error, 1)
				go func() {
					_, err := way.from.Write(buf)
					done <- err
				}()
				if _, err := io.ReadFull(way.to, in); err != nil {
					b.Fatal(err)
				}
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
