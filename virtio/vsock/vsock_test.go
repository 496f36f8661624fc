package vsock

import (
	"bytes"
	"io"
	"testing"
)

const plenty = 1 << 20 // of credit

func TestHostToGuest(t *testing.T) {
	g := newDriver(t, options{})
	c, port := g.connect(5, plenty)
	c.Write([]byte("hello guest"))
	p := g.expect(opRW, port, 5)
	if string(p.data) != "hello guest" || p.bufAlloc == 0 {
		t.Errorf("received %v with %q", p, p.data)
	}
	g.send(packet{header: header{srcPort: 5, dstPort: port, op: opRW, bufAlloc: plenty, fwdCnt: 11}, data: []byte("hello host")})
	b := make([]byte, 10)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello host" {
		t.Errorf("read %q, %v", b, err)
	}
	// The host closes; the guest answers RST.
	c.Close()
	if p := g.expect(opShutdown, port, 5); p.flags != shutdownBoth {
		t.Errorf("received %v, want both flags", p)
	}
	g.send(packet{header: header{srcPort: 5, dstPort: port, op: opRST}})
	g.nothing()
}

func TestGuestToHost(t *testing.T) {
	g := newDriver(t, options{})
	c, _ := g.open(g.listenHost(7), 1000, 7, plenty)
	g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRW, bufAlloc: plenty}, data: []byte("last words")})
	g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opShutdown, flags: shutdownBoth, bufAlloc: plenty}})
	b, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(b, []byte("last words")) {
		t.Errorf("read %q, %v", b, err)
	}
	g.expect(opRST, 7, 1000)
	g.nothing()
}

func TestRefused(t *testing.T) {
	g := newDriver(t, options{})
	// Nobody listens on the host.
	g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRequest, bufAlloc: plenty}})
	g.expect(opRST, 7, 1000)
	// Nobody listens in the guest.
	c := g.dialHost()
	c.Write([]byte("CONNECT 9\nlost"))
	p := g.receive()
	if p.op != opRequest || p.dstPort != 9 {
		t.Fatalf("received %v, want REQUEST", p)
	}
	g.send(packet{header: header{srcPort: 9, dstPort: p.srcPort, op: opRST}})
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("read %q, %v, want an end of file", b, err)
	}
	g.nothing()
}
