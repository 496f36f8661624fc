package mmds

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPatience = 30 * time.Second

var address = netip.MustParseAddr("169.254.169.254")

// cable is a backend of which the test has the other end.
type cable struct {
	fd      int // an eventfd
	mu      sync.Mutex
	sent    [][]byte // by the guest
	waiting [][]byte // for the guest
	eof     bool
	dropped int
}

func newCable(t testing.TB) *cable {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &cable{fd: fd}
}

func (*cable) Offloads() uint64   { return 1 }
func (*cable) Start(uint64) error { return nil }
func (c *cable) FD() int          { return c.fd }

func (c *cable) Send(_ *[headerSize]byte, frame [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []byte
	for _, p := range frame {
		all = append(all, p...)
	}
	c.sent = append(c.sent, all)
}

// bring has a frame come for the guest, or the end of all frames.
func (c *cable) bring(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if frame == nil {
		c.eof = true
	} else {
		c.waiting = append(c.waiting, frame)
	}
	_, _ = unix.Write(c.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (c *cable) Receive(_ *[headerSize]byte, frame [][]byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		if c.eof {
			return 0, io.EOF
		}
		var b [8]byte
		_, _ = unix.Read(c.fd, b[:])
		return 0, nil
	}
	n, room := len(c.waiting[0]), 0
	for _, p := range frame {
		room += len(p)
	}
	if n > room {
		return n, nil
	}
	rest := c.waiting[0]
	for _, p := range frame {
		rest = rest[copy(p, rest):]
	}
	c.waiting = c.waiting[1:]
	return n, nil
}

func (c *cable) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = c.waiting[1:]
	c.dropped++
}

func service(t testing.TB, b Backend, h http.Handler) *Service {
	t.Helper()
	s, err := New(Config{Backend: b, Address: address, Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// guest is a TCP/IP stack at the guest's end of a service, and a client on it.
type guest struct {
	*stack.Stack
	link *channel.Endpoint
	http http.Client
	got  chan []byte // frames that are not for the stack: those of the backend
}

// boot starts a guest, which looks for frames as a network card's receiver does.
func boot(t *testing.T, s *Service) *guest {
	g := &guest{link: channel.New(256, 1500+header.EthernetMinimumSize, "\x02\x00\x00\x00\x00\x01"), got: make(chan []byte, 16)}
	g.Stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	check := func(err tcpip.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(g.CreateNIC(1, ethernet.New(g.link)))
	check(g.AddProtocolAddress(1, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4([4]byte{172, 16, 0, 2}), PrefixLen: 30},
	}, stack.AddressProperties{}))
	g.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Add(2)
	go func() { // out of the guest, in two pieces
		defer running.Done()
		for {
			pkt := g.link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			all := pkt.ToView().AsSlice()
			pkt.DecRef()
			s.Send(&[headerSize]byte{}, [][]byte{all[:20], all[20:]})
		}
	}()
	go func() { // into it
		defer running.Done()
		for ctx.Err() == nil {
			frame := make([]byte, 2000)
			n, err := s.Receive(&[headerSize]byte{}, [][]byte{frame[:10], frame[10:]})
			if err != nil {
				t.Error(err)
				return
			}
			if n == 0 {
				fds := [1]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}
				_, _ = unix.Poll(fds[:], 100)
				continue
			}
			if string(frame[6:12]) != string(linkAddress) {
				select {
				case g.got <- frame[:n]:
				case <-ctx.Done():
				}
				continue
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame[:n])})
			g.link.InjectInbound(0, pkt)
			pkt.DecRef()
		}
	}()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
		at, err := netip.ParseAddrPort(to)
		if err != nil {
			return nil, err
		}
		return gonet.DialContextTCP(ctx, g.Stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(at.Addr().As4()), Port: at.Port()}, ipv4.ProtocolNumber)
	}}
	g.http = http.Client{Transport: transport, Timeout: testPatience}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		running.Wait()
		g.Destroy()
	})
	return g
}

// TestService: a guest reaches the service at its address, whatever else its network does, and the rest of the world by its backend.
func TestService(t *testing.T) {
	c := newCable(t)
	long := strings.Repeat("0123456789", 50000)
	s := service(t, c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			io.WriteString(w, long)
			return
		}
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
	}))
	g := boot(t, s)
	get := func(path string) string {
		t.Helper()
		r, err := g.http.Get("http://169.254.169.254" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := get("/latest/meta-data"); got != "GET /latest/meta-data" {
		t.Errorf("got %q", got)
	}
	if got := get("/long"); got != long {
		t.Errorf("%d bytes of %d came", len(got), len(long))
	}
	// Frames of others pass, both ways, and while the service is in use.
	other := frame(0x0800, [4]byte{172, 16, 0, 1}, 6)
	s.Send(&[headerSize]byte{}, [][]byte{other})
	udp := frame(0x0800, address.As4(), 17)
	s.Send(&[headerSize]byte{}, [][]byte{udp[:13], udp[13:]})
	c.bring([]byte("a frame for the guest, of somebody else"))
	select {
	case f := <-g.got:
		if string(f) != "a frame for the guest, of somebody else" {
			t.Errorf("got %q", f)
		}
	case <-time.After(testPatience):
		t.Fatal("a frame of the backend is missing")
	}
	c.mu.Lock()
	if len(c.sent) != 2 || string(c.sent[0]) != string(other) || string(c.sent[1]) != string(udp) {
		t.Errorf("the backend got %q", c.sent)
	}
	c.mu.Unlock()
	// Without anybody at the other end of the cable, the service is still there.
	c.bring(nil)
	if got := get("/still"); got != "GET /still" {
		t.Errorf("got %q", got)
	}
	if s.Offloads() != 1 || s.Start(1) != nil || s.Attach(true) != nil {
		t.Error("the backend's own business is not its own")
	}
}

// frame is one to an IPv4 address, with a protocol of it.
func frame(kind uint16, to [4]byte, protocol byte) []byte {
	b := make([]byte, 64)
	b[typeAt], b[typeAt+1] = byte(kind>>8), byte(kind)
	b[protocolAt] = protocol
	copy(b[ipTargetAt:], to[:])
	return b
}

// TestFramesThatDoNotFit: a frame stays the next one until there is room for it, or until it is dropped, whosever it is.
func TestFramesThatDoNotFit(t *testing.T) {
	c := newCable(t)
	s := service(t, c, http.NotFoundHandler())
	arp := make([]byte, 42) // who has 169.254.169.254? tell 172.16.0.2
	copy(arp, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x01\xac\x10\x00\x02")
	copy(arp[arpTargetAt:], address.AsSlice())
	receive := func(room int) int {
		t.Helper()
		deadline := time.Now().Add(testPatience)
		for {
			n, err := s.Receive(&[headerSize]byte{}, [][]byte{make([]byte, room)})
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				return n
			}
			if time.Now().After(deadline) {
				t.Fatal("no frame")
			}
			fds := [1]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}
			_, _ = unix.Poll(fds[:], 100)
		}
	}
	s.Send(&[headerSize]byte{}, [][]byte{arp})
	for range 2 {
		if n := receive(10); n != 42 {
			t.Fatalf("a frame of %d bytes, want an answer of 42", n)
		}
	}
	s.Drop()
	c.bring([]byte("somebody else's frame"))
	if n := receive(10); n != 21 {
		t.Errorf("a frame of %d bytes", n)
	}
	s.Drop()
	if c.dropped != 1 {
		t.Errorf("the backend was asked to drop %d frames", c.dropped)
	}
	s.Send(&[headerSize]byte{}, [][]byte{arp})
	if n := receive(42); n != 42 {
		t.Errorf("a frame of %d bytes", n)
	}
}

// TestManyConnections: a guest that asks for more at once than it is allowed waits, and is answered in the end.
func TestManyConnections(t *testing.T) {
	var active, most atomic.Int32
	var once sync.Once
	full, release := make(chan struct{}), make(chan struct{})
	s := service(t, newCable(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := active.Add(1)
		defer active.Add(-1)
		most.Store(max(most.Load(), n))
		if n == maxConnections {
			once.Do(func() { close(full) })
		}
		<-release
	}))
	g := boot(t, s)
	var asking sync.WaitGroup
	for range maxConnections {
		asking.Go(func() {
			if r, err := g.http.Get("http://169.254.169.254/"); err == nil {
				r.Body.Close()
			}
		})
	}
	select {
	case <-full:
	case <-time.After(testPatience):
		t.Error("not all are served")
	}
	for range maxConnections { // these find no place
		asking.Go(func() {
			if r, err := g.http.Get("http://169.254.169.254/"); err == nil {
				r.Body.Close()
			}
		})
	}
	close(release)
	asking.Wait()
	if n := most.Load(); n != maxConnections {
		t.Errorf("%d were served at once, want %d", n, maxConnections)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{Backend: newCable(t), Address: netip.MustParseAddr("fe80::1")}); err == nil {
		t.Error("an IPv6 address is taken")
	}
	c := newCable(t)
	c.fd = -1
	if _, err := New(Config{Backend: c, Address: address}); err == nil {
		t.Error("a backend without a descriptor is taken")
	}
}

// FuzzSend: no frame of the guest's ends this process, and none that is not for the service is kept from the backend.
func FuzzSend(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add(frame(0x0800, address.As4(), 6), 14)
	f.Add(frame(0x0806, address.As4(), 0), 1)
	f.Add(frame(0x86dd, [4]byte{1, 2, 3, 4}, 6), 64)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		c := newCable(t)
		s := service(t, c, http.NotFoundHandler())
		cut = max(min(cut, len(b)), 0)
		s.Send(&[headerSize]byte{}, [][]byte{b[:cut], b[cut:]})
		if kept := len(c.sent) == 0; kept != s.ours(b) {
			t.Errorf("kept %v", kept)
		}
		_, _ = s.Receive(&[headerSize]byte{}, [][]byte{make([]byte, 2000)})
	})
}

// BenchmarkPassing is what a frame to the backend costs more than without a service.
func BenchmarkPassing(b *testing.B) {
	s := service(b, nowhere{newCable(b)}, http.NotFoundHandler())
	frame := [][]byte{frame(0x0800, [4]byte{1, 2, 3, 4}, 6)}
	var h [headerSize]byte
	b.ReportAllocs()
	for b.Loop() {
		s.Send(&h, frame)
		_, _ = s.Receive(&h, frame)
	}
}

// nowhere is a backend that does nothing.
type nowhere struct{ *cable }

func (nowhere) Send(*[headerSize]byte, [][]byte) {}

func (nowhere) Receive(*[headerSize]byte, [][]byte) (int, error) { return 0, nil }
