package usernet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// outbound finds the way to a member, or makes it.
func (s *segment) outbound(dst netip.Addr) (*outbound, error) {
	peer := dst
	if dst.Is6() {
		name, err := os.Readlink(s.path(dst))
		if err != nil {
			return nil, err
		}
		if peer, err = netip.ParseAddr(name); err != nil || !peer.Is4() || !s.u.cfg.Addresses.isPeer(peer) {
			return nil, errNoMember
		}
	}
	s.mu.Lock()
	o, full := s.out[peer], len(s.out) >= maxPeers
	s.mu.Unlock()
	if o != nil {
		return o, nil
	}
	if full {
		return nil, errors.New("too many members")
	}
	conn, err := s.dial(peer)
	if err != nil {
		return nil, err
	}
	o = &outbound{conn: conn, queue: make(chan parcel, maxPeerPackets), done: make(chan struct{})}
	s.mu.Lock()
	if s.out == nil || s.out[peer] != nil { // closed; or made by the other end of a connection that has just ended
		other := s.out[peer]
		s.mu.Unlock()
		conn.Close()
		if other == nil {
			return nil, net.ErrClosed
		}
		return other, nil
	}
	s.out[peer] = o
	s.mu.Unlock()
	if !s.u.run(func() { s.watch(peer, o) }) || !s.u.run(func() { s.write(peer, o) }) {
		conn.Close()
		return nil, net.ErrClosed
	}
	return o, nil
}

// dial connects to a member, in this one's name.
func (s *segment) dial(peer netip.Addr) (*net.UnixConn, error) {
	to := s.path(peer)
	if _, err := os.Lstat(to); err != nil {
		return nil, err // the usual way for nobody to be there
	}
	from := filepath.Join(s.dir, connectionName(s.u.cfg.Addresses.Guest4, peer))
	// The name is needed while the connection is made only, and its kernel remembers it. A process that was
	// killed meanwhile has left it; it is this member's.
	os.Remove(from)
	defer os.Remove(from)
	return net.DialUnix("unixpacket", &net.UnixAddr{Name: from, Net: "unixpacket"}, &net.UnixAddr{Name: to, Net: "unixpacket"})
}

func connectionName(from, to netip.Addr) string { return from.String() + "-" + to.String() }

// watch waits for the other end of a connection to go. It sends nothing.
func (s *segment) watch(peer netip.Addr, o *outbound) {
	_, _ = o.conn.Read(make([]byte, 1))
	o.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out[peer] == o {
		delete(s.out, peer)
	}
	close(o.done)
}

// write sends what waits for a member, until the connection ends. What it has not sent is given to the next one, once: the
// member may have been started again.
func (s *segment) write(peer netip.Addr, o *outbound) {
	again := func(b parcel) {
		s.queued.Add(-int64(b.Size()))
		if b.again {
			s.count.lost.Add(1)
			b.Release()
			return
		}
		b.again = true
		s.send(peer, b)
	}
	for {
		select {
		case b := <-o.queue:
			if _, err := o.conn.Write(b.AsSlice()[header.EthernetMinimumSize:]); err != nil {
				o.conn.Close()
				<-o.done
				again(b)
				continue
			}
			s.count.sent.Add(1)
			s.queued.Add(-int64(b.Size()))
			b.Release()
		case <-o.done:
			for {
				select {
				case b := <-o.queue:
					again(b)
				default:
					return
				}
			}
		}
	}
}

// accept takes connections of other members.
func (s *segment) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !s.u.pause() {
				return
			}
			continue // no descriptors left, say
		}
		peer, err := s.identify(conn)
		if err != nil || !s.admit(peer, conn) {
			s.count.refused.Add(1)
			conn.Close()
		}
	}
}

// identify tells whose connection it is, by the name of its socket.
func (s *segment) identify(conn *net.UnixConn) (netip.Addr, error) {
	if err := sameUser(conn); err != nil {
		return netip.Addr{}, err
	}
	remote, ok := conn.RemoteAddr().(*net.UnixAddr)
	if !ok || !sameDir(filepath.Dir(remote.Name), s.dir) {
		return netip.Addr{}, errNoMember
	}
	from, to, _ := strings.Cut(filepath.Base(remote.Name), "-")
	peer, err := netip.ParseAddr(from)
	if err != nil || to != s.u.cfg.Addresses.Guest4.String() || !peer.Is4() || !s.u.cfg.Addresses.isPeer(peer) {
		return netip.Addr{}, errNoMember
	}
	return peer, nil
}

// sameDir tells whether two paths are one directory's: processes may know it by different ones.
func sameDir(a, b string) bool {
	if a == b {
		return true
	}
	one, err1 := os.Stat(a)
	two, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(one, two)
}

// sameUser makes sure that the other end of a connection is a process of this user, whatever the directory's mode.
func sameUser(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var credentials *unix.Ucred
	var errno error
	if err := raw.Control(func(fd uintptr) {
		credentials, errno = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if errno == nil && int(credentials.Uid) != os.Geteuid() {
		errno = unix.EPERM
	}
	return errno
}

// admit has a member's packets passed on. A new connection of a member takes the place of one that it had.
func (s *segment) admit(peer netip.Addr, conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.in[peer]
	if s.in == nil || old == nil && len(s.in) >= maxPeers {
		return false
	}
	if !s.u.run(func() { s.read(peer, conn) }) {
		return false
	}
	if old != nil {
		old.Close()
	}
	s.in[peer] = conn
	return true
}

// read passes on the packets of one member.
func (s *segment) read(peer netip.Addr, conn *net.UnixConn) {
	// One byte more than there may be, so that what is too long is seen.
	buf := make([]byte, header.EthernetMinimumSize+MTU+1)
	from := member{dir: s.dir, peer: peer}
	for {
		n, err := conn.Read(buf[header.EthernetMinimumSize:])
		if err != nil {
			break
		}
		frame, ok := s.fromPeer(&from, buf[:header.EthernetMinimumSize+n])
		switch {
		case !ok:
			s.count.refused.Add(1)
		case !s.u.toGuest(frame):
			s.count.lost.Add(1)
		default:
			s.count.received.Add(1)
		}
	}
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in[peer] == conn {
		delete(s.in, peer)
	}
}
