package vsock

import (
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// TestNoAllocation: packets cost no allocation, in either direction.
func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	g := newDriver(t, options{queue: 128})
	host, _ := g.open(g.listenHost(7), 1000, 7, 1<<31)
	h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 7, typ: typeStream, op: opRW, len: 4000, bufAlloc: 1 << 31}
	h.encode((*[headerSize]byte)(g.Mem.Bytes(g.txAt[0], headerSize)))
	r := g.Rings[txQueue]
	r.SetDesc(0, virtiotest.Desc{Addr: g.txAt[0], Len: headerSize + h.len})
	kick := g.Dev.NotifyFDs()[txQueue]
	ring := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	p := make([]byte, 4000)
	allocs := testing.AllocsPerRun(2000, func() {
		r.Offer(0)
		unix.Write(kick, ring)
		if _, err := io.ReadFull(host, p); err != nil {
			t.Fatal(err)
		}
		if _, err := host.Write(p); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(p); {
			if h := g.lean(); h.op == opRW {
				got += int(h.len)
			}
		}
	})
	if allocs >= 1 {
		t.Errorf("%v allocations for a packet each way, want none", allocs)
	}
}
