package vsock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHalfClose: the end of one direction leaves the other alone, for both, from both sides, in any order.
func TestHalfClose(t *testing.T) {
	for _, first := range []string{"host", "guest"} {
		t.Run(first+" first", func(t *testing.T) {
			g := newDriver(t, options{})
			host, port := g.connect(9, plenty)
			unixConn := host.(interface{ CloseWrite() error })
			fromHost := func(last bool) {
				host.Write([]byte("from the host"))
				unixConn.CloseWrite()
				if p := g.expect(opRW, port, 9); string(p.data) != "from the host" {
					t.Errorf("received %q", p.data)
				}
				want := uint32(shutdownSend)
				if last {
					want = shutdownBoth // for neither side has anything left to say
				}
				for { // the end of the stream may be told before that of all
					p := g.expect(opShutdown, port, 9)
					if p.flags == want {
						break
					}
					if p.flags != shutdownSend {
						t.Fatalf("received %v, want flags %d", p, want)
					}
				}
			}
			fromGuest := func() {
				g.send(packet{header: header{srcPort: 9, dstPort: port, op: opRW, bufAlloc: plenty}, data: []byte("from the guest")})
				g.send(packet{header: header{srcPort: 9, dstPort: port, op: opShutdown, flags: shutdownSend, bufAlloc: plenty}})
				if b, err := io.ReadAll(host); string(b) != "from the guest" || err != nil {
					t.Errorf("host reads %q, %v", b, err)
				}
			}
			if first == "host" {
				fromHost(false)
				fromGuest()
				if p := g.expect(opShutdown, port, 9); p.flags != shutdownBoth {
					t.Errorf("received %v, want both flags", p)
				}
			} else {
				fromGuest()
				fromHost(true)
			}
			g.send(packet{header: header{srcPort: 9, dstPort: port, op: opRST}})
			g.awaitConns(0)
			g.nothing()
		})
	}
}

// TestGuestStopsReceiving: SHUTDOWN with RECEIVE gives the host program EPIPE, and the guest goes on sending.
func TestGuestStopsReceiving(t *testing.T) {
	g := newDriver(t, options{})
	host, port := g.connect(9, plenty)
	g.send(packet{header: header{srcPort: 9, dstPort: port, op: opShutdown, flags: shutdownRecv, bufAlloc: plenty}})
	g.nothing()
	if _, err := host.Write([]byte("anyone?")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("host writes: %v, want EPIPE", err)
	}
	g.send(packet{header: header{srcPort: 9, dstPort: port, op: opRW, bufAlloc: plenty}, data: []byte("still here\n")})
	if line := readLine(t, host); line != "still here" {
		t.Errorf("host reads %q", line)
	}
	// Flags add up (5.10.6.5).
	g.send(packet{header: header{srcPort: 9, dstPort: port, op: opShutdown, flags: shutdownSend, bufAlloc: plenty}})
	g.expect(opRST, port, 9)
	if b, err := io.ReadAll(host); len(b) > 0 || err != nil {
		t.Errorf("host reads %q, %v", b, err)
	}
}

// TestHostStopsReading: a program that does not read any more is announced with RECEIVE when the guest next sends, and
// what it writes still arrives.
func TestHostStopsReading(t *testing.T) {
	g := newDriver(t, options{})
	host, _ := g.open(g.listenHost(7), 1000, 7, plenty)
	host.CloseRead()
	g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRW, bufAlloc: plenty}, data: []byte("anyone?")})
	if p := g.expect(opShutdown, 7, 1000); p.flags != shutdownRecv {
		t.Errorf("received %v, want RECEIVE", p)
	}
	// It is not the guest's fault that it did not know.
	for range 100 {
		g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRW, bufAlloc: plenty}, data: make([]byte, 8000)})
	}
	host.Write([]byte("listen"))
	for {
		p := g.receive()
		if p.op == opRW && string(p.data) == "listen" {
			break
		}
		if p.op != opCreditUpdate {
			t.Fatalf("received %v", p)
		}
	}
	host.Close()
	if p := g.expect(opShutdown, 7, 1000); p.flags != shutdownBoth {
		t.Errorf("received %v, want both flags", p)
	}
}

// TestLastBytesToHost: what the guest has sent before it closes arrives, also when the program is slow, and RST
// answers SHUTDOWN only then.
func TestLastBytesToHost(t *testing.T) {
	all := data(4<<20, 4)
	for _, how := range []string{"shutdown", "reset", "shutdown, then reset", "driver reset", "device close"} {
		t.Run(how, func(t *testing.T) {
			g := newDriver(t, options{txSize: 32 << 10})
			host, _ := g.open(g.listenHost(7), 1000, 7, plenty)
			// More than the kernel takes for the program.
			sent := all[:0]
			for held := 0; held < 100_000; {
				next := all[len(sent):min(len(sent)+32<<10-headerSize, len(all))]
				g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRW, bufAlloc: plenty}, data: next})
				sent = all[:len(sent)+len(next)]
				g.Rings[txQueue].Quiesce()
				g.setConn(7, 1000, func(c *conn) { held = c.out.n })
			}
			for ok := true; ok; {
				_, ok = g.poll() // credit
			}
			closed := make(chan error, 1)
			switch how {
			case "shutdown":
				g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opShutdown, flags: shutdownBoth}})
				g.nothing()
			case "reset":
				g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRST}})
				g.nothing()
			case "shutdown, then reset":
				g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opShutdown, flags: shutdownBoth}})
				g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRST}})
				g.nothing()
			case "driver reset":
				g.Reset()
			case "device close":
				if err := g.Dev.Close(); err != nil {
					t.Error(err)
				}
				go func() { closed <- g.dev.Close() }()
			}
			got, err := io.ReadAll(host)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("host reads %d bytes of %d, %v", len(got), len(sent), err)
			}
			switch how {
			case "shutdown":
				g.expect(opRST, 7, 1000)
			case "device close":
				if err := <-closed; err != nil {
					t.Error(err)
				}
				return
			}
			g.awaitConns(0)
		})
	}
}

// TestLastBytesToGuest: what a program has written before it closes arrives, also when the guest has no credit to give
// for a while, and before the guest has accepted.
func TestLastBytesToGuest(t *testing.T) {
	sent := data(150_000, 5)
	g := newDriver(t, options{})
	host := g.dialHost()
	fmt.Fprint(host, "CONNECT 9\n")
	host.Write(sent)
	host.Close()
	p := g.receive()
	port := p.srcPort
	g.nothing()
	g.send(packet{header: header{srcPort: 9, dstPort: port, op: opResponse, bufAlloc: 0}})
	if p := g.expect(opShutdown, port, 9); p.flags != shutdownRecv {
		t.Errorf("received %v, want RECEIVE: the program cannot even be told OK", p)
	}
	g.expect(opCreditRequest, port, 9)
	var got []byte
	var room uint32
	for len(got) < len(sent) {
		room += 10_000
		g.credit(port, 9, 10_000, uint32(len(got)))
		for len(got) < int(room) {
			if p := g.receive(); p.op == opRW {
				got = append(got, p.data...)
			} else if p.op != opCreditRequest {
				t.Fatalf("received %v after %d bytes", p, len(got))
			}
		}
	}
	if !bytes.Equal(got, sent) {
		t.Error("the guest has received something else")
	}
	g.credit(port, 9, 10_000, uint32(len(got)))
	for {
		p := g.receive()
		if p.op == opShutdown && p.flags == shutdownBoth {
			break
		}
		if p.op != opCreditRequest {
			t.Fatalf("received %v", p)
		}
	}
	// The guest takes its time; then it is told (5.10.6.5).
	g.expire(port, 9)
	g.expect(opRST, port, 9)
	g.awaitConns(0)
}

// expire makes a connection's timer due.
func (g *driver) expire(hostPort, guestPort uint32) {
	g.t.Helper()
	armed := false
	g.setConn(hostPort, guestPort, func(c *conn) { armed, c.due = c.timers != nil, 0 })
	if !armed {
		g.t.Fatal("the connection has no timer")
	}
}

// TestKilledMidway ends connections in the middle of traffic, abruptly, from both sides.
func TestKilledMidway(t *testing.T) {
	s := newStack(t, options{})
	accepted := s.listen(9)
	for i := range 60 {
		e, err := s.fromHost(9, accepted)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{}, 4)
		for _, f := range []func(){
			func() { io.Copy(io.Discard, e.guest) },
			func() { io.Copy(io.Discard, e.host) },
			func() { io.Copy(e.guest, zeros{}) },
			func() { io.Copy(e.host, zeros{}) },
		} {
			go func() {
				f()
				done <- struct{}{}
			}()
		}
		b := make([]byte, 10_000)
		io.ReadFull(e.guest, b)
		switch i % 3 {
		case 0: // as kill -9 of the program
			e.host.Close()
		case 1:
			e.guest.Close()
		case 2: // the guest's socket layer gives up
			e.guest.mu.Lock()
			e.guest.gone, e.guest.state = true, stateDead
			e.guest.reply(opRST, 0, nil)
			e.guest.cond.Broadcast()
			e.guest.mu.Unlock()
			s.forget(e.guest)
		}
		for range 2 {
			<-done
		}
		e.host.Close()
		e.guest.Close()
		for range 2 {
			<-done
		}
	}
	s.awaitConns(0)
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestPassedDescriptors: a program that passes file descriptors loses them and nothing else.
func TestPassedDescriptors(t *testing.T) {
	g := newDriver(t, options{})
	host, _ := g.open(g.listenHost(7), 1000, 7, plenty)
	// Nothing is read until all is written.
	if err := g.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, _, err := host.WriteMsgUnix([]byte("with"), unix.UnixRights(0), nil); err != nil {
			t.Fatal(err)
		}
		host.Write([]byte("out"))
	}
	if err := g.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	if got := g.gather(7, 1000, 21); string(got) != "withoutwithoutwithout" {
		t.Errorf("received %q", got)
	}
}
