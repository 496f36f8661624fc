package usernet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// How long a flow of datagrams may be silent before it is forgotten (RFC 4787 asks for two minutes), and how long a
// name server is waited for.
const (
	flowIdle = 2 * time.Minute
	dnsIdle  = 5 * time.Second
)

// maxDatagram is the longest payload of a datagram, in bytes.
const maxDatagram = 65535

// acceptUDP makes a flow of the guest one of this host.
func (u *User) acceptUDP(r *udp.ForwarderRequest) {
	id := r.ID()
	from := address(id.LocalAddress, id.LocalPort)
	dst, silent, ok := u.destination(from)
	named := u.names != nil && u.isDNS(from)
	if !ok && !named || !u.flows.take() {
		return
	}
	var queue waiter.Queue
	ep, err := r.CreateEndpoint(&queue)
	if err != nil {
		u.flows.give()
		return
	}
	guest := gonet.NewUDPConn(&queue, ep)
	if !u.run(func() {
		defer u.flows.give()
		if named {
			u.answerUDP(guest, dst, ok, silent)
		} else {
			u.forwardUDP(guest, dst, from.Port() == portDNS, silent)
		}
	}) {
		u.flows.give()
		guest.Close()
	}
}

func (u *User) forwardUDP(guest net.Conn, dst netip.AddrPort, dns bool, silent func()) {
	host, err := u.dialer.DialContext(u.ctx, "udp", dst.String())
	if err != nil {
		guest.Close()
		return
	}
	idle := flowIdle
	if dns {
		idle = dnsIdle
	}
	if !u.exchange(guest, host, idle) {
		silent()
	}
}

// exchange passes datagrams both ways until none has come for a while. answered tells whether b has sent any, if it was asked.
func (s *sockets) exchange(a, b net.Conn, idle time.Duration) (answered bool) {
	end := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	defer end()
	forget, ok := s.onClose(end)
	if !ok {
		return true
	}
	defer forget()
	var last, answers atomic.Int64
	last.Store(time.Now().UnixNano())
	var both sync.WaitGroup
	pass := func(dst, src net.Conn, count *atomic.Int64) {
		defer end()
		buf := copyBuffers.Get().(*[64 << 10]byte)
		defer copyBuffers.Put(buf)
		for {
			_ = src.SetReadDeadline(time.Unix(0, last.Load()).Add(idle))
			n, err := src.Read(buf[:maxDatagram])
			if errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err) {
				if time.Since(time.Unix(0, last.Load())) >= idle {
					return
				}
				continue // the other direction has been busy
			}
			if err != nil {
				return
			}
			last.Store(time.Now().UnixNano())
			count.Add(1)
			// What cannot be delivered is lost, as datagrams are.
			_, _ = dst.Write(buf[:n])
		}
	}
	var asked atomic.Int64
	both.Go(func() { pass(b, a, &asked) })
	both.Go(func() { pass(a, b, &answers) })
	both.Wait()
	return answers.Load() > 0 || asked.Load() == 0 // what the guest was told without asking b
}

// dialUDP begins a flow to a port of the guest.
func (u *User) dialUDP(port uint16) (net.Conn, error) {
	local, remote := full(u.cfg.Addresses.Gateway4, 0), full(u.cfg.Addresses.Guest4, port)
	return gonet.DialUDP(u.stack, &local, &remote, ipv4.ProtocolNumber)
}
