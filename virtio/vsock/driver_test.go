package vsock

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testCID = 42
	highRAM = 1 << 32 // where transmit buffers are: 2 MiB that Memory.Alloc does not use
)

// doorbells hands an interrupt line's edges to those who wait for the receive and for the transmit queue.
type doorbells struct {
	line   virtiotest.IRQ
	rx, tx chan struct{}
}

func (b *doorbells) Trigger() {
	b.line.Trigger()
	for _, c := range []chan struct{}{b.rx, b.tx} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// driver is the guest's side of a device, packet by packet. One goroutine may receive while others send.
type driver struct {
	*virtiotest.Driver
	t    testing.TB
	dev  *Device
	cid  uint64 // the guest's
	path string
	bell *doorbells

	rxSize int      // of a receive buffer
	rxAt   []uint64 // address of buffer i, which descriptor i points at
	rxSeen uint16

	mu     sync.Mutex // of what follows: sending
	txSize int
	txAt   []uint64
	txFree []uint16
	txSeen uint16
}

// options of newDriver.
type options struct {
	features uint64 // to leave out
	queue    int    // size of the queues; 0 means 32
	rxSize   int    // of a receive buffer; 0 means 4 KiB
	txSize   int    // of a transmit buffer; 0 means 8 KiB
	noRx     bool   // offer no receive buffers yet
}

// newDriver makes a device with a driver that is ready.
func newDriver(t testing.TB, o options) *driver {
	t.Helper()
	g := &driver{t: t, cid: testCID, path: filepath.Join(t.TempDir(), "v"), rxSize: o.rxSize, txSize: o.txSize}
	suite := virtiotest.Suite{
		New: func(t testing.TB) virtio.Device {
			dev, err := New(Config{GuestCID: testCID, Path: g.path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := dev.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			g.dev = dev
			return dev
		},
		Connect: func(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
			g.bell = &doorbells{irq, make(chan struct{}, 1), make(chan struct{}, 1)}
			return mmio.New(dev, mem, g.bell, mmio.Options{})
		},
	}
	g.Driver = suite.NewDriver(t)
	g.start(o)
	return g
}

// start sets up the driver's side anew.
func (g *driver) start(o options) {
	g.t.Helper()
	if o.queue == 0 {
		o.queue = 32
	}
	if g.rxSize == 0 {
		g.rxSize = 4096
	}
	if g.txSize == 0 {
		g.txSize = 8192
	}
	if !g.Negotiate(g.Offered() &^ o.features) {
		g.t.Fatal("features refused")
	}
	for i := range g.Rings {
		g.SetUp(i, uint16(min(o.queue, []int{rxQueueSize, txQueueSize, eventQueueSize}[i])))
	}
	g.Write(virtiotest.RegStatus, virtiotest.Acknowledge|virtiotest.DriverBit|virtiotest.FeaturesOK|virtiotest.DriverOK)
	g.rxAt, g.txAt, g.txFree = nil, nil, nil
	g.rxSeen, g.txSeen = 0, 0
	for i := range uint16(o.queue) {
		g.rxAt = append(g.rxAt, g.Mem.Alloc(g.rxSize, 1))
		g.txAt = append(g.txAt, highRAM+uint64(int(i)*g.txSize))
		g.txFree = append(g.txFree, i)
		if !o.noRx {
			g.offer(i)
		}
	}
	g.Rings[rxQueue].KickIfWanted()
}

// offer makes receive buffer i available.
func (g *driver) offer(i uint16) {
	r := g.Rings[rxQueue]
	r.SetDesc(i, virtiotest.Desc{Addr: g.rxAt[i], Len: uint32(g.rxSize), Flags: virtiotest.WriteTo})
	r.Offer(i)
}

// packet is what goes over the queues.
type packet struct {
	header
	data []byte
}

func (p packet) String() string {
	return fmt.Sprintf("{op %d, %d:%d > %d:%d, type %d, flags %d, len %d, buf_alloc %d, fwd_cnt %d}",
		p.op, p.srcCID, p.srcPort, p.dstCID, p.dstPort, p.typ, p.flags, p.len, p.bufAlloc, p.fwdCnt)
}

// poll takes a packet that has been received, if there is one, and offers its buffer again.
func (g *driver) poll() (p packet, ok bool) {
	g.t.Helper()
	r := g.Rings[rxQueue]
	id, n, ok := r.TakeUsed()
	if !ok {
		return p, false
	}
	g.rxSeen++
	if n < headerSize {
		g.t.Errorf("a packet of %d bytes was received", n)
	}
	b := g.Mem.Bytes(g.rxAt[id], int(n))
	p.decode((*[headerSize]byte)(b))
	p.data = bytes.Clone(b[headerSize:])
	if int(p.len) != len(p.data) {
		g.t.Errorf("packet %v with %d bytes of data", p, len(p.data))
	}
	if p.dstCID != g.cid {
		g.t.Errorf("packet %v is not for this guest", p)
	}
	g.offer(uint16(id))
	r.KickIfWanted()
	return p, true
}

// receive waits for the next packet.
func (g *driver) receive() packet {
	g.t.Helper()
	timeout := time.NewTimer(virtiotest.Patience)
	defer timeout.Stop()
	for {
		if p, ok := g.poll(); ok {
			return p
		}
		g.Rings[rxQueue].SetUsedEvent(g.rxSeen)
		if p, ok := g.poll(); ok {
			return p
		}
		select {
		case <-g.bell.rx:
		case <-timeout.C:
			g.t.Fatalf("waited %v for a packet in vain; failure: %v", virtiotest.Patience, g.Dev.Failure())
		}
	}
}

// expect receives a packet and checks what it is.
func (g *driver) expect(op uint16, hostPort, guestPort uint32) packet {
	g.t.Helper()
	p := g.receive()
	if p.op != op || p.srcPort != hostPort || p.dstPort != guestPort || p.srcCID != hostCID || p.typ != typeStream {
		g.t.Fatalf("received %v, want op %d, %d > %d", p, op, hostPort, guestPort)
	}
	return p
}

// nothing checks that no packet comes: everything sent before has been looked at, and no answer is there.
func (g *driver) nothing() {
	g.t.Helper()
	g.Rings[txQueue].Quiesce()
	if err := g.dev.do(func(*mux) {}); err != nil {
		g.t.Fatal(err)
	}
	if p, ok := g.poll(); ok {
		g.t.Fatalf("received %v, want nothing", p)
	}
}

// send sends a packet. Fields that are 0 and cannot be are filled in.
func (g *driver) send(p packet) {
	g.t.Helper()
	if p.srcCID == 0 {
		p.srcCID = g.cid
	}
	if p.dstCID == 0 {
		p.dstCID = hostCID
	}
	if p.typ == 0 {
		p.typ = typeStream
	}
	if p.len == 0 {
		p.len = uint32(len(p.data))
	}
	g.sendRaw(p)
}

// sendRaw sends a packet as it is.
func (g *driver) sendRaw(p packet) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	i := g.txBuffer()
	b := g.Mem.Bytes(g.txAt[i], headerSize+len(p.data))
	p.encode((*[headerSize]byte)(b))
	copy(b[headerSize:], p.data)
	r := g.Rings[txQueue]
	r.SetDesc(i, virtiotest.Desc{Addr: g.txAt[i], Len: uint32(len(b))})
	r.Offer(i)
	r.KickIfWanted()
}

// txBuffer waits for a transmit buffer.
func (g *driver) txBuffer() uint16 {
	g.t.Helper()
	r := g.Rings[txQueue]
	var timeout <-chan time.Time
	for {
		for id, _, ok := r.TakeUsed(); ok; id, _, ok = r.TakeUsed() {
			g.txSeen++
			g.txFree = append(g.txFree, uint16(id))
		}
		if n := len(g.txFree); n > 0 {
			i := g.txFree[n-1]
			g.txFree = g.txFree[:n-1]
			return i
		}
		r.SetUsedEvent(g.txSeen)
		if r.UsedIdx() != g.txSeen {
			continue
		}
		if timeout == nil {
			timeout = time.After(virtiotest.Patience)
		}
		select {
		case <-g.bell.tx:
		case <-timeout:
			g.t.Fatal("no transmit buffer comes back")
		}
	}
}

// connect opens a connection from the host to the guest's port. The guest's credit is alloc.
func (g *driver) connect(guestPort, alloc uint32) (net.Conn, uint32) {
	g.t.Helper()
	c := g.dialHost()
	fmt.Fprintf(c, "CONNECT %d\n", guestPort)
	p := g.receive()
	if p.op != opRequest || p.dstPort != guestPort {
		g.t.Fatalf("received %v, want REQUEST for port %d", p, guestPort)
	}
	g.send(packet{header: header{srcPort: guestPort, dstPort: p.srcPort, op: opResponse, bufAlloc: alloc}})
	if got, want := readLine(g.t, c), fmt.Sprintf("OK %d", p.srcPort); got != want {
		g.t.Fatalf("answer to CONNECT = %q, want %q", got, want)
	}
	return c, p.srcPort
}

// dialHost connects to the device's socket.
func (g *driver) dialHost() *net.UnixConn {
	g.t.Helper()
	c, err := net.Dial("unix", g.path)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(virtiotest.Patience))
	return c.(*net.UnixConn)
}

// listenHost listens on a port of the host.
func (g *driver) listenHost(port uint32) *net.UnixListener {
	g.t.Helper()
	l, err := net.Listen("unix", fmt.Sprintf("%s_%d", g.path, port))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	return l.(*net.UnixListener)
}

// open opens a connection from the guest to port of the host, on which l listens.
func (g *driver) open(l net.Listener, guestPort, port, alloc uint32) (*net.UnixConn, packet) {
	g.t.Helper()
	g.send(packet{header: header{srcPort: guestPort, dstPort: port, op: opRequest, bufAlloc: alloc}})
	c, err := l.Accept()
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(virtiotest.Patience))
	return c.(*net.UnixConn), g.expect(opResponse, port, guestPort)
}

func readLine(t testing.TB, c net.Conn) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("read a line: %v after %q", err, line)
		}
		if b[0] == '\n' {
			return string(line)
		}
	}
}
