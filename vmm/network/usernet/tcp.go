package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// address is a netstack address as Go's.
func address(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

// acceptTCP makes a connection of the guest one of this host, on a goroutine of its own. The guest's is accepted when
// the host's is there, and refused if it is refused.
func (u *User) acceptTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	dst, silent, ok := u.destination(address(id.LocalAddress, id.LocalPort))
	if !ok || !u.connections.take() {
		r.Complete(true)
		return
	}
	if !u.run(func() {
		defer u.connections.give()
		u.forwardTCP(r, dst, silent)
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
	u.join(guestConn{gonet.NewTCPConn(&queue, ep), ep}, host.(*net.TCPConn))
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, syscall.ETIMEDOUT)
}

// guestConn is the guest's end of a connection.
type guestConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
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
func (u *User) join(a, b half) {
	abort := sync.OnceFunc(func() {
		_, _ = a.SetLinger(0), b.SetLinger(0)
		a.Close()
		b.Close()
	})
	forget, ok := u.onClose(abort)
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
