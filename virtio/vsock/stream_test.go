package vsock

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// data returns n bytes that depend on seed.
func data(n int, seed uint64) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	rand.NewChaCha8(key).Read(b)
	return b
}

// ends is a connection seen from both sides.
type ends struct {
	host  *net.UnixConn
	guest *socket
}

// fromHost opens a connection from the host to a port on which the guest listens.
func (s *stack) fromHost(port uint32, accepted <-chan *socket) (ends, error) {
	c, err := net.Dial("unix", s.path)
	if err != nil {
		return ends{}, err
	}
	host := c.(*net.UnixConn)
	s.t.Cleanup(func() { host.Close() })
	fmt.Fprintf(host, "CONNECT %d\n", port)
	line := readLine(s.t, host)
	var hostPort uint32
	if _, err := fmt.Sscanf(line, "OK %d", &hostPort); err != nil {
		return ends{}, fmt.Errorf("answer %q: %w", line, err)
	}
	// Connections come in any order; find ours.
	s.mu.Lock()
	guest := s.sockets[key(hostPort, port)]
	s.mu.Unlock()
	<-accepted
	if guest == nil {
		return ends{}, fmt.Errorf("no socket for %q", line)
	}
	return ends{host, guest}, nil
}

// exchange sends out one way and back the other at the same time, with an end of file behind both, and checks what comes.
func (e ends) exchange(toGuest, toHost []byte) error {
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	check := func(who string, r io.Reader, want []byte) {
		got, err := io.ReadAll(r)
		if err != nil {
			errs <- fmt.Errorf("%s reads: %w", who, err)
		} else if !bytes.Equal(got, want) {
			errs <- fmt.Errorf("%s has read %d bytes, hash %x, want %d, hash %x", who, len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
		}
	}
	write := func(who string, w interface {
		io.Writer
		CloseWrite() error
	}, b []byte) {
		if n, err := w.Write(b); err != nil {
			errs <- fmt.Errorf("%s writes %d of %d: %w", who, n, len(b), err)
		}
		if err := w.CloseWrite(); err != nil {
			errs <- fmt.Errorf("%s ends its stream: %w", who, err)
		}
	}
	wg.Go(func() { check("guest", e.guest, toGuest) })
	wg.Go(func() { check("host", e.host, toHost) })
	wg.Go(func() { write("guest", e.guest, toHost) })
	wg.Go(func() { write("host", e.host, toGuest) })
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func TestBulk(t *testing.T) {
	size := 6 << 20
	if testing.Short() {
		size = 2 << 20
	}
	for _, o := range []options{
		{},
		{features: virtiotest.EventIdx},
		{queue: 2, rxSize: 100, txSize: 64 << 10},
		{queue: 16, rxSize: 70000, txSize: 64<<10 + headerSize},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			size := size
			if o.rxSize == 100 {
				size = 1 << 20 // of many tiny packets
			}
			s := newStack(t, o)
			e, err := s.fromHost(9, s.listen(9))
			if err != nil {
				t.Fatal(err)
			}
			if err := e.exchange(data(size, 1), data(size+77, 2)); err != nil {
				t.Error(err)
			}
			e.host.Close()
			e.guest.Close()
			e.guest.awaitReset()
			s.awaitConns(0)
		})
	}
}

// awaitConns waits until the device has n connections.
func (g *driver) awaitConns(n int) {
	g.t.Helper()
	have := -1
	for deadline := time.Now().Add(virtiotest.Patience); time.Now().Before(deadline); runtime.Gosched() {
		if err := g.dev.do(func(m *mux) { have = m.count }); err != nil {
			g.t.Fatal(err)
		}
		if have == n {
			return
		}
	}
	g.t.Fatalf("%d connections, want %d", have, n)
}

// TestChurn opens and closes 5,000 connections from both sides, 100 at once, each with bytes of its own.
func TestChurn(t *testing.T) {
	total := 5000
	if testing.Short() {
		total = 500
	}
	s := newStack(t, options{queue: 64})
	accepted := s.listen(9)
	l := s.listenHost(7)
	// Connections from the guest say who they are, because a listener gets them in any order.
	hosts := make(map[uint32]chan *net.UnixConn)
	var mu sync.Mutex
	hostFor := func(id uint32) chan *net.UnixConn {
		mu.Lock()
		defer mu.Unlock()
		if hosts[id] == nil {
			hosts[id] = make(chan *net.UnixConn, 1)
		}
		return hosts[id]
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			accepting.Go(func() {
				var id uint32
				if _, err := fmt.Sscanf(readLine(t, c), "%d", &id); err != nil {
					t.Error(err)
				}
				hostFor(id) <- c
			})
		}
	})
	work := make(chan uint64)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for i := range work {
				var e ends
				var err error
				if i%2 == 0 {
					e, err = s.fromHost(9, accepted)
				} else if e.guest, err = s.dial(7); err == nil {
					fmt.Fprintf(e.guest, "%d\n", i)
					e.host = <-hostFor(uint32(i))
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					continue
				}
				r := rand.New(rand.NewPCG(i, 1))
				if err := e.exchange(data(r.IntN(20000), i), data(r.IntN(20000), i+1e6)); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				// Either may be the first to close.
				if r.IntN(2) == 0 {
					e.host.Close()
					e.guest.Close()
				} else {
					e.guest.Close()
					e.host.Close()
				}
			}
		})
	}
	for i := range uint64(total) {
		work <- i
	}
	close(work)
	wg.Wait()
	l.Close()
	accepting.Wait()
	s.awaitConns(0)
	if granted := s.dev.mux.granted; granted != 0 {
		t.Errorf("%d bytes of credit are still granted", granted)
	}
}

// TestStalledPeers: connections that nobody reads from, in either direction, hold up nobody.
func TestStalledPeers(t *testing.T) {
	s := newStack(t, options{})
	accepted := s.listen(9)
	var wg sync.WaitGroup
	var stalled []ends
	for range 20 {
		e, err := s.fromHost(9, accepted)
		if err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, e)
		// Neither end reads. The writers block; they get an error when all is closed.
		wg.Go(func() { e.guest.Write(make([]byte, 8<<20)) })
		wg.Go(func() { e.host.Write(make([]byte, 8<<20)) })
	}
	for i := range uint64(5) {
		e, err := s.fromHost(9, accepted)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.exchange(data(1<<20, i), data(1<<20, i+100)); err != nil {
			t.Error(err)
		}
		e.host.Close()
		e.guest.Close()
	}
	for _, e := range stalled {
		e.host.Close()
		e.guest.Close()
	}
	wg.Wait()
	// Linux sends RST when its application has not read everything; this guest too, at Close. All go.
	s.awaitConns(0)
}
