package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	device "github.com/hullvm/hull/virtio/net"
	"github.com/hullvm/hull/virtio/virtiotest"
)

const (
	rxQueue = 0
	txQueue = 1

	rxBuffers = 64
	rxBuffer  = 4096
)

// cable is a device with a driver at one end and a file of the host at the other. Nothing of it allocates for a frame.
type cable struct {
	t      testing.TB
	drv    *virtiotest.Driver
	dev    *device.Device
	host   int
	prefix int // bytes of header before each frame at the host's end
	buf    []byte
	kicks  []int
	sent   *virtiotest.Sent
	bufs   [256]*virtiotest.Sent // receive buffers by head
}

func newCable(t testing.TB, features uint64, host, prefix int, backends ...device.Backend) *cable {
	t.Helper()
	dev, err := device.New(device.Config{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Backends: backends})
	if err != nil {
		t.Fatal(err)
	}
	suite := virtiotest.Suite{
		New: func(testing.TB) virtio.Device { return dev },
		Connect: func(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
			return mmio.New(dev, mem, irq, mmio.Options{})
		},
	}
	c := &cable{t: t, dev: dev, host: host, prefix: prefix, buf: make([]byte, 80000), drv: suite.NewDriver(t)}
	c.kicks = c.drv.Dev.NotifyFDs()
	c.drv.Start(c.drv.Offered()&features | 1<<device.F_MRG_RXBUF | virtiotest.Version1)
	return c
}

// load puts the frame to be sent into memory.
func (c *cable) load(h device.Header, frame []byte) {
	var raw [device.HeaderSize]byte
	h.Encode(&raw)
	c.sent = c.drv.Rings[txQueue].Place(virtiotest.Request{Name: "frame", Queue: txQueue, Out: append(raw[:], frame...)}, virtiotest.Layout{})
}

// offer gives the device receive buffers.
func (c *cable) offer() {
	r := c.drv.Rings[rxQueue]
	for range rxBuffers {
		s := r.Place(virtiotest.Request{Name: "buffer", Queue: rxQueue, In: rxBuffer}, virtiotest.Layout{})
		c.bufs[s.Head()] = s
		r.Offer(s.Head())
	}
	c.kick(rxQueue)
}

var ring = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func (c *cable) kick(queue int) { unix.Write(c.kicks[queue], ring) }

// take returns the next used entry of a queue.
func (c *cable) take(queue int) (id, n uint32) {
	for end := time.Now().Add(virtiotest.Patience); ; runtime.Gosched() {
		if id, n, ok := c.drv.Rings[queue].TakeUsed(); ok {
			return id, n
		}
		if time.Now().After(end) {
			c.t.Fatalf("queue %d: no buffer was used; failure: %v", queue, c.drv.Dev.Failure())
		}
	}
}

// send sends the frame that is loaded and returns what arrives at the host's end, header and all.
func (c *cable) send() []byte {
	c.drv.Rings[txQueue].Offer(c.sent.Head())
	c.kick(txQueue)
	c.take(txQueue)
	n, err := unix.Read(c.host, c.buf)
	if err != nil {
		c.t.Fatalf("the host's end: %v", err)
	}
	return c.buf[:n]
}

// receive sends a message from the host's end and returns the length of what arrives, header and all.
func (c *cable) receive(message []byte) (n int) {
	if _, err := unix.Write(c.host, message); err != nil {
		c.t.Fatalf("the host's end: %v", err)
	}
	for n < len(message)-c.prefix+device.HeaderSize {
		id, k := c.take(rxQueue)
		n += int(k)
		c.drv.Rings[rxQueue].Offer(uint16(id))
	}
	c.kick(rxQueue)
	return n
}

// lanes are the two kinds of backend.
var lanes = []struct {
	name string
	lay  func(t testing.TB, features uint64) *cable
}{
	{"socket", func(t testing.TB, features uint64) *cable {
		s, other := pair(t)
		t.Cleanup(func() { unix.Close(other) })
		return newCable(t, features, other, headerSize, s)
	}},
	{"tap", func(t testing.TB, features uint64) *cable {
		taps, host := newTapOf(t, 1, largestMTU)
		return newCable(t, features, host.fd, 0, taps[0])
	}},
}

// largestMTU is that of a tap interface.
const largestMTU = 65521

var frameSizes = []int{64, 1500, largestMTU + 14}

// Frames of all sizes pass both ways, the largest over many receive buffers.
func TestFramesBothWays(t *testing.T) {
	for _, lane := range lanes {
		t.Run(lane.name, func(t *testing.T) {
			c := lane.lay(t, ^uint64(0))
			c.offer()
			for i, size := range frameSizes {
				want := testFrame(size, byte(i))
				c.load(device.Header{}, want)
				if got := c.send(); !bytes.Equal(got[c.prefix:], want) {
					t.Errorf("%d bytes out: %d arrived", size, len(got)-c.prefix)
				}
				c.sent.Free()
				message := append(make([]byte, c.prefix), want...)
				if _, err := unix.Write(c.host, message); err != nil {
					t.Fatal(err)
				}
				var got []byte
				for len(got) < headerSize+size {
					id, n := c.take(rxQueue)
					got = append(got, c.bufs[id].Answer()[:n]...)
					c.drv.Rings[rxQueue].Offer(uint16(id))
				}
				buffers := (headerSize + size + rxBuffer - 1) / rxBuffer
				if !bytes.Equal(got[headerSize:], want) || binary.LittleEndian.Uint16(got[10:]) != uint16(buffers) {
					t.Errorf("%d bytes in: %d arrived in %d buffers", size, len(got)-headerSize, binary.LittleEndian.Uint16(got[10:]))
				}
				c.kick(rxQueue)
			}
		})
	}
}

// Frames cost no allocation, in either direction, over either backend.
func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, lane := range lanes {
		t.Run(lane.name, func(t *testing.T) {
			c := lane.lay(t, ^uint64(0))
			c.offer()
			for _, size := range frameSizes {
				c.load(device.Header{}, testFrame(size, 1))
				message := append(make([]byte, c.prefix), testFrame(size, 2)...)
				if n := testing.AllocsPerRun(50, func() {
					c.send()
					c.receive(message)
				}); n >= 1 {
					t.Errorf("%v allocations for a frame of %d bytes each way, want none", n, size)
				}
				c.sent.Free()
			}
		})
	}
}

func BenchmarkFrames(b *testing.B) {
	for _, lane := range lanes {
		for _, size := range frameSizes {
			b.Run(fmt.Sprintf("%s/out/%d", lane.name, size), func(b *testing.B) {
				c := lane.lay(b, ^uint64(0))
				c.load(device.Header{}, testFrame(size, 1))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					c.send()
				}
			})
			b.Run(fmt.Sprintf("%s/in/%d", lane.name, size), func(b *testing.B) {
				c := lane.lay(b, ^uint64(0))
				c.offer()
				message := append(make([]byte, c.prefix), testFrame(size, 1)...)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					c.receive(message)
				}
			})
		}
	}
}

// tcpFrame is an Ethernet frame with a TCP segment of n bytes of payload, whose checksum is left to who sends it on.
func tcpFrame(n int) []byte {
	const tcp = 14 + 20
	b := make([]byte, tcp+20+n)
	copy(b, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x00")
	ip := b[14:]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2})
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-14))
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:20]))
	copy(b[tcp:], []byte{0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0})
	// The checksum so far is that of the pseudo header.
	pseudo := append(bytes.Clone(ip[12:20]), 0, 6, 0, 0)
	binary.BigEndian.PutUint16(pseudo[10:], uint16(20+n))
	binary.BigEndian.PutUint16(b[tcp+16:], sum(pseudo))
	return b
}

func sum(b []byte) uint16 {
	s := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// tcpValid tells whether the checksum of a frame such as tcpFrame's is there, and right.
func tcpValid(b []byte) bool {
	segment := b[34:]
	pseudo := append(bytes.Clone(b[26:34]), 0, 6, 0, 0)
	binary.BigEndian.PutUint16(pseudo[10:], uint16(len(segment)))
	return sum(append(pseudo, segment...)) == 0xffff
}

const (
	segment       = 1448
	longPayload   = 40 * segment
	tcpHeaders    = 54
	tcpCSumStart  = 34
	tcpCSumOffset = 16
)

// A segment of 57 KiB goes through the tap whole to who has agreed to that, and in frames with checksums to who has not.
func TestTapSegments(t *testing.T) {
	header := device.Header{Flags: device.HdrNeedsCSum, GSOType: device.GSOTCPv4, GSOSize: segment, CSumStart: tcpCSumStart, CSumOffset: tcpCSumOffset}
	var raw [device.HeaderSize]byte
	header.Encode(&raw)
	frame := tcpFrame(longPayload)
	for _, c := range []struct {
		name     string
		features uint64
		whole    bool
	}{
		{"all features", ^uint64(0), true},
		{"without TSO", 1<<device.F_CSUM | 1<<device.F_GUEST_CSUM | 1<<device.F_HOST_TSO4, false},
		{"without any", 0, false},
	} {
		t.Run("in, "+c.name, func(t *testing.T) {
			taps, host := newTap(t, 1)
			cable := newCable(t, c.features, host.ip, 0, taps[0])
			cable.offer()
			message := append(bytes.Clone(raw[:10]), frame...) // a packet socket's header has no num_buffers
			if _, err := unix.Write(host.ip, message); err != nil {
				t.Fatal(err)
			}
			payload := 0
			for payload < longPayload {
				h, got := cable.frame()
				if got[12] != 8 || got[13] != 0 || got[23] != unix.IPPROTO_TCP {
					continue // what the host's kernel says by itself
				}
				payload += len(got) - tcpHeaders
				switch {
				case c.whole && (h.GSOType != device.GSOTCPv4 || h.GSOSize != segment || h.Flags&device.HdrNeedsCSum == 0 || len(got) != len(frame)):
					t.Fatalf("%d bytes with header %+v, want all of it in one", len(got), h)
				case !c.whole && (h.GSOType != device.GSONone || len(got) > tcpHeaders+segment):
					t.Fatalf("%d bytes with header %+v for a guest without TSO", len(got), h)
				case c.features == 0 && (h.Flags != 0 || !tcpValid(got)):
					t.Fatalf("a checksum is missing for a guest without GUEST_CSUM: header %+v", h)
				}
			}
		})
	}
	t.Run("out", func(t *testing.T) {
		taps, host := newTap(t, 1)
		cable := newCable(t, ^uint64(0), host.ip, 0, taps[0])
		cable.load(header, frame)
		for {
			got := cable.send()
			if len(got) < 10+tcpHeaders || got[10+12] != 8 || got[10+13] != 0 {
				continue
			}
			if got[1] != device.GSOTCPv4 || binary.LittleEndian.Uint16(got[4:]) != segment || !bytes.Equal(got[10+tcpHeaders:], frame[tcpHeaders:]) {
				t.Errorf("%d bytes with header %x", len(got), got[:10])
			}
			break
		}
	})
}

// A flood while the guest has no buffers is bounded by the host's kernel; with buffers, frames come again (hostile case 21).
func TestFloodWithoutBuffers(t *testing.T) {
	for _, lane := range lanes {
		t.Run(lane.name, func(t *testing.T) {
			c := lane.lay(t, ^uint64(0))
			if err := unix.SetNonblock(c.host, true); err != nil {
				t.Fatal(err)
			}
			message := append(make([]byte, c.prefix), testFrame(1514, 1)...)
			for range 20000 {
				if _, err := unix.Write(c.host, message); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
					t.Fatal(err)
				}
			}
			c.offer()
			last := append(make([]byte, c.prefix), testFrame(300, 2)...)
			for end := time.Now().Add(virtiotest.Patience); ; {
				_, _ = unix.Write(c.host, last) // there may be no room yet
				if _, got := c.frame(); bytes.Equal(got, last[c.prefix:]) {
					break
				}
				if time.Now().After(end) {
					t.Fatal("nothing comes after the flood")
				}
			}
		})
	}
}

// counting is a backend that counts how often it is asked for a frame.
type counting struct {
	device.Backend
	asked atomic.Int64
	ended atomic.Bool // and has said that there will be none
}

func (c *counting) Receive(header *[device.HeaderSize]byte, frame [][]byte) (int, error) {
	c.asked.Add(1)
	n, err := c.Backend.Receive(header, frame)
	if err == io.EOF {
		c.ended.Store(true)
	}
	return n, err
}

// A guest whose other end goes away is left alone, and nothing spins: not in the device either, which can be reset.
func TestOtherEndGoes(t *testing.T) {
	socket, other := pair(t)
	taps, host := newTap(t, 1)
	for name, lane := range map[string]struct {
		backend device.Backend
		cut     func()
	}{
		"socket": {socket, func() { unix.Close(other) }},
		"tap":    {taps[0], func() { host.delete(t) }},
	} {
		t.Run(name, func(t *testing.T) {
			backend := &counting{Backend: lane.backend}
			c := newCable(t, ^uint64(0), -1, 0, backend)
			c.offer()
			lane.cut()
			for end := time.Now().Add(virtiotest.Patience); !backend.ended.Load(); runtime.Gosched() {
				if time.Now().After(end) {
					t.Fatal("the device does not notice")
				}
			}
			c.drv.Rings[rxQueue].Quiesce()
			before := backend.asked.Load()
			time.Sleep(20 * time.Millisecond) // for a receiver that runs wild
			if n := backend.asked.Load() - before; n > 1 {
				t.Errorf("the backend was asked %d times for nothing", n)
			}
			c.load(device.Header{}, testFrame(100, 1))
			c.drv.Rings[txQueue].Offer(c.sent.Head())
			c.kick(txQueue)
			c.take(txQueue) // dropped
			c.drv.Start(1<<device.F_MRG_RXBUF | virtiotest.Version1)
		})
	}
}

// frame takes the next frame off the receive queue.
func (c *cable) frame() (h device.Header, frame []byte) {
	var got []byte
	for first := true; first || int(h.NumBuffers) > 1; first = false {
		id, n := c.take(rxQueue)
		got = append(got, c.bufs[id].Answer()[:n]...)
		c.drv.Rings[rxQueue].Offer(uint16(id))
		if first {
			h.Decode((*[device.HeaderSize]byte)(got))
			continue
		}
		h.NumBuffers--
	}
	c.kick(rxQueue)
	return h, got[device.HeaderSize:]
}

// Headers that make no sense are not shown to the host's kernel, and nothing breaks by what it is shown.
func FuzzTapHeader(f *testing.F) {
	good := device.Header{Flags: device.HdrNeedsCSum, GSOType: device.GSOTCPv4, GSOSize: segment, CSumStart: tcpCSumStart, CSumOffset: tcpCSumOffset}
	for _, h := range []device.Header{{}, good, {Flags: 1, CSumStart: 65535, CSumOffset: 65535}, {GSOType: 0x83, GSOSize: 1}, {Flags: 1, GSOType: 5, GSOSize: 65535}} {
		var raw [device.HeaderSize]byte
		h.Encode(&raw)
		f.Add(raw[:], tcpFrame(3000))
	}
	taps, host := newTap(f, 1)
	c := newCable(f, ^uint64(0), host.fd, 0, taps[0])
	const room = 70000
	at := c.drv.Mem.Alloc(20+room, 16)
	f.Fuzz(func(t *testing.T, header, frame []byte) {
		c.t, c.drv.T = t, t
		header, frame = header[:min(len(header), 20)], frame[:min(len(frame), room)]
		copy(c.drv.Mem.Bytes(at, len(header)), header)
		copy(c.drv.Mem.Bytes(at+20, len(frame)), frame)
		r := c.drv.Rings[txQueue]
		r.SetDesc(0, virtiotest.Desc{Addr: at, Len: uint32(len(header)), Flags: virtiotest.Next, Next: 1})
		r.SetDesc(1, virtiotest.Desc{Addr: at + 20, Len: uint32(len(frame))})
		r.Offer(0)
		c.kick(txQueue)
		c.take(txQueue)
		for { // as the host's end may see something or not
			if _, _, err := unix.Recvfrom(host.fd, c.buf, unix.MSG_DONTWAIT); errors.Is(err, unix.EAGAIN) {
				break
			}
		}
	})
}
