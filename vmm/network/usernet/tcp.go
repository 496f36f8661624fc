package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// address is a netstack address as Go's.
func address(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

func full(addr netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(addr.AsSlice()), Port: port}
}

// acceptTCP makes a connection of the guest one of this host, on a goroutine of its own. The guest's is accepted when
// the host's is there, and refused if it is refused.
func (u *User) acceptTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	to := address(id.LocalAddress, id.LocalPort)
	dst, silent, ok := u.destination(to)
	named := u.names != nil && u.isDNS(to)
	if !ok && !named || !u.connections.take() {
		r.Complete(true)
		return
	}
	if !u.run(func() {
		defer u.connections.give()
		if named {
			u.answerTCP(r)
		} else {
			u.forwardTCP(r, dst, silent)
		}
	}) {
		u.connections.give()
		r.Complete(false)
	}
}

func (u *User) forwardTCP(r *tcp.ForwarderRequest, dst netip.AddrPort, silent func()) {
	host, err := u.dialer.DialContext(u.ctx, "tcp", dst.String())
	if err != nil {
		silent()
		// Who never answers is not answered for: the guest's own timeout tells it.
		r.Complete(!errors.Is(err, context.DeadlineExceeded) && !isTimeout(err))
		return
	}
	var queue waiter.Queue
	ep, terr := r.CreateEndpoint(&queue)
	if terr != nil {
		host.Close()
		r.Complete(true)
		return
	}
	r.Complete(false)
	u.join(u.guestConn(&queue, ep), host.(*net.TCPConn))
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, syscall.ETIMEDOUT)
}

// keepAlive says when the guest's end of a connection that is silent counts as dead.
type keepAlive struct {
	idle, interval time.Duration
	count          int
}

// defaultKeepAlive is Linux's: a guest may be paused for two hours and keep its connections.
var defaultKeepAlive = keepAlive{idle: 2 * time.Hour, interval: 75 * time.Second, count: 9}

// guestConn is the guest's end of a connection.
type guestConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// guestConn makes one of an endpoint, which is asked now and then whether the guest still knows of it: else what it has
// forgotten would be kept for ever.
func (u *User) guestConn(queue *waiter.Queue, ep tcpip.Endpoint) guestConn {
	idle, interval := tcpip.KeepaliveIdleOption(u.keepAlive.idle), tcpip.KeepaliveIntervalOption(u.keepAlive.interval)
	// None of these fails on a TCP endpoint.
	_, _ = ep.SetSockOpt(&idle), ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, u.keepAlive.count)
	ep.SocketOptions().SetKeepAlive(true)
	return guestConn{gonet.NewTCPConn(queue, ep), ep}
}

// dialTCP connects to a port of the guest. It is gonet.DialTCPWithBind, which keeps the endpoint to itself.
func (u *User) dialTCP(ctx context.Context, port uint16) (half, error) {
	var queue waiter.Queue
	bad := func(what string, err tcpip.Error) (half, error) {
		return nil, fmt.Errorf("%s port %d of the guest: %s", what, port, err)
	}
	ep, err := u.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if err != nil {
		return bad("preparing for", err)
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	if err = ep.Bind(full(u.cfg.Addresses.Gateway4, 0)); err == nil {
		err = ep.Connect(full(u.cfg.Addresses.Guest4, port))
	}
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			err = ep.LastError()
		case <-ctx.Done():
			ep.Close()
			return nil, ctx.Err()
		}
	}
	if err != nil {
		ep.Close()
		return bad("connecting to", err)
	}
	return u.guestConn(&queue, ep), nil
}

// SetLinger is that of net.TCPConn: with 0 Close resets the connection.
func (c guestConn) SetLinger(seconds int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: seconds >= 0, Timeout: time.Duration(seconds) * time.Second})
	return nil
}

// half is one end of a connection, each direction of which ends by itself.
type half interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetLinger(seconds int) error
}

var copyBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// join passes bytes both ways until both directions have ended, or the connection is reset.
func (s *sockets) join(a, b half) {
	abort := sync.OnceFunc(func() {
		_, _ = a.SetLinger(0), b.SetLinger(0)
		a.Close()
		b.Close()
	})
	forget, ok := s.onClose(abort)
	if !ok {
		abort()
		return
	}
	defer forget()
	var both sync.WaitGroup
	pass := func(dst, src half) {
		buf := copyBuffers.Get().(*[64 << 10]byte)
		defer copyBuffers.Put(buf)
		// Not ReadFrom: it would wait in a buffer of its own.
		if _, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:]); err != nil {
			abort()
			return
		}
		if dst.CloseWrite() != nil {
			abort()
		}
	}
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	both.Wait()
	a.Close()
	b.Close()
}
