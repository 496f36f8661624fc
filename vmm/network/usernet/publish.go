package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

func full(addr netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(addr.AsSlice()), Port: port}
}

// publish serves one socket until Close. The guest sees the gateway as the other end.
func (u *User) publish(p Publish) error {
	if p.Port == 0 {
		return fmt.Errorf("%w: published port 0", ErrConfig)
	}
	if listener, err := net.FileListener(p.Socket); err == nil {
		p.Socket.Close() // listener has a duplicate
		return u.serve(listener.Close, func() { u.publishTCP(listener, p.Port) })
	}
	conn, err := net.FilePacketConn(p.Socket)
	if err != nil {
		return fmt.Errorf("%w: published port %d: neither a listening TCP socket nor a UDP socket: %w", ErrConfig, p.Port, err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return fmt.Errorf("%w: published port %d: not a socket of IP", ErrConfig, p.Port)
	}
	p.Socket.Close()
	return u.serve(udp.Close, func() { u.publishUDP(udp, p.Port) })
}

func (u *User) serve(closeSocket func() error, serve func()) error {
	if _, ok := u.onClose(func() { _ = closeSocket() }); !ok || !u.run(serve) {
		_ = closeSocket()
		return errors.New("user-mode network: it is closed")
	}
	return nil
}

func (u *User) publishTCP(l net.Listener, port uint16) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || u.ctx.Err() != nil {
				return
			}
			// No descriptors left, say: those who wait are still there when there are some.
			if !u.pause() {
				return
			}
			continue
		}
		host, ok := conn.(*net.TCPConn)
		if !ok || !u.connections.take() {
			conn.Close()
			continue
		}
		if !u.run(func() {
			defer u.connections.give()
			u.connectGuest(host, port)
		}) {
			u.connections.give()
			host.Close()
		}
	}
}

// connectGuest passes a connection on to the guest. If the guest does not take it, it is reset.
func (u *User) connectGuest(host *net.TCPConn, port uint16) {
	ctx, cancel := context.WithTimeout(u.ctx, dialTimeout)
	defer cancel()
	guest, err := u.dialGuest(ctx, port)
	if err != nil {
		_ = host.SetLinger(0)
		host.Close()
		return
	}
	u.join(guest, host)
}

// Of a published socket: how long to wait after an error, and how many in a row are the end of it.
const (
	errorPause = 100 * time.Millisecond
	maxErrors  = 10
)

// pause waits after an error and reports whether the network is still there.
func (u *User) pause() bool {
	select {
	case <-u.ctx.Done():
		return false
	case <-time.After(errorPause):
		return true
	}
}

// publishUDP gives each sender a flow of its own, so that answers find their way back.
func (u *User) publishUDP(conn *net.UDPConn, port uint16) {
	var mu sync.Mutex
	flows := map[netip.AddrPort]*sender{}
	buf := make([]byte, maxDatagram)
	for failures := 0; ; {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// It may be that of an earlier datagram.
			if failures++; failures == maxErrors {
				u.failed(fmt.Errorf("published port %s, to %d/udp in the guest, ends: %w", conn.LocalAddr(), port, err))
				conn.Close()
				return
			}
			if !u.pause() {
				return
			}
			continue
		}
		failures = 0
		mu.Lock()
		flow := flows[from]
		mu.Unlock()
		if flow == nil {
			if !u.flows.take() {
				continue
			}
			local, remote := full(u.cfg.Addresses.Gateway4, 0), full(u.cfg.Addresses.Guest4, port)
			guest, err := gonet.DialUDP(u.stack, &local, &remote, ipv4.ProtocolNumber)
			if err != nil {
				u.flows.give()
				continue
			}
			flow = &sender{conn: conn, to: from, in: make(chan []byte, 64), closed: make(chan struct{})}
			mu.Lock()
			flows[from] = flow
			mu.Unlock()
			if !u.run(func() {
				defer u.flows.give()
				u.exchange(flow, guest, flowIdle)
				mu.Lock()
				delete(flows, from)
				mu.Unlock()
			}) {
				u.flows.give()
				guest.Close()
				return
			}
		}
		select {
		case flow.in <- append([]byte(nil), buf[:n]...):
		default: // the guest is slower: lost, as datagrams are
		}
	}
}

// sender is one of those who send datagrams to a published port, as a connection.
type sender struct {
	net.Conn // nil: only what follows is used
	conn     *net.UDPConn
	to       netip.AddrPort
	in       chan []byte
	once     sync.Once
	closed   chan struct{}
	deadline time.Time
}

func (s *sender) SetReadDeadline(t time.Time) error { s.deadline = t; return nil }

func (s *sender) Read(p []byte) (int, error) {
	timer := time.NewTimer(time.Until(s.deadline))
	defer timer.Stop()
	select {
	case b := <-s.in:
		return copy(p, b), nil
	case <-s.closed:
		return 0, net.ErrClosed
	case <-timer.C:
		return 0, errIdle{}
	}
}

func (s *sender) Write(p []byte) (int, error) { return s.conn.WriteToUDPAddrPort(p, s.to) }

func (s *sender) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// errIdle is the error of a deadline that has passed.
type errIdle struct{}

func (errIdle) Error() string   { return "i/o timeout" }
func (errIdle) Timeout() bool   { return true }
func (errIdle) Temporary() bool { return true }
