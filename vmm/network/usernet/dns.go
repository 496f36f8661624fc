package usernet

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Names is what a network's name server knows by itself. It is asked by several goroutines at once.
type Names interface {
	// Lookup tells the addresses that a name stands for. Names have no dot at their end, and no capital letters. known
	// is false for one that other servers are to be asked for.
	Lookup(name string) (addresses []netip.Addr, known bool)
	// Reverse tells the name of an address, "" if it has none. known is false for one that is not of the network.
	Reverse(netip.Addr) (name string, known bool)
}

// nameTTL is how long an answer may be believed, in seconds: docker's.
const nameTTL = 600

// answer makes the reply to a query that is answered here. It is nil for one that is for the host's name servers; if
// there are none to ask, the reply says so.
func (s *sockets) answer(query []byte, more bool) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	reply := dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true}
	questions, err := p.AllQuestions()
	if err == nil && len(questions) == 1 && h.OpCode == 0 && questions[0].Class == dnsmessage.ClassINET {
		if b, known := s.answerQuestion(reply, questions[0]); known {
			return b
		}
	}
	if more {
		return nil
	}
	reply.RCode = dnsmessage.RCodeServerFailure
	if err != nil {
		reply.RCode, questions = dnsmessage.RCodeFormatError, nil
	}
	b, err := (&dnsmessage.Message{Header: reply, Questions: questions[:min(len(questions), 1)]}).Pack()
	if err != nil {
		return nil
	}
	return b
}

func (s *sockets) answerQuestion(h dnsmessage.Header, q dnsmessage.Question) (reply []byte, known bool) {
	m := dnsmessage.Message{Header: h, Questions: []dnsmessage.Question{q}}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: nameTTL}, Body: body,
		})
	}
	if addr, ok := reverseName(name); ok {
		target, known := s.names.Reverse(addr)
		if !known {
			return nil, false
		}
		n, err := dnsmessage.NewName(target + ".")
		switch {
		case target == "" || err != nil:
			m.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL:
			add(&dnsmessage.PTRResource{PTR: n})
		}
	} else {
		addresses, known := s.names.Lookup(name)
		if !known {
			return nil, false
		}
		// Those who have a name together take turns.
		rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
		for _, a := range addresses[:min(len(addresses), maxAnswers)] {
			switch {
			case a.Is4() && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL):
				add(&dnsmessage.AResource{A: a.As4()})
			case a.Is6() && (q.Type == dnsmessage.TypeAAAA || q.Type == dnsmessage.TypeALL):
				add(&dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
	}
	b, err := m.Pack()
	return b, err == nil
}

// maxAnswers keeps a reply within the 512 bytes that a datagram of DNS may have (RFC 1035, 4.2.1).
const maxAnswers = 8

// reverseName is the address that a name under in-addr.arpa or ip6.arpa stands for (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseName(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		addr, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return addr, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	labels := strings.Split(rest, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, label := range labels {
		digit, err := strconv.ParseUint(label, 16, 4)
		if err != nil || len(label) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

// dnsConn is the guest's end of a flow of queries: those that are answered here are not seen by who reads from it.
type dnsConn struct {
	net.Conn
	s    *sockets
	more bool // there are servers to ask
}

func (c dnsConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil {
			return n, err
		}
		reply := c.s.answer(b[:n], c.more)
		if reply == nil && c.more {
			return n, nil
		}
		if reply != nil {
			_, _ = c.Conn.Write(reply) // what cannot be delivered is lost, as datagrams are
		}
	}
}

// answerUDP answers a flow of queries. server is to be asked for what is not known here, if it can be.
func (s *sockets) answerUDP(guest net.Conn, server netip.AddrPort, ok bool, silent func()) {
	if ok {
		host, err := s.dialer.DialContext(s.ctx, "udp", server.String())
		if err == nil {
			if !s.exchange(dnsConn{guest, s, true}, host, dnsIdle) {
				silent()
			}
			return
		}
		silent()
	}
	defer guest.Close()
	forget, ok := s.onClose(func() { guest.Close() })
	if !ok {
		return
	}
	defer forget()
	_ = guest.SetReadDeadline(time.Now().Add(dnsIdle))
	_, _ = dnsConn{guest, s, false}.Read(make([]byte, maxDatagram))
}

// answerTCP answers the queries of a connection, one after the other (RFC 1035, 4.2.2).
func (u *User) answerTCP(r *tcp.ForwarderRequest) {
	var queue waiter.Queue
	ep, err := r.CreateEndpoint(&queue)
	r.Complete(err != nil)
	if err != nil {
		return
	}
	u.answerStream(u.guestConn(&queue, ep))
}

func (s *sockets) answerStream(guest net.Conn) {
	defer guest.Close()
	forget, ok := s.onClose(func() { guest.Close() })
	if !ok {
		return
	}
	defer forget()
	for {
		_ = guest.SetDeadline(time.Now().Add(dnsIdle))
		query, err := readMessage(guest)
		if err != nil {
			return
		}
		dst, silent, more := s.upstream()
		reply := s.answer(query, more)
		if reply == nil && more {
			if reply, err = s.askTCP(dst, query); err != nil {
				silent()
				reply = s.answer(query, false)
			}
		}
		if reply == nil || writeMessage(guest, reply) != nil {
			return
		}
	}
}

// upstream picks a name server of the host.
func (s *sockets) upstream() (_ netip.AddrPort, silent func(), ok bool) {
	if s.internal {
		return netip.AddrPort{}, nil, false
	}
	return s.resolvers.pick()
}

// askTCP asks a name server of the host.
func (s *sockets) askTCP(server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := s.dialer.DialContext(s.ctx, "tcp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	forget, ok := s.onClose(func() { conn.Close() })
	if !ok {
		return nil, net.ErrClosed
	}
	defer forget()
	_ = conn.SetDeadline(time.Now().Add(dnsIdle))
	if err := writeMessage(conn, query); err != nil {
		return nil, err
	}
	return readMessage(conn)
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	if len(b) > 0xffff {
		return errors.New("a message of DNS is too long")
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}
