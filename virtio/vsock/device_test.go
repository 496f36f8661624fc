package vsock

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestConfig(t *testing.T) {
	g := newDriver(t, options{})
	if got := binary.LittleEndian.Uint64(g.Config(0, 8)); got != testCID {
		t.Errorf("guest_cid = %d, want %d", got, testCID)
	}
	if g.Offered()&0xffffff != 0 {
		t.Errorf("features = %#x, want none of the device's own", g.Offered())
	}
	for _, off := range []uint64{8, 9, 1 << 63, ^uint64(0)} {
		b := []byte{1, 2, 3, 4}
		g.dev.ReadConfig(off, b)
		if !bytes.Equal(b, []byte{1, 2, 3, 4}) {
			t.Errorf("configuration at %#x = %x", off, b)
		}
	}
}

// TestTransportReset: the event ends what the guest has, and host programs see an end.
func TestTransportReset(t *testing.T) {
	for _, when := range []string{"running", "paused", "before there is a buffer"} {
		t.Run(when, func(t *testing.T) {
			g := newDriver(t, options{})
			r := g.Rings[eventQueue]
			at := g.Mem.Alloc(8, 4)
			g.Mem.Bytes(at, 8)[0] = 0xff
			offer := func() {
				r.SetDesc(0, virtiotest.Desc{Addr: at, Len: 3, Flags: virtiotest.WriteTo}) // useless
				r.Offer(0)
				r.SetDesc(1, virtiotest.Desc{Addr: at, Len: 8, Flags: virtiotest.WriteTo})
				r.Offer(1)
				r.Kick()
			}
			host, _ := g.connect(9, plenty)
			if when != "before there is a buffer" {
				offer()
			}
			if when == "paused" {
				if err := g.Dev.Pause(); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.dev.ResetTransport(); err != nil {
				t.Fatal(err)
			}
			switch when {
			case "paused":
				if err := g.Dev.Resume(); err != nil {
					t.Fatal(err)
				}
			case "before there is a buffer":
				offer()
			}
			if b, err := io.ReadAll(host); len(b) > 0 || err != nil {
				t.Errorf("host reads %q, %v", b, err)
			}
			if id, n := r.AwaitUsed(); id != 0 || n != 0 {
				t.Errorf("used entry %d, %d for a buffer of 3 bytes", id, n)
			}
			if id, n := r.AwaitUsed(); id != 1 || n != 4 || binary.LittleEndian.Uint32(g.Mem.Bytes(at, 4)) != eventTransportReset {
				t.Errorf("used entry %d, %d with %x", id, n, g.Mem.Bytes(at, 8))
			}
			g.nothing()
			// Once only.
			r.SetDesc(2, virtiotest.Desc{Addr: at, Len: 8, Flags: virtiotest.WriteTo})
			r.Offer(2)
			r.Quiesce()
			if _, _, ok := r.TakeUsed(); ok {
				t.Error("a second event")
			}
			// And life goes on.
			host, port := g.connect(9, plenty)
			fmt.Fprint(host, "again")
			g.expect(opRW, port, 9)
		})
	}
}

// TestPause stops and starts the device under traffic: nothing is lost, and connections live on.
func TestPause(t *testing.T) {
	s := newStack(t, options{})
	e, err := s.fromHost(9, s.listen(9))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- e.exchange(data(4<<20, 1), data(4<<20, 2)) }()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		if err := s.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		before := s.Rings[rxQueue].UsedIdx()
		if err := s.dev.do(func(m *mux) {}); err != nil {
			t.Fatal(err)
		}
		if s.Rings[rxQueue].UsedIdx() != before {
			t.Error("a paused device uses its queues")
		}
		if err := s.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEarlyConnect: a program that comes before the guest's driver waits for it.
func TestEarlyConnect(t *testing.T) {
	g := newDriver(t, options{})
	g.Reset()
	c := g.dialHost()
	fmt.Fprint(c, "CONNECT 5\nearly")
	var n int
	for n == 0 {
		g.dev.do(func(m *mux) { n = len(m.byPorts) })
	}
	g.expire(firstHostPort, 5) // no use before there is a driver
	g.start(options{})
	p := g.expect(opRequest, firstHostPort, 5)
	g.send(packet{header: header{srcPort: 5, dstPort: p.srcPort, op: opResponse, bufAlloc: plenty}})
	if got := g.gather(p.srcPort, 5, 5); string(got) != "early" {
		t.Errorf("received %q", got)
	}
}

// TestCloseLeaksNothing closes a device with connections in every state.
func TestCloseLeaksNothing(t *testing.T) {
	before := countFDs(t)
	t.Run("device", func(t *testing.T) {
		g := newDriver(t, options{})
		l := g.listenHost(7)
		g.dialHost()
		c := g.dialHost()
		fmt.Fprint(c, "CONNECT 5\n")
		g.receive()
		a, _ := g.open(l, 1000, 7, plenty)
		b, port := g.connect(9, plenty)
		b.Write([]byte("x"))
		g.expect(opRW, port, 9)
		b.Close()
		g.expect(opShutdown, port, 9)
		if err := g.dev.Close(); err != nil { // before the transport, which must stand it
			t.Error(err)
		}
		if got, err := io.ReadAll(a); len(got) > 0 || err != nil {
			t.Errorf("host reads %q, %v", got, err)
		}
		if err := g.dev.Activate(virtio.Env{Queues: make([]*virtio.Queue, 3)}); err == nil {
			t.Error("a closed device can be activated")
		}
		g.dev.Reset()
		if err := g.dev.ResetTransport(); err == nil {
			t.Error("a closed device can be reset")
		}
		if err := g.Dev.Pause(); err != nil {
			t.Error(err)
		}
	})
	if after := countFDs(t); after != before {
		t.Errorf("%d file descriptors, %d before", after, before)
	}
}
