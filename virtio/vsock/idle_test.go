package vsock

import (
	"fmt"
	"testing"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// restful checks that the loop sleeps: a round for each question it is asked, and hardly any besides.
func (g *driver) restful(what string) {
	g.t.Helper()
	const asked = 300
	var first, last int
	g.dev.do(func(m *mux) { first = m.rounds })
	for range asked {
		g.dev.do(func(m *mux) { last = m.rounds })
	}
	if rounds := last - first; rounds > asked+50 {
		g.t.Errorf("%s: %d rounds of the loop for %d commands", what, rounds, asked)
	}
}

// TestIdle: whatever a device waits for, it sleeps meanwhile.
func TestIdle(t *testing.T) {
	g := newDriver(t, options{noRx: true, queue: 16})
	g.restful("nothing to do")
	c := g.dialHost()
	g.restful("a silent program")
	fmt.Fprint(c, "CONNECT 5\nmore")
	g.restful("no receive buffer for REQUEST")
	c.Close()
	g.restful("no receive buffer, and the program gone")
	for i := range uint32(maxRefusals + 10) {
		g.send(packet{header: header{srcPort: i, dstPort: 8, op: opRW}})
	}
	g.restful("transmission stopped")
	// The driver breaks its ring in that state.
	r := g.Rings[rxQueue]
	r.SetDesc(0, virtiotest.Desc{Addr: 1 << 60, Len: 100, Flags: virtiotest.WriteTo})
	r.Offer(0)
	r.Kick()
	g.AwaitNeedsReset()
	r.Kick()
	g.restful("given up")

	g = newDriver(t, options{})
	l := g.listenHost(7)
	a, _ := g.open(l, 1000, 7, plenty)
	g.restful("an open connection")
	g.setConn(7, 1000, func(c *conn) { c.peerAlloc = 0 })
	a.Write([]byte("no room for this"))
	g.expect(opCreditRequest, 7, 1000)
	a.CloseWrite()
	g.restful("a guest without room")
	for held := 0; held == 0; {
		g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRW}, data: make([]byte, 8000)})
		g.Rings[txQueue].Quiesce()
		g.setConn(7, 1000, func(c *conn) { held = c.out.n })
	}
	g.restful("a program that does not read")
	g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRST}})
	g.restful("a program that does not read, and no guest")
	if err := g.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	g.restful("paused")
}
