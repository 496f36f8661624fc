package vsock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// TestUnconnected sends packets that belong to no connection.
func TestUnconnected(t *testing.T) {
	g := newDriver(t, options{})
	valid := packet{header: header{
		srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 7, typ: typeStream, op: opRW, bufAlloc: plenty,
	}}
	for _, c := range []struct {
		name   string
		change func(*packet)
		answer bool
	}{
		{"data", func(p *packet) { p.data, p.len = []byte("x"), 1 }, true},
		{"operation 0", func(p *packet) { p.op = 0 }, true},
		{"operation 8", func(p *packet) { p.op = 8 }, true},
		{"operation 65535", func(p *packet) { p.op = 0xffff }, true},
		{"request to nobody", func(p *packet) { p.op = opRequest }, true},
		{"request to port 2^32-1", func(p *packet) { p.op, p.dstPort = opRequest, 1<<32-1 }, true},
		{"response", func(p *packet) { p.op = opResponse }, true},
		{"shutdown", func(p *packet) { p.op, p.flags = opShutdown, shutdownBoth }, true},
		{"credit update", func(p *packet) { p.op = opCreditUpdate }, true},
		{"credit request", func(p *packet) { p.op = opCreditRequest }, true},
		{"reset", func(p *packet) { p.op = opRST }, false},
		{"reset of an unknown type", func(p *packet) { p.op, p.typ = opRST, 9 }, false},
		{"sequenced packets, which were not offered", func(p *packet) { p.op, p.typ = opRequest, 2 }, true},
		{"type 0", func(p *packet) { p.op, p.typ = opRequest, 0 }, true},
		{"type 65535", func(p *packet) { p.typ = 0xffff }, true},
		{"to CID 0", func(p *packet) { p.op, p.dstCID = opRequest, 0 }, true},
		{"to CID 1", func(p *packet) { p.op, p.dstCID = opRequest, 1 }, true},
		{"to a sibling", func(p *packet) { p.op, p.dstCID = opRequest, 3 }, true},
		{"to itself", func(p *packet) { p.op, p.dstCID = opRequest, testCID }, true},
		{"to CID 2^32-1", func(p *packet) { p.op, p.dstCID = opRequest, 1<<32-1 }, true},
		{"to the host with a high bit", func(p *packet) { p.op, p.dstCID = opRequest, 1<<32|hostCID }, true},
		{"from the host", func(p *packet) { p.srcCID = hostCID }, false},
		{"from a sibling", func(p *packet) { p.srcCID = testCID + 1 }, false},
		{"from CID 0", func(p *packet) { p.srcCID = 0 }, false},
		{"from itself with a high bit", func(p *packet) { p.srcCID = 1<<32 | testCID }, false},
		{"length beyond the buffer", func(p *packet) { p.len = 1 }, true},
		{"length of 2^32-1", func(p *packet) { p.len = 1<<32 - 1 }, true},
		{"request with a length beyond the buffer", func(p *packet) { p.op, p.len = opRequest, 1<<31 }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.t = t
			p := valid
			c.change(&p)
			g.sendRaw(p)
			if !c.answer {
				g.nothing()
				return
			}
			got := g.receive()
			if got.op != opRST || got.typ != p.typ || got.srcCID != p.dstCID || got.srcPort != p.dstPort || got.dstPort != p.srcPort || got.len != 0 {
				t.Errorf("answer to %v is %v, want RST", p, got)
			}
			g.nothing()
		})
	}
	g.t = t
	g.awaitConns(0)
	// A packet may be larger than it says.
	p := valid
	p.data = make([]byte, 100)
	g.sendRaw(p)
	g.expect(opRST, 7, 1000)
}

// TestShortPackets: a header that is not whole is no packet (17), however it is cut into descriptors.
func TestShortPackets(t *testing.T) {
	g := newDriver(t, options{})
	r := g.Rings[txQueue]
	for n := range headerSize {
		r.SetDesc(0, virtiotest.Desc{Addr: g.txAt[0], Len: uint32(n)})
		r.Offer(0)
		r.Kick()
		g.nothing()
		if id, written, ok := r.TakeUsed(); !ok || id != 0 || written != 0 {
			t.Fatalf("%d bytes: used entry %d, %d, %v", n, id, written, ok)
		}
	}
	// Nothing but room to write.
	r.SetDesc(0, virtiotest.Desc{Addr: g.txAt[0], Len: 4096, Flags: virtiotest.WriteTo})
	r.Offer(0)
	r.Kick()
	g.nothing()
}

// TestOutOfOrder sends on a connection what is not allowed there. The guest gets RST, the host program an end.
func TestOutOfOrder(t *testing.T) {
	g := newDriver(t, options{})
	l := g.listenHost(7)
	for i, c := range []struct {
		name string
		bad  []packet
	}{
		{"operation 0", []packet{{header: header{op: 0}}}},
		{"operation 8", []packet{{header: header{op: 8}}}},
		{"operation 65535", []packet{{header: header{op: 0xffff}}}},
		{"request", []packet{{header: header{op: opRequest}}}},
		{"response", []packet{{header: header{op: opResponse}}}},
		{"length beyond the buffer", []packet{{header: header{op: opRW, len: 11}, data: make([]byte, 10)}}},
		{"length beyond the buffer of another operation", []packet{{header: header{op: opCreditUpdate, len: 1}}}},
		{"data after its end", []packet{{header: header{op: opShutdown, flags: shutdownSend}}, {header: header{op: opRW}, data: []byte("x")}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.t = t
			port := uint32(1000 + i)
			host, _ := g.open(l, port, 7, plenty)
			for _, p := range c.bad {
				p.srcPort, p.dstPort, p.bufAlloc = port, 7, plenty
				g.send(p)
			}
			g.expect(opRST, 7, port)
			if b, err := io.ReadAll(host); len(b) > 0 || err != nil {
				t.Errorf("host reads %q, %v", b, err)
			}
			g.awaitConns(0)
			// The ports are free again.
			g.open(l, port, 7, plenty)
			g.send(packet{header: header{srcPort: port, dstPort: 7, op: opRST}})
			g.awaitConns(0)
		})
	}
	g.t = t
	// A connection of another type beside one with the same ports is another connection.
	host, _ := g.open(l, 999, 7, plenty)
	g.send(packet{header: header{srcPort: 999, dstPort: 7, typ: 2, op: opRST}})
	g.send(packet{header: header{srcPort: 999, dstPort: 7, typ: 2, op: opRW}})
	if p := g.receive(); p.op != opRST || p.typ != 2 {
		t.Errorf("received %v, want RST of type 2", p)
	}
	g.send(packet{header: header{srcPort: 999, dstPort: 7, op: opRW, bufAlloc: plenty}, data: []byte("still here\n")})
	if line := readLine(t, host); line != "still here" {
		t.Errorf("host reads %q", line)
	}
}

// TestBeforeResponse: until the guest has accepted, nothing but RESPONSE or RST may come from it.
func TestBeforeResponse(t *testing.T) {
	g := newDriver(t, options{})
	for _, op := range []uint16{opRW, opShutdown, opCreditUpdate, opCreditRequest, opRequest, 77} {
		c := g.dialHost()
		fmt.Fprint(c, "CONNECT 9\n")
		p := g.receive()
		g.send(packet{header: header{srcPort: 9, dstPort: p.srcPort, op: op, bufAlloc: plenty}})
		g.expect(opRST, p.srcPort, 9)
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
			t.Errorf("op %d: host reads %q, %v", op, b, err)
		}
	}
	g.awaitConns(0)
}

// TestRxFull: while the guest offers no receive buffers its data goes on (5.10.6.1), and answers wait. When too many do,
// transmission stops until there is room, and nothing is lost.
func TestRxFull(t *testing.T) {
	for _, features := range []uint64{0, virtiotest.EventIdx} {
		g := newDriver(t, options{features: features, noRx: true, queue: 16})
		r := g.Rings[rxQueue]
		l := g.listenHost(7)
		g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRequest, bufAlloc: plenty}})
		host, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		g.offer(0)
		r.KickIfWanted()
		for {
			id, n, ok := r.TakeUsed()
			if ok {
				if id != 0 || n != headerSize {
					t.Fatalf("used entry %d, %d", id, n)
				}
				break
			}
			<-g.bell.rx
		}
		g.rxSeen++
		for range 100 {
			g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRW, bufAlloc: plenty}, data: []byte("on and on")})
		}
		b := make([]byte, 900)
		if _, err := io.ReadFull(host, b); err != nil || !bytes.Equal(b, bytes.Repeat([]byte("on and on"), 100)) {
			t.Fatalf("host reads %q, %v", b, err)
		}
		// Packets to nobody: RSTs wait up to a bound.
		const many = maxRefusals + 16
		for i := range many {
			g.send(packet{header: header{srcPort: uint32(i), dstPort: 8, op: opRW}})
		}
		g.Rings[txQueue].Quiesce()
		if used := int(g.Rings[txQueue].UsedIdx()); used != 1+100+maxRefusals {
			t.Errorf("%d packets were taken, want %d", used, 1+100+maxRefusals)
		}
		host.Write([]byte("for you"))
		for i := range uint16(16) {
			g.offer(i)
		}
		r.KickIfWanted()
		got := map[uint32]bool{}
		data := 0
		for len(got) < many || data < len("for you") {
			p := g.receive()
			switch {
			case p.op == opRST && p.srcPort == 8 && !got[p.dstPort]:
				got[p.dstPort] = true
			case p.op == opRW:
				data += len(p.data)
			case p.op == opCreditUpdate:
			default:
				t.Fatalf("received %v", p)
			}
		}
		g.nothing()
		host.Close()
	}
}

// TestUselessRxBuffers: buffers with no room for a header, or for data, come back empty and do no harm.
func TestUselessRxBuffers(t *testing.T) {
	g := newDriver(t, options{noRx: true, queue: 16})
	r := g.Rings[rxQueue]
	c := g.dialHost()
	fmt.Fprint(c, "CONNECT 9\nsome data")
	for i, n := range []uint32{0, 1, headerSize - 1} {
		r.SetDesc(uint16(i), virtiotest.Desc{Addr: g.rxAt[i], Len: n, Flags: virtiotest.WriteTo})
		r.Offer(uint16(i))
	}
	// Of the wrong direction.
	r.SetDesc(3, virtiotest.Desc{Addr: g.rxAt[3], Len: 4096})
	r.Offer(3)
	// Just enough for REQUEST.
	r.SetDesc(4, virtiotest.Desc{Addr: g.rxAt[4], Len: headerSize, Flags: virtiotest.WriteTo})
	r.Offer(4)
	r.Kick()
	take := func(want uint32) {
		t.Helper()
		for {
			id, n, ok := r.TakeUsed()
			if !ok {
				r.SetUsedEvent(g.rxSeen)
				if r.UsedIdx() == g.rxSeen {
					<-g.bell.rx
				}
				continue
			}
			g.rxSeen++
			if id != uint32(g.rxSeen-1) || n != want {
				t.Fatalf("used entry %d, %d, want %d, %d", id, n, g.rxSeen-1, want)
			}
			return
		}
	}
	for range 4 {
		take(0)
	}
	take(headerSize)
	var req packet
	req.decode((*[headerSize]byte)(g.Mem.Bytes(g.rxAt[4], headerSize)))
	g.send(packet{header: header{srcPort: 9, dstPort: req.srcPort, op: opResponse, bufAlloc: plenty}})
	readLine(t, c)
	// No room for data, then for one byte, then in pieces whose borders are in the header.
	r.SetDesc(5, virtiotest.Desc{Addr: g.rxAt[5], Len: headerSize, Flags: virtiotest.WriteTo})
	r.Offer(5)
	r.SetDesc(6, virtiotest.Desc{Addr: g.rxAt[6], Len: headerSize + 1, Flags: virtiotest.WriteTo})
	r.Offer(6)
	r.SetDesc(7, virtiotest.Desc{Addr: g.rxAt[7], Len: 10, Flags: virtiotest.WriteTo | virtiotest.Next, Next: 8})
	r.SetDesc(8, virtiotest.Desc{Addr: g.rxAt[8], Len: 35, Flags: virtiotest.WriteTo | virtiotest.Next, Next: 9})
	r.SetDesc(9, virtiotest.Desc{Addr: g.rxAt[9], Len: 4000, Flags: virtiotest.WriteTo})
	r.Offer(7)
	r.Kick()
	take(0)
	take(headerSize + 1)
	take(headerSize + 8)
	got := string(g.Mem.Bytes(g.rxAt[6]+headerSize, 1)) + string(g.Mem.Bytes(g.rxAt[8]+34, 1)) + string(g.Mem.Bytes(g.rxAt[9], 7))
	if got != "some data" {
		t.Errorf("received %q", got)
	}
}

// TestReset: a guest's reset ends all connections; what it sent before still arrives.
func TestReset(t *testing.T) {
	g := newDriver(t, options{})
	l := g.listenHost(7)
	a, _ := g.open(l, 1000, 7, plenty)
	b, _ := g.connect(9, plenty)
	early := g.dialHost() // has not said where to
	b.Write([]byte("unread"))
	g.expect(opRW, firstHostPort, 9)
	// Not even kicked.
	r := g.Rings[txQueue]
	last := packet{header: header{srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 7, typ: typeStream, op: opRW, len: 10}}
	last.encode((*[headerSize]byte)(g.Mem.Bytes(g.txAt[0], headerSize)))
	copy(g.Mem.Bytes(g.txAt[0]+headerSize, 10), "last words")
	for i := range uint16(20) { // find a descriptor that is free
		r.SetDesc(i, virtiotest.Desc{Addr: g.txAt[0], Len: headerSize + 10})
	}
	r.Offer(0)
	g.Reset()
	if got, err := io.ReadAll(a); string(got) != "last words" || err != nil {
		t.Errorf("host reads %q, %v", got, err)
	}
	if got, err := io.ReadAll(b); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("host reads %q, %v", got, err)
	}
	g.awaitConns(1)
	g.start(options{})
	fmt.Fprint(early, "CONNECT 5\n")
	if p := g.receive(); p.op != opRequest || p.dstPort != 5 {
		t.Errorf("received %v, want REQUEST", p)
	}
}
