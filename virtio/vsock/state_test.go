package vsock

import (
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// TestState: in the restored guest all connections end, before it hears of a new one, and it is at its new address.
func TestState(t *testing.T) {
	g := newDriver(t, options{})
	host, port := g.connect(9, plenty)
	r := g.Rings[eventQueue]
	at := g.Mem.Alloc(8, 4)
	r.SetDesc(1, virtiotest.Desc{Addr: at, Len: 8, Flags: virtiotest.WriteTo})
	r.Offer(1)
	r.Kick()
	const newCID = testCID + 1
	old := g.dev
	g.path = filepath.Join(t.TempDir(), "v")
	s := virtiotest.Suite{
		New: func(t testing.TB) virtio.Device {
			dev, err := New(Config{GuestCID: newCID, Path: g.path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { dev.Close() })
			g.dev = dev
			return dev
		},
		Connect: func(dev virtio.Device, mem virtio.Memory, _ virtiotest.IRQ) (virtiotest.Transport, error) {
			return mmio.New(dev, mem, g.bell, mmio.Options{})
		},
	}
	s.Move(g.Driver)
	if id, n := r.AwaitUsed(); id != 1 || n != 4 || binary.LittleEndian.Uint32(g.Mem.Bytes(at, 4)) != eventTransportReset {
		t.Errorf("used entry %d, %d with %x", id, n, g.Mem.Bytes(at, 8))
	}
	if got := binary.LittleEndian.Uint64(g.Config(0, 8)); got != newCID {
		t.Errorf("guest_cid = %d, want %d", got, newCID)
	}
	// A connection that it makes before it has handled that would end with the others: the device looks at it afterwards.
	g.cid = newCID
	g.send(packet{header: header{srcPort: 77, dstPort: 78, op: opRequest, bufAlloc: plenty}})
	if err := g.dev.do(func(*mux) {}); err != nil {
		t.Fatal(err)
	}
	if p, ok := g.poll(); ok {
		t.Errorf("received %v, want nothing", p)
	}
	r.Offer(1)
	r.Kick()
	if p := g.receive(); p.op != opRST || p.dstPort != 77 {
		t.Errorf("received %v, want a refusal", p)
	}
	// What the guest still sends on its old connection, from its old address, is nobody's.
	g.cid = testCID
	g.send(packet{header: header{srcPort: 9, dstPort: port, op: opRW}, data: []byte("late")})
	g.nothing()
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(host); len(b) > 0 || err != nil {
		t.Errorf("the host of before reads %q, %v", b, err)
	}
	// New connections are good.
	g.cid = newCID
	c := g.dialHost()
	fmt.Fprint(c, "CONNECT 5\n")
	p := g.receive()
	if p.op != opRequest {
		t.Errorf("received %v", p)
	}
	g.send(packet{header: header{srcPort: 5, dstPort: p.srcPort, op: opResponse, bufAlloc: plenty}})
	if got, want := readLine(t, c), fmt.Sprintf("OK %d", p.srcPort); got != want {
		t.Errorf("host reads %q, want %q", got, want)
	}
}

func FuzzState(f *testing.F) { suite().FuzzState(f) }
