package net

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// one rings the bell.
var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

const allOffloads = offloads

var mac = [6]byte{2, 0, 0, 0, 0, 1}

func device(t testing.TB, p *peer) *Device {
	t.Helper()
	d, err := New(Config{MAC: mac, MTU: 65520, Backends: []Backend{p}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func connect(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
	return mmio.New(dev, mem, irq, mmio.Options{})
}

// frame is an Ethernet frame of n bytes, no two alike.
func frame(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*3) ^ byte(i>>8) ^ seed
	}
	return b
}

// out is what the driver puts on the transmit queue.
func out(h Header, frame []byte) []byte {
	var raw [HeaderSize]byte
	h.Encode(&raw)
	return append(raw[:], frame...)
}

func transmitted(t testing.TB, _ []byte, written int) {
	t.Helper()
	if written != 0 {
		t.Errorf("%d bytes written to a packet that is to be read", written)
	}
}

// checkReceived looks at a receive buffer for one frame.
func checkReceived(t testing.TB, in []byte, written int, want []byte) {
	t.Helper()
	if written != HeaderSize+len(want) {
		t.Fatalf("%d bytes written, want header and %d", written, len(want))
	}
	var h Header
	h.Decode((*[HeaderSize]byte)(in))
	if h != (Header{NumBuffers: 1}) {
		t.Errorf("header %+v", h)
	}
	if !bytes.Equal(in[HeaderSize:written], want) {
		t.Error("the frame is another")
	}
	for _, b := range in[written:] {
		if b != virtiotest.Untouched {
			t.Fatal("bytes past the frame were written")
		}
	}
}

var suite = virtiotest.Suite{
	New: func(t testing.TB) virtio.Device {
		return device(t, &peer{offloads: allOffloads, endless: &packet{frame: frame(100, 7)}})
	},
	Connect:   connect,
	ConfigLen: configLen,
	Requests: []virtiotest.Request{
		{Name: "transmit", Queue: txQueue, Out: out(Header{}, frame(60, 1)), Check: transmitted},
		{Name: "transmit the longest", Queue: txQueue, Out: out(Header{}, frame(65534, 1)), Check: transmitted},
		{Name: "transmit nothing", Queue: txQueue, Out: []byte{1, 2, 3}, Check: transmitted},
		{Name: "receive", Queue: rxQueue, In: HeaderSize + 1514, Check: func(t testing.TB, in []byte, written int) {
			checkReceived(t, in, written, frame(100, 7))
		}},
	},
}

func TestSuite(t *testing.T) { virtiotest.Run(t, suite) }

func FuzzRing(f *testing.F)      { suite.FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite.FuzzRegisters(f) }

func driver(t *testing.T, p *peer, features uint64) (*virtiotest.Driver, *Device) {
	t.Helper()
	d := device(t, p)
	s := suite
	s.New = func(testing.TB) virtio.Device { return d }
	drv := s.NewDriver(t)
	drv.Start(features)
	return drv, d
}

func TestConfigSpace(t *testing.T) {
	d := device(t, &peer{})
	b := make([]byte, configLen)
	d.ReadConfig(0, b)
	if !bytes.Equal(b[:6], mac[:]) || binary.LittleEndian.Uint16(b[6:]) != statusLinkUp || binary.LittleEndian.Uint16(b[10:]) != 65520 {
		t.Errorf("configuration %x", b)
	}
	d.SetLink(false)
	d.ReadConfig(6, b[:2])
	if b[0] != 0 {
		t.Error("the link is down and says that it is up")
	}
	d.ReadConfig(^uint64(0), b)
}

func TestNew(t *testing.T) {
	one := []Backend{&peer{}}
	for name, cfg := range map[string]Config{
		"no backend":    {MAC: mac},
		"no MAC":        {Backends: one},
		"multicast MAC": {MAC: [6]byte{1}, Backends: one},
		"small MTU":     {MAC: mac, MTU: MinMTU - 1, Backends: one},
		"large MTU":     {MAC: mac, MTU: MaxMTU + 1, Backends: one},
		"many pairs":    {MAC: mac, Backends: slices.Repeat(one, MaxPairs+1)},
		"missing pair":  {MAC: mac, Backends: []Backend{&peer{}, nil}},
		"bad limit":     {MAC: mac, Backends: one, RX: Limits{Bytes: virtio.Rate{Burst: 1}}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFeatureDependencies(t *testing.T) {
	d := device(t, &peer{offloads: allOffloads})
	for f, ok := range map[uint64]bool{
		0: true, 1 << F_CSUM: true, 1<<F_CSUM | 1<<F_HOST_TSO4: true, 1<<F_GUEST_CSUM | 1<<F_GUEST_TSO6: true,
		1<<F_CTRL_VQ | 1<<F_MQ: true, 1<<F_CSUM | 1<<F_HOST_TSO6 | 1<<F_HOST_ECN: true, 1<<F_CSUM | 1<<F_HOST_USO: true,
		1 << F_MQ: false, 1<<F_CSUM | 1<<F_HOST_ECN: false, 1<<F_GUEST_CSUM | 1<<F_GUEST_ECN: false, 1 << F_HOST_USO: false, 1 << F_GUEST_USO4: false,
		1 << F_HOST_TSO4: false, 1 << F_HOST_TSO6: false, 1 << F_GUEST_TSO4: false, 1<<F_GUEST_TSO6 | 1<<F_CSUM: false,
	} {
		if err := d.CheckFeatures(f); (err == nil) != ok {
			t.Errorf("features %#x: %v", f, err)
		}
	}
}

func TestHeaderFromDriver(t *testing.T) {
	const n = 100
	full := uint64(allOffloads)
	for _, tt := range []struct {
		name     string
		in       Header
		features uint64
		want     Header
		ok       bool
	}{
		{"empty", Header{}, full, Header{}, true},
		{"hdr_len is a hint", Header{HdrLen: 65535, NumBuffers: 9}, full, Header{}, true},
		{"checksum", Header{Flags: HdrNeedsCSum, CSumStart: 34, CSumOffset: 16}, full, Header{Flags: HdrNeedsCSum, CSumStart: 34, CSumOffset: 16}, true},
		{"fields without NEEDS_CSUM", Header{Flags: HdrDataValid, CSumStart: 65535, CSumOffset: 65535}, full, Header{}, true},
		{"checksum not negotiated", Header{Flags: HdrNeedsCSum, CSumStart: 65535, CSumOffset: 65535}, 0, Header{}, true},
		{"checksum at the end", Header{Flags: HdrNeedsCSum, CSumStart: 90, CSumOffset: 8}, full, Header{Flags: HdrNeedsCSum, CSumStart: 90, CSumOffset: 8}, true},
		{"checksum past the end", Header{Flags: HdrNeedsCSum, CSumStart: 90, CSumOffset: 9}, full, Header{}, false},
		{"checksum wraps", Header{Flags: HdrNeedsCSum, CSumStart: 65535, CSumOffset: 65535}, full, Header{}, false},
		{"segments", Header{Flags: HdrNeedsCSum, GSOType: GSOTCPv4, GSOSize: 1448}, full, Header{Flags: HdrNeedsCSum, GSOType: GSOTCPv4, GSOSize: 1448}, true},
		{"segments of no size", Header{Flags: HdrNeedsCSum, GSOType: GSOTCPv6}, full, Header{}, false},
		{"segments without checksum", Header{GSOType: GSOTCPv4, GSOSize: 1}, full, Header{}, false},
		{"segments not negotiated", Header{Flags: HdrNeedsCSum, GSOType: GSOTCPv4, GSOSize: 1}, 1 << F_CSUM, Header{}, false},
		{"unknown kind of segments", Header{Flags: HdrNeedsCSum, GSOType: 3, GSOSize: 1}, full, Header{}, false},
		{"congestion marks", Header{Flags: HdrNeedsCSum, GSOType: GSOECN | GSOTCPv4, GSOSize: 1}, full, Header{Flags: HdrNeedsCSum, GSOType: GSOECN | GSOTCPv4, GSOSize: 1}, true},
		{"congestion marks not negotiated", Header{Flags: HdrNeedsCSum, GSOType: GSOECN | GSOTCPv4, GSOSize: 1}, full &^ (1 << F_HOST_ECN), Header{}, false},
		{"congestion marks alone", Header{Flags: HdrNeedsCSum, GSOType: GSOECN, GSOSize: 1}, full, Header{}, false},
		{"congestion marks on UDP", Header{Flags: HdrNeedsCSum, GSOType: GSOECN | GSOUDP, GSOSize: 1}, full, Header{}, false},
		{"segments of UDP", Header{Flags: HdrNeedsCSum, GSOType: GSOUDP, GSOSize: 1400}, full, Header{Flags: HdrNeedsCSum, GSOType: GSOUDP, GSOSize: 1400}, true},
		{"segments of UDP not negotiated", Header{Flags: HdrNeedsCSum, GSOType: GSOUDP, GSOSize: 1400}, full &^ (1 << F_HOST_USO), Header{}, false},
	} {
		h := tt.in
		if ok := h.fromDriver(tt.features, n); ok != tt.ok {
			t.Errorf("%s: ok = %v", tt.name, ok)
		} else if ok && h != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, h, tt.want)
		}
	}
}

func TestTransmit(t *testing.T) {
	p := &peer{offloads: allOffloads}
	drv, d := driver(t, p, 1<<F_CSUM|1<<F_MAC|virtiotest.Version1)
	send := func(h Header, frame []byte) {
		drv.Rings[txQueue].Exchange(virtiotest.Request{Name: "frame", Queue: txQueue, Out: out(h, frame), Check: transmitted}, virtiotest.Layout{})
	}
	h := Header{Flags: HdrNeedsCSum, CSumStart: 34, CSumOffset: 16}
	send(h, frame(60, 1))
	send(Header{}, frame(minFrame-1, 2)) // runts and giants are dropped
	send(Header{}, frame(maxFrame+1, 3))
	send(Header{GSOType: GSOTCPv4, GSOSize: 100}, frame(60, 4)) // as what was not negotiated is
	d.SetLink(false)
	send(Header{}, frame(60, 5))
	d.SetLink(true)
	send(Header{}, frame(maxFrame, 6))
	got := p.received()
	if len(got) != 2 || got[0].h != h || !bytes.Equal(got[0].frame, frame(60, 1)) || !bytes.Equal(got[1].frame, frame(maxFrame, 6)) {
		t.Fatalf("%d frames arrived, want the first and the last", len(got))
	}
	if c := d.Counters(); c.TxFrames != 2 || c.TxBytes != 60+maxFrame || c.TxDropped != 4 {
		t.Errorf("counters %+v", c)
	}
}

// offer puts receive buffers of a size on the ring.
func offer(r *virtiotest.Ring, count, size int) []*virtiotest.Sent {
	var sent []*virtiotest.Sent
	for range count {
		s := r.Place(virtiotest.Request{Name: "buffer", Queue: rxQueue, In: size, Check: func(testing.TB, []byte, int) {}}, virtiotest.Layout{})
		sent = append(sent, s)
		r.Offer(s.Head())
	}
	r.Kick()
	return sent
}

func TestReceiveIntoManyBuffers(t *testing.T) {
	p := &peer{}
	drv, d := driver(t, p, 1<<F_MRG_RXBUF|virtiotest.Version1)
	r := drv.Rings[rxQueue]
	const size = 1526
	sent := offer(r, 10, size)
	r.Quiesce()
	want := frame(4*size, 1) // with its header, a little more than four buffers
	p.bring(packet{frame: want}, packet{frame: frame(60, 2)})

	var got []byte
	for i := range 5 {
		id, n := r.AwaitUsed()
		if id != uint32(sent[i].Head()) {
			t.Fatalf("buffer %d is descriptor %d, want %d: out of order", i, id, sent[i].Head())
		}
		if i < 4 && n != size {
			t.Errorf("buffer %d has %d bytes: all but the last are to be full (5.1.6.4.1)", i, n)
		}
		got = append(got, sent[i].Answer()[:n]...)
	}
	var h Header
	h.Decode((*[HeaderSize]byte)(got))
	if h.NumBuffers != 5 || !bytes.Equal(got[HeaderSize:], want) {
		t.Errorf("num_buffers %d, %d bytes", h.NumBuffers, len(got))
	}
	if _, n := r.AwaitUsed(); n != HeaderSize+60 {
		t.Errorf("the next frame has %d bytes", n)
	}
	if c := d.Counters(); c.RxFrames != 2 || c.RxBytes != uint64(len(want)+60) || c.RxDropped != 0 {
		t.Errorf("counters %+v", c)
	}
}

// A frame waits for buffers, a flood of them too, and all arrive when there are some (hostile case 21).
func TestReceiveWithoutBuffers(t *testing.T) {
	p := &peer{}
	drv, _ := driver(t, p, 1<<F_MRG_RXBUF|virtiotest.Version1|virtiotest.EventIdx)
	r := drv.Rings[rxQueue]
	const frames = 1000
	for i := range frames {
		p.bring(packet{frame: frame(100, byte(i))})
	}
	for i := range frames {
		sent := offer(r, 1, 200)
		_, n := r.AwaitUsed()
		checkReceived(t, sent[0].Answer(), int(n), frame(100, byte(i)))
		sent[0].Free()
	}
	// A large one with its room coming piece by piece.
	p.bring(packet{frame: frame(1000, 1)})
	for range 6 {
		offer(r, 1, 200)
		r.Quiesce()
	}
	for range 6 {
		r.AwaitUsed()
	}
}

func TestReceiveDropsWhatNoBufferHolds(t *testing.T) {
	p := &peer{}
	drv, d := driver(t, p, virtiotest.Version1)
	r := drv.Rings[rxQueue]
	p.bring(packet{frame: frame(500, 1)}, packet{frame: frame(maxFrame+1, 1)},
		packet{h: Header{GSOType: GSOTCPv4}, frame: frame(60, 1)}, packet{h: Header{Flags: HdrNeedsCSum}, frame: frame(60, 1)},
		packet{frame: frame(60, 2)})
	sent := offer(r, 1, 200)
	_, n := r.AwaitUsed()
	checkReceived(t, sent[0].Answer(), int(n), frame(60, 2))
	if c := d.Counters(); c.RxFrames != 1 || c.RxDropped != 4 {
		t.Errorf("counters %+v", c)
	}
}

func TestLink(t *testing.T) {
	p := &peer{}
	drv, d := driver(t, p, 1<<F_STATUS|1<<F_MRG_RXBUF|virtiotest.Version1)
	before := drv.Read(virtiotest.RegConfigGeneration)
	d.SetLink(false)
	if drv.Config(6, 2)[0] != 0 || drv.Read(virtiotest.RegConfigGeneration) == before || drv.Read(virtiotest.RegInterruptStatus)&2 == 0 {
		t.Error("the driver is not told that the link is down")
	}
	r := drv.Rings[rxQueue]
	sent := offer(r, 1, 200)
	p.bring(packet{frame: frame(100, 1)})
	r.Quiesce()
	if _, _, ok := r.TakeUsed(); ok {
		t.Error("a frame came over a link that is down")
	}
	d.SetLink(true)
	_, n := r.AwaitUsed()
	checkReceived(t, sent[0].Answer(), int(n), frame(100, 1))
}

func TestPauseKeepsFrames(t *testing.T) {
	p := &peer{}
	drv, _ := driver(t, p, 1<<F_MRG_RXBUF|virtiotest.Version1)
	r := drv.Rings[rxQueue]
	sent := offer(r, 2, 200)
	r.Quiesce()
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	p.bring(packet{frame: frame(100, 1)})
	if err := drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	id, n := r.AwaitUsed()
	if id != uint32(sent[0].Head()) {
		t.Errorf("buffer %d was used first, want %d", id, sent[0].Head())
	}
	checkReceived(t, sent[0].Answer(), int(n), frame(100, 1))
}

// waits are all that a receiver can be waiting for, with one buffer on the ring where there is one.
var waits = map[string]func(p *peer, d *Device, r *virtiotest.Ring){
	"frames": func(_ *peer, _ *Device, r *virtiotest.Ring) { offer(r, 1, 200) },
	"buffers": func(p *peer, _ *Device, _ *virtiotest.Ring) {
		p.bring(packet{frame: frame(100, 1)}, packet{frame: frame(100, 2)})
	},
	"more buffers": func(p *peer, _ *Device, r *virtiotest.Ring) {
		offer(r, 1, 200)
		p.bring(packet{frame: frame(1000, 1)})
	},
	"the link": func(p *peer, d *Device, r *virtiotest.Ring) {
		d.SetLink(false)
		offer(r, 1, 200)
		p.bring(packet{frame: frame(100, 1)})
	},
	"nobody": func(p *peer, _ *Device, r *virtiotest.Ring) {
		offer(r, 1, 200)
		p.leave()
	},
}

// A receiver that waits does nothing, even if its backend's descriptor stays readable, and stops at once.
func TestReceiverWaits(t *testing.T) {
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			p := &peer{}
			drv, d := driver(t, p, 1<<F_MRG_RXBUF|virtiotest.Version1|virtiotest.EventIdx)
			r := drv.Rings[rxQueue]
			wait(p, d, r)
			r.Quiesce()
			r.Quiesce() // also for what had been brought in the meantime
			before := p.askings()
			time.Sleep(20 * time.Millisecond) // for a receiver that runs wild
			if n := p.askings() - before; n > 1 {
				t.Errorf("the backend was asked %d times for nothing", n)
			}
			for range 3 {
				if err := drv.Dev.Pause(); err != nil {
					t.Fatal(err)
				}
				if err := drv.Dev.Resume(); err != nil {
					t.Fatal(err)
				}
			}
			drv.Start(1<<F_MRG_RXBUF | virtiotest.Version1) // a reset, with a receiver that waits
		})
	}
}

// Whatever a driver writes before a frame, what is left of it fits the frame and what was negotiated, and is left alone
// when it comes once more.
func FuzzHeader(f *testing.F) {
	for _, h := range []Header{
		{}, {Flags: HdrNeedsCSum, GSOType: GSOTCPv4, GSOSize: 1448, CSumStart: 34, CSumOffset: 16, HdrLen: 54},
		{Flags: 255, GSOType: 255, GSOSize: 65535, CSumStart: 65535, CSumOffset: 65535, HdrLen: 65535, NumBuffers: 65535},
		{Flags: HdrNeedsCSum, GSOType: GSOTCPv6 | GSOECN, GSOSize: 1}, {Flags: HdrDataValid, GSOType: GSOUDP, GSOSize: 100},
	} {
		var raw [HeaderSize]byte
		h.Encode(&raw)
		f.Add(raw[:], uint64(allOffloads), uint16(60))
		f.Add(raw[:], uint64(1<<F_CSUM|1<<F_GUEST_CSUM), uint16(65535))
	}
	f.Fuzz(func(t *testing.T, b []byte, features uint64, n uint16) {
		var raw, back [HeaderSize]byte
		copy(raw[:], b)
		var in, h Header
		in.Decode(&raw)
		if in.Encode(&back); back != raw {
			t.Fatalf("%x encodes as %x", raw, back)
		}
		if h = in; h.fromDriver(features, int(n)) {
			csum := h.Flags&HdrNeedsCSum != 0
			switch {
			case h.Flags&^HdrNeedsCSum != 0 || h.HdrLen != 0 || h.NumBuffers != 0:
				t.Errorf("%+v: fields that are not the driver's: %+v", in, h)
			case csum && (features&(1<<F_CSUM) == 0 || int(h.CSumStart)+int(h.CSumOffset)+2 > int(n)):
				t.Errorf("%+v: a checksum outside of %d bytes: %+v", in, n, h)
			case h.GSOType != GSONone && (!csum || h.GSOSize == 0 || features&(1<<F_HOST_TSO4|1<<F_HOST_TSO6|1<<F_HOST_USO) == 0):
				t.Errorf("%+v: segments: %+v", in, h)
			}
			if again := h; !again.fromDriver(features, int(n)) || again != h {
				t.Errorf("%+v becomes %+v the second time", h, again)
			}
		}
		if h = in; h.toDriver(features, int(n)) {
			switch {
			case features&(1<<F_GUEST_CSUM) == 0 && h.Flags != 0:
				t.Errorf("%+v: a checksum for a guest that takes none: %+v", in, h)
			case h.GSOType != GSONone && features&(1<<F_GUEST_TSO4|1<<F_GUEST_TSO6|1<<F_GUEST_USO4|1<<F_GUEST_USO6) == 0:
				t.Errorf("%+v: segments for a guest that takes none: %+v", in, h)
			}
		}
	})
}
