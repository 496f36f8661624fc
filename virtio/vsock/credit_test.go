package vsock

import (
	"bytes"
	"io"
	"testing"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// setConn changes a connection from inside.
func (g *driver) setConn(hostPort, guestPort uint32, change func(*conn)) {
	g.t.Helper()
	found := false
	err := g.dev.do(func(m *mux) {
		if c := m.byPorts[key(hostPort, guestPort)]; c != nil {
			found = true
			change(c)
		}
	})
	if err != nil || !found {
		g.t.Fatalf("no connection %d:%d: %v", hostPort, guestPort, err)
	}
}

// credit sends CREDIT_UPDATE.
func (g *driver) credit(hostPort, guestPort, alloc, fwd uint32) {
	g.send(packet{header: header{srcPort: guestPort, dstPort: hostPort, op: opCreditUpdate, bufAlloc: alloc, fwdCnt: fwd}})
}

// gather receives data until n bytes have come.
func (g *driver) gather(hostPort, guestPort uint32, n int) []byte {
	g.t.Helper()
	var got []byte
	for len(got) < n {
		got = append(got, g.expect(opRW, hostPort, guestPort).data...)
	}
	if len(got) > n {
		g.t.Fatalf("received %d bytes, want %d: more than the credit", len(got), n)
	}
	return got
}

// TestGuestCredit: the device sends no more than the guest has room for (5.10.6.3), whatever the guest's counters do.
func TestGuestCredit(t *testing.T) {
	g := newDriver(t, options{})
	host, port := g.connect(9, 0)
	sent := data(5000, 1)
	host.Write(sent)
	// No credit: after a while it is asked for.
	g.expect(opCreditRequest, port, 9)
	g.credit(port, 9, 0, 0)
	g.nothing()
	// 100 bytes.
	g.credit(port, 9, 100, 0)
	got := g.gather(port, 9, 100)
	g.expect(opCreditRequest, port, 9)
	g.credit(port, 9, 100, 40)
	got = append(got, g.gather(port, 9, 40)...)
	// Shrunk below what is in flight, which is 100: no room until it has gone.
	for _, c := range []struct {
		alloc, fwd uint32
		room       int
	}{
		{99, 40, 0},
		{10, 40, 0},
		{0, 40, 0},
		{0, 140, 0},
		{10, 140, 10},
		{10, 140, 0},
		// fwd_cnt beyond what was sent, and far behind.
		{10, 151, 0},
		{plenty, 151, 0},
		{10, 1<<31 + 150, 0},
		{1<<32 - 1, 151, 0},
		{10, 150, 10},
		// All of buf_alloc's range.
		{1<<32 - 1, 150, 5000 - 160},
	} {
		g.credit(port, 9, c.alloc, c.fwd)
		if c.room > 0 {
			got = append(got, g.gather(port, 9, c.room)...)
		}
		for { // a request may have been sent while there was none
			g.Rings[txQueue].Quiesce()
			p, ok := g.poll()
			if !ok {
				break
			}
			if p.op != opCreditRequest {
				t.Fatalf("with %+v: received %v", c, p)
			}
		}
	}
	if !bytes.Equal(got, sent) {
		t.Error("the guest has not received what was sent")
	}
}

// TestCreditWraps has all counters pass 2^32.
func TestCreditWraps(t *testing.T) {
	s := newStack(t, options{})
	e, err := s.fromHost(9, s.listen(9))
	if err != nil {
		t.Fatal(err)
	}
	const near = 1<<32 - 300_000
	e.guest.mu.Lock()
	e.guest.fwdCnt, e.guest.toldFwd, e.guest.txCnt, e.guest.peerFwd = near, near, near, near
	e.guest.mu.Unlock()
	s.setConn(e.guest.hostPort, 9, func(c *conn) {
		c.rxCnt, c.fwdCnt, c.toldFwd, c.txCnt, c.peerFwd = near, near, near, near, near
	})
	if err := e.exchange(data(2<<20, 1), data(2<<20, 2)); err != nil {
		t.Error(err)
	}
	e.guest.Close()
	e.host.Close()
	s.awaitConns(0)
}

// TestHostCredit: the guest may send as much as the device says and not a byte more (22); a program that does not read
// makes the device hold that much and not more.
func TestHostCredit(t *testing.T) {
	g := newDriver(t, options{txSize: 32 << 10})
	host, response := g.open(g.listenHost(7), 1000, 7, plenty)
	if response.bufAlloc != maxGrant || response.fwdCnt != 0 {
		t.Errorf("RESPONSE %v, want a buf_alloc of %d", response, maxGrant)
	}
	sent := data(2<<20, 3)
	tx, fwd := 0, 0
	ask := func() int { // the room that the device says there is
		g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opCreditRequest, bufAlloc: plenty}})
		for {
			p := g.expect(opCreditUpdate, 7, 1000)
			fwd = int(p.fwdCnt)
			g.Rings[txQueue].Quiesce()
			if g.Rings[rxQueue].UsedIdx() == g.rxSeen {
				return maxGrant - (tx - fwd)
			}
		}
	}
	send := func(n int) {
		g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRW, bufAlloc: plenty}, data: sent[tx : tx+n]})
		tx += n
	}
	for room := ask(); room > 0; room = ask() {
		send(min(room, 32<<10-headerSize))
	}
	held := 0
	g.setConn(7, 1000, func(c *conn) { held = c.out.n })
	if held != maxGrant {
		t.Errorf("%d bytes are held back, want %d", held, maxGrant)
	}
	// The program reads, and there is room.
	got := make([]byte, tx)
	if _, err := io.ReadFull(host, got); err != nil || !bytes.Equal(got, sent[:tx]) {
		t.Errorf("host reads something else: %v", err)
	}
	g.expect(opCreditUpdate, 7, 1000)
	for room := ask(); room > 0; room = ask() {
		send(min(room, 32<<10-headerSize))
	}
	send(1)
	g.expect(opRST, 7, 1000)
	g.awaitConns(0)
	if n, _ := io.Copy(io.Discard, host); n == 0 {
		t.Error("what the program's socket holds is gone")
	}
}

// TestSharedBudget: the first connections have much credit, thousands have some.
func TestSharedBudget(t *testing.T) {
	m := &mux{byPorts: map[uint64]*conn{}}
	for range maxConns {
		m.newConn(-1, stateOpen)
	}
	if limit := grantBudget + maxConns*minGrant; m.granted > limit {
		t.Errorf("%d bytes of credit for %d connections, want at most %d", m.granted, maxConns, limit)
	}
	for i, c := range m.slots {
		if c.grant < minGrant || i < 100 && c.grant != maxGrant {
			t.Errorf("connection %d has %d bytes of credit", i, c.grant)
		}
	}
	for _, c := range m.slots {
		m.drop(c)
	}
	if m.granted != 0 || m.count != 0 {
		t.Errorf("%d bytes of credit for %d connections are left", m.granted, m.count)
	}
}

// TestManyConnections: one more than there may be is refused, and room comes back.
func TestManyConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of sockets")
	}
	g := newDriver(t, options{})
	l := g.listenHost(7)
	request := func(i int) {
		g.send(packet{header: header{srcPort: uint32(i), dstPort: 7, op: opRequest, bufAlloc: plenty}})
	}
	for i := range maxGuestConns {
		request(i)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		g.expect(opResponse, 7, uint32(i))
	}
	request(maxGuestConns)
	g.expect(opRST, 7, maxGuestConns)
	// The host still can.
	host, port := g.connect(9, plenty)
	host.Write([]byte("x"))
	g.expect(opRW, port, 9)
	g.send(packet{header: header{srcPort: 0, dstPort: 7, op: opRST}})
	g.send(packet{header: header{srcPort: 1, dstPort: 7, op: opRST}})
	request(maxGuestConns)
	g.expect(opResponse, 7, maxGuestConns)
	if s := g.Status(); s&virtiotest.NeedsReset != 0 {
		t.Errorf("status = %#x", s)
	}
}
