package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// publish serves one socket until Close. The guest sees the gateway as the other end.
func (s *sockets) publish(p Publish) error {
	if p.Port == 0 {
		return fmt.Errorf("%w: published port 0", ErrConfig)
	}
	if listener, err := net.FileListener(p.Socket); err == nil {
		p.Socket.Close() // listener has a duplicate
		return s.serve(listener.Close, func() { s.publishTCP(listener, p.Port) })
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
	return s.serve(udp.Close, func() { s.publishUDP(udp, p.Port) })
}

func (s *sockets) serve(closeSocket func() error, serve func()) error {
	if _, ok := s.onClose(func() { _ = closeSocket() }); !ok || !s.run(serve) {
		_ = closeSocket()
		return errors.New("user-mode network: it is closed")
	}
	return nil
}

func (s *sockets) publishTCP(l net.Listener, port uint16) {
	s.accept(l, func(host *net.TCPConn) { s.connectGuest(host, port) })
}

// accept takes connections as long as there may be more of them.
func (s *sockets) accept(l net.Listener, handle func(*net.TCPConn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
				return
			}
			// No descriptors left, say: those who wait are still there when there are some.
			if !s.pause() {
				return
			}
			continue
		}
		host, ok := conn.(*net.TCPConn)
		if !ok || !s.connections.take() {
			conn.Close()
			continue
		}
		if !s.run(func() {
			defer s.connections.give()
			handle(host)
		}) {
			s.connections.give()
			host.Close()
		}
	}
}

// connectGuest passes a connection on to the guest. If the guest does not take it, it is reset.
func (s *sockets) connectGuest(host *net.TCPConn, port uint16) {
	ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
	defer cancel()
	guest, err := s.guest.dialTCP(ctx, port)
	if err != nil {
		_ = host.SetLinger(0)
		host.Close()
		return
	}
	s.join(guest, host)
}

// Of a published socket: how long to wait after an error, and how many in a row are the end of it.
const (
	errorPause = 100 * time.Millisecond
	maxErrors  = 10
)

// pause waits after an error and reports whether the network is still there.
func (s *sockets) pause() bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(errorPause):
		return true
	}
}

// publishUDP passes datagrams on to the guest.
func (s *sockets) publishUDP(conn *net.UDPConn, port uint16) {
	s.serveUDP(conn, maxDatagram, fmt.Sprintf("published port %s, to %d/udp in the guest,", conn.LocalAddr(), port), func(flow *sender) {
		if guest, err := s.guest.dialUDP(port); err == nil {
			s.exchange(flow, guest, flowIdle)
		}
	})
}

// serveUDP gives each sender a flow of its own, so that answers find their way back. Datagrams are cut to size.
func (s *sockets) serveUDP(conn *net.UDPConn, size int, what string, handle func(*sender)) {
	var mu sync.Mutex
	flows := map[netip.AddrPort]*sender{}
	buf := make([]byte, size)
	for failures := 0; ; {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// It may be that of an earlier datagram.
			if failures++; failures == maxErrors {
				s.failed(fmt.Errorf("%s ends: %w", what, err))
				conn.Close()
				return
			}
			if !s.pause() {
				return
			}
			continue
		}
		failures = 0
		mu.Lock()
		flow := flows[from]
		mu.Unlock()
		if flow == nil {
			if !s.flows.take() {
				continue
			}
			flow = &sender{conn: conn, to: from, in: make(chan []byte, 64), closed: make(chan struct{})}
			mu.Lock()
			flows[from] = flow
			mu.Unlock()
			if !s.run(func() {
				defer s.flows.give()
				handle(flow)
				mu.Lock()
				delete(flows, from)
				mu.Unlock()
			}) {
				s.flows.give()
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
