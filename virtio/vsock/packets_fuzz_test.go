package vsock

import (
	"encoding/binary"
	"io"
	"testing"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// A packet script is a sequence of packets of 8 bytes: operation, ports, flags, number of bytes there (2), length that the
// header gives, buf_alloc, fwd_cnt. Small numbers stand for numbers that matter.
const scriptStep = 8

// scale makes an interesting 32-bit number of a byte.
func scale(b byte) uint32 {
	switch {
	case b < 0x80:
		return uint32(b)
	case b < 0xf0:
		return uint32(b) << 16
	default:
		return ^uint32(0) - uint32(b&0x0f)
	}
}

// step makes a packet of a step of a script. The connection that is open is 1000 to 7.
func step(b []byte) packet {
	h := header{
		srcCID: testCID, dstCID: hostCID, typ: typeStream, srcPort: 1000, dstPort: 7,
		op: uint16(b[0]), flags: uint32(b[2]), bufAlloc: scale(b[6]), fwdCnt: scale(b[7]),
	}
	n := int(binary.LittleEndian.Uint16(b[3:])) % 4096
	h.len = uint32(n)
	if b[5] != 0 {
		h.len = scale(b[5])
	}
	if b[1]&1 != 0 {
		h.srcPort += uint32(b[1] >> 4)
	}
	if b[1]&2 != 0 {
		h.dstPort += uint32(b[1] >> 4)
	}
	if b[1]&4 != 0 {
		h.typ = uint16(b[1] >> 4)
	}
	if b[1]&8 != 0 {
		h.dstCID = uint64(scale(b[1])) << 8
	}
	return packet{h, make([]byte, n)}
}

// FuzzPackets sends packets of every kind, in any order, on a connection that is open and beside it. The device must go
// on answering, and serve the next guest as if nothing had been.
func FuzzPackets(f *testing.F) {
	for op := range byte(9) {
		f.Add([]byte{op, 0, 3, 5, 0, 0, 0xff, 0, opRW, 0, 0, 5, 0, 0, 0x90, 5})
	}
	f.Add([]byte{opRW, 0, 0, 5, 0, 0xff, 1, 0})                                                // length beyond the buffer
	f.Add([]byte{opCreditUpdate, 0, 0, 0, 0, 0, 0, 0xff, opCreditUpdate, 0, 0, 0, 0, 0, 1, 0}) // credit wraps and shrinks
	f.Add([]byte{opRequest, 0, 0, 0, 0, 0, 9, 0, opRequest, 0x13, 0, 0, 0, 0, 9, 0})           // twice, and beside
	f.Add([]byte{opShutdown, 0, 1, 0, 0, 0, 9, 0, opShutdown, 0, 2, 0, 0, 0, 9, 0, opRW, 0, 0, 1, 0, 0, 9, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		g := newDriver(t, options{})
		l := g.listenHost(7)
		c, _ := g.open(l, 1000, 7, plenty)
		if _, err := c.Write([]byte("something to send")); err != nil {
			t.Fatal(err)
		}
		for len(script) >= scriptStep {
			g.sendRaw(step(script))
			script = script[scriptStep:]
			for _, ok := g.poll(); ok; _, ok = g.poll() {
			}
		}
		g.Rings[txQueue].Quiesce()
		if got := g.Status(); got&virtiotest.NeedsReset != 0 {
			t.Errorf("packets alone broke the device: %v", g.Dev.Failure())
		}

		// The next guest on the same device.
		g.Reset()
		g.start(options{})
		c2, port := g.connect(5, plenty)
		if _, err := c2.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if p := g.expect(opRW, port, 5); string(p.data) != "x" {
			t.Errorf("received %q", p.data)
		}
		g.send(packet{header: header{srcPort: 5, dstPort: port, op: opRW, bufAlloc: plenty}, data: []byte("y")})
		b := make([]byte, 1)
		if _, err := io.ReadFull(c2, b); err != nil || b[0] != 'y' {
			t.Errorf("read %q, %v", b, err)
		}
	})
}
