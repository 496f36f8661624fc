package usernet

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// connected is a connection of the guest to a server of this host.
func connected(t testing.TB, guest *stack.Stack) (conn *gonet.TCPConn, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if conn, err = dial(t, guest, example, portOf(l.Addr())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return conn, accepted.(*net.TCPConn)
}

// A reset by the server is one for the guest, and the other way round.
func TestReset(t *testing.T) {
	_, guest := network(t, UserConfig{})
	conn, server := connected(t, guest)
	_ = server.SetLinger(0)
	server.Close()
	checkReset(t, conn)

	conn, server = connected(t, guest)
	resetByUnread(t, server, conn)
}

// resetByUnread has one end reset the connection, by closing it before it has read everything.
func resetByUnread(t testing.TB, other, end net.Conn) {
	t.Helper()
	if _, err := other.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	_ = end.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(end, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	end.Close()
	checkReset(t, other)
}

// published is a network whose guest listens at port 80, and the address of this host that leads there.
func published(t testing.TB, change func(*User)) (server *gonet.TCPListener, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, guest := network(t, UserConfig{Publish: []Publish{{Socket: file(t, l.(*net.TCPListener)), Port: 80}}})
	change(u)
	l.Close()
	if server, err = gonet.ListenTCP(guest, full(Guest4, 80), ipv4.ProtocolNumber); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server, l.Addr().String()
}

// checkReset checks that reading from c says that it was reset.
func checkReset(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "reset") {
		t.Errorf("reading from a connection that was reset: %v", err)
	}
}

// A reset of either end of a published connection is one for the other.
func TestPublishedReset(t *testing.T) {
	server, addr := published(t, func(*User) {})
	for _, byGuest := range []bool{false, true} {
		host, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		guest, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer guest.Close()
		if got := make([]byte, 1); !byGuest {
			if _, err := host.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(guest, got); err != nil {
				t.Fatal(err)
			}
			_ = host.(*net.TCPConn).SetLinger(0)
			host.Close()
			checkReset(t, guest)
			continue
		}
		resetByUnread(t, host, guest)
	}
}

// A guest that has forgotten a connection without a word does not keep it here for ever.
func TestKeepAlive(t *testing.T) {
	u, guest := network(t, UserConfig{})
	u.keepAlive = keepAlive{idle: 600 * time.Millisecond, interval: 600 * time.Millisecond, count: 2} // a stack answers to two in a second
	_, server := connected(t, guest)
	// Alive, it answers: longer than it would take to be given up.
	_ = server.SetReadDeadline(time.Now().Add(2500 * time.Millisecond))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("an idle connection: %v", err)
	}
	if err := guest.RemoveNIC(nic); err != nil {
		t.Fatal(err)
	}
	checkReset(t, server)
}
