// Package net is the network device (VIRTIO 1.2, section 5.1): one pair of queues between a driver in the guest and a
// Backend, the host's end of the cable.
//
// Frames stay in guest memory: a Backend is given the pieces, and reads or fills them with one system call or copy.
// Only the header before a frame is looked at here, as a copy, and only what was negotiated of it reaches the other
// side (header.go).
package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hullvm/hull/virtio"
)

// Queues (5.1.2).
const (
	rxQueue = iota
	txQueue
	queueCount
)

const (
	queueSize = 256

	// MinMTU and MaxMTU bound Config.MTU (5.1.4.1).
	MinMTU = 68
	MaxMTU = 65535

	ethernetHeader = 14
	// maxFrame is the longest frame there can be: an IP packet of 64 KiB, with room for an Ethernet header and a
	// VLAN tag.
	maxFrame = 65535 + ethernetHeader + 4
	// minFrame is the shortest frame that means anything.
	minFrame = ethernetHeader

	configLen = 12 // mac, status, max_virtqueue_pairs, mtu (5.1.4)

	statusLinkUp = 1 // VIRTIO_NET_S_LINK_UP
)

// Backend is the host's end of the cable. Send and Receive are called from one goroutine each, never before Start and
// never after Stop has returned.
type Backend interface {
	// Offloads are feature bits, of F_CSUM to F_HOST_TSO6, that the backend can live with.
	Offloads() uint64

	// Start tells which of the bits were negotiated. From now on the backend calls ready, which never blocks, from
	// any goroutine, when a frame has come after Receive has found none.
	Start(features uint64, ready func()) error

	// Stop ends that: when it returns, ready is not called any more.
	Stop()

	// Send takes a frame from the guest, with its encoded Header. The pieces are guest memory, which may change at
	// any time. Neither is the backend's any more when Send returns. What cannot be delivered now is dropped, as
	// on any network.
	Send(header *[HeaderSize]byte, frame [][]byte)

	// Receive puts the next frame for the guest into the pieces, which are guest memory, fills in its header and
	// returns its length; 0 if there is none. If the frame is longer than the pieces it stays the next one, and
	// the length tells how much room it needs.
	Receive(header *[HeaderSize]byte, frame [][]byte) (n int, err error)

	// Drop throws the next frame away.
	Drop()
}

// Config is what makes a Device.
type Config struct {
	// MAC is the guest's address. It must not be a multicast one.
	MAC [6]byte
	// MTU that the guest is told, from MinMTU to MaxMTU; 0 for none.
	MTU int
	// Backend is the host's end.
	Backend Backend
}

// Counters are what has gone over the cable, and what has not.
type Counters struct {
	RxFrames, RxBytes, RxDropped uint64 // to the guest
	TxFrames, TxBytes, TxDropped uint64 // from the guest
}

type counters struct{ frames, bytes, dropped atomic.Uint64 }

// Device is a network device.
type Device struct {
	cfg    Config
	env    virtio.Env
	tx     *virtio.Worker
	header [HeaderSize]byte // of the frame that is being transmitted

	rxCount, txCount counters

	mu  sync.Mutex // of what follows
	up  bool
	irq virtio.Interrupter // nil while inactive
	rx  *receiver          // nil while there is none to wake
}

// ErrConfig is wrapped by the error of a Config that no device can have.
var ErrConfig = errors.New("not a network device")

// New makes a network device whose link is up.
func New(cfg Config) (*Device, error) {
	switch {
	case cfg.Backend == nil:
		return nil, fmt.Errorf("virtio-net: %w: it has no backend", ErrConfig)
	case cfg.MAC[0]&1 != 0 || cfg.MAC == [6]byte{}:
		return nil, fmt.Errorf("virtio-net: %w: MAC address %x belongs to no single device", ErrConfig, cfg.MAC)
	case cfg.MTU != 0 && (cfg.MTU < MinMTU || cfg.MTU > MaxMTU):
		return nil, fmt.Errorf("virtio-net: %w: an MTU of %d: want %d to %d", ErrConfig, cfg.MTU, MinMTU, MaxMTU)
	}
	return &Device{cfg: cfg, up: true}, nil
}

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDNet }

// offloads are the features that are the backend's business.
const offloads = 1<<F_CSUM | 1<<F_GUEST_CSUM | 1<<F_GUEST_TSO4 | 1<<F_GUEST_TSO6 | 1<<F_HOST_TSO4 | 1<<F_HOST_TSO6

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := uint64(1<<F_MAC|1<<F_MRG_RXBUF|1<<F_STATUS) | d.cfg.Backend.Offloads()&offloads
	if d.cfg.MTU != 0 {
		f |= 1 << F_MTU
	}
	return f
}

// CheckFeatures implements virtio.FeatureChecker: 5.1.3.1.
func (*Device) CheckFeatures(f uint64) error {
	for _, dep := range []struct{ bit, needs uint }{
		{F_GUEST_TSO4, F_GUEST_CSUM}, {F_GUEST_TSO6, F_GUEST_CSUM}, {F_HOST_TSO4, F_CSUM}, {F_HOST_TSO6, F_CSUM},
	} {
		if f&(1<<dep.bit) != 0 && f&(1<<dep.needs) == 0 {
			return fmt.Errorf("virtio-net: feature %d without %d (5.1.3.1)", dep.bit, dep.needs)
		}
	}
	return nil
}

// QueueSizes implements virtio.Device: receiveq1 and transmitq1 (5.1.2).
func (*Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// ReadConfig implements virtio.Device: struct virtio_net_config (5.1.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	var b [configLen]byte
	copy(b[:], d.cfg.MAC[:])
	if d.Link() {
		binary.LittleEndian.PutUint16(b[6:], statusLinkUp)
	}
	binary.LittleEndian.PutUint16(b[8:], 1)
	binary.LittleEndian.PutUint16(b[10:], uint16(d.cfg.MTU))
	if off < configLen {
		copy(p, b[off:])
	}
}

// Link tells whether the link is up.
func (d *Device) Link() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.up
}

// SetLink plugs the cable in or pulls it: nothing passes while it is out, and the guest is told.
func (d *Device) SetLink(up bool) {
	d.mu.Lock()
	changed := d.up != up
	d.up = up
	irq, rx := d.irq, d.rx
	d.mu.Unlock()
	if !changed {
		return
	}
	if irq != nil {
		irq.Config()
	}
	rx.wake()
}

// Counters returns what has passed so far.
func (d *Device) Counters() Counters {
	return Counters{
		RxFrames: d.rxCount.frames.Load(), RxBytes: d.rxCount.bytes.Load(), RxDropped: d.rxCount.dropped.Load(),
		TxFrames: d.txCount.frames.Load(), TxBytes: d.txCount.bytes.Load(), TxDropped: d.txCount.dropped.Load(),
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	if err := d.cfg.Backend.Start(env.Features&offloads, d.ready); err != nil {
		return fmt.Errorf("virtio-net: %w", err)
	}
	d.env = env
	var rx *receiver
	if q := env.Queue(rxQueue); q != nil {
		rx = startReceiver(d, q)
	}
	d.mu.Lock()
	d.irq, d.rx = env.Interrupt, rx
	d.mu.Unlock()
	rx.wake() // for a frame that came before there was somebody to wake
	if q := env.Queue(txQueue); q != nil {
		d.tx = virtio.StartWorker(q, env.Interrupt, d.transmit)
	}
	return nil
}

// ready is what the backend calls.
func (d *Device) ready() {
	d.mu.Lock()
	rx := d.rx
	d.mu.Unlock()
	rx.wake()
}

// Deactivate implements virtio.Device.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	d.mu.Lock()
	active, rx := d.irq != nil, d.rx
	d.irq, d.rx = nil, nil
	d.mu.Unlock()
	if !active {
		return nil, nil
	}
	d.tx.Stop()
	d.tx = nil
	rx.stop()
	d.cfg.Backend.Stop()
	queues := d.env.Queues
	d.env = virtio.Env{}
	return queues, nil
}

// transmit passes on all frames that the driver has queued.
func (d *Device) transmit(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		d.send(&c.Readable)
		q.Push(c, 0)
	}
	return nil
}

func (d *Device) send(packet *virtio.Buffers) {
	var h Header
	if packet.Read(d.header[:]) == HeaderSize && d.Link() {
		h.Decode(&d.header)
		if n := packet.Len(); n >= minFrame && n <= maxFrame && h.fromDriver(d.env.Features, n) {
			h.Encode(&d.header)
			d.cfg.Backend.Send(&d.header, packet.Pieces())
			d.txCount.frames.Add(1)
			d.txCount.bytes.Add(uint64(n))
			return
		}
	}
	d.txCount.dropped.Add(1)
}
