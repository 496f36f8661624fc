// Package net is the network device (VIRTIO 1.2, section 5.1): pairs of queues between a driver in the guest and a
// Backend for each, the host's end of the cable.
//
// Frames stay in guest memory: a Backend is given the pieces, and reads or fills them with one system call or copy.
// Only the header before a frame is looked at here, as a copy, and only what was negotiated of it reaches the other
// side (header.go).
//
// Read in this order: net.go (the device), pair.go (out of the guest), receive.go (into it), control.go (how many pairs
// there are).
package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hullvm/hull/virtio"
)

// Queues (5.1.2): receiveq1, transmitq1, receiveq2, … and after the last pair the control queue.
const (
	rxQueue = iota
	txQueue
	pairQueues
)

const (
	queueSize = 256

	// MaxPairs is the most queue pairs of one device.
	MaxPairs = 8

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

// Backend is the host's end of one queue pair. Send and Receive are called from one goroutine each, never before Start
// and never while the device is not active.
type Backend interface {
	// Offloads are feature bits, of F_CSUM to F_HOST_ECN and F_GUEST_USO4 to F_HOST_USO, that the backend can live with.
	Offloads() uint64

	// Start tells which of the bits were negotiated.
	Start(features uint64) error

	// FD returns a descriptor, always the same, that polls as readable when there is a frame after Receive has found none.
	FD() int

	// Send takes a frame from the guest, with its encoded Header. The pieces are guest memory, which may change at
	// any time. Neither is the backend's any more when Send returns. What cannot be delivered now is dropped, as
	// on any network.
	Send(header *[HeaderSize]byte, frame [][]byte)

	// Receive puts the next frame for the guest into the pieces, which are guest memory, fills in its header and
	// returns its length; 0 if there is none. If the frame is longer than the pieces it stays the next one, and
	// the length tells how much room it needs. The error is io.EOF when no frame will come any more, because there is
	// nobody at the other end: then nobody looks at FD.
	Receive(header *[HeaderSize]byte, frame [][]byte) (n int, err error)

	// Drop throws the next frame away.
	Drop()
}

// Switched is a Backend that must know whether the driver uses its pair: one that is off gets no frames for the guest.
type Switched interface {
	// Attach is called after Start. Nobody calls Receive while a pair is attached, nor until it is.
	Attach(on bool) error
}

// Config is what makes a Device.
type Config struct {
	// MAC is the guest's address. It must not be a multicast one.
	MAC [6]byte
	// MTU that the guest is told, from MinMTU to MaxMTU; 0 for none.
	MTU int
	// Backends are the host's ends, 1 to MaxPairs: one for each queue pair that the driver may use.
	Backends []Backend
	// RX limits what goes to the guest, TX what comes from it, over all pairs.
	RX, TX Limits
}

// Limits are how much may pass in one direction: what is more waits.
type Limits struct {
	Bytes  virtio.Rate `json:"bytes,omitzero"`  // of frames, without the header of 12 bytes
	Frames virtio.Rate `json:"frames,omitzero"` // as the guest sees them, before they are cut into segments
}

// Validate reports rates that mean nothing.
func (l *Limits) Validate() error { return errors.Join(l.Bytes.Validate(), l.Frames.Validate()) }

// Counters are what has gone over the cable, and what has not.
type Counters struct {
	RxFrames, RxBytes, RxDropped uint64 // to the guest
	TxFrames, TxBytes, TxDropped uint64 // from the guest

	RxThrottled, TxThrottled time.Duration // for which limits have kept frames waiting
}

// direction is one way over the cable.
type direction struct {
	frames, bytes, dropped atomic.Uint64
	byBytes, byFrames      *virtio.Limiter
	waits                  virtio.Waits
}

func (d *direction) limit(l Limits) {
	d.byBytes, d.byFrames = virtio.NewLimiter(l.Bytes).Note(&d.waits), virtio.NewLimiter(l.Frames).Note(&d.waits)
}

func (d *direction) passed(n int) {
	d.frames.Add(1)
	d.bytes.Add(uint64(n))
}

// Device is a network device.
type Device struct {
	cfg   Config
	pairs []*pair
	rx    direction // to the guest
	tx    direction // from the guest
	up    atomic.Bool

	commands *virtio.Limiter // on the control queue

	// From Activate to Deactivate. used is the driver's choice, which lasts until a reset.
	env  virtio.Env
	ctrl *virtio.Worker
	used int

	mu     sync.Mutex         // of what follows
	irq    virtio.Interrupter // nil while inactive
	unsaid bool               // the link has changed while there was nobody to tell
}

// ErrConfig is wrapped by the error of a Config that no device can have.
var ErrConfig = errors.New("not a network device")

// New makes a network device whose link is up.
func New(cfg Config) (*Device, error) {
	bad := func(format string, args ...any) (*Device, error) {
		return nil, fmt.Errorf("virtio-net: %w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch n := len(cfg.Backends); {
	case n == 0:
		return bad("it has no backend")
	case n > MaxPairs:
		return bad("%d backends: at most %d are allowed", n, MaxPairs)
	case cfg.MAC[0]&1 != 0 || cfg.MAC == [6]byte{}:
		return bad("MAC address %x belongs to no single device", cfg.MAC)
	case cfg.MTU != 0 && (cfg.MTU < MinMTU || cfg.MTU > MaxMTU):
		return bad("an MTU of %d: want %d to %d", cfg.MTU, MinMTU, MaxMTU)
	}
	if err := errors.Join(cfg.RX.Validate(), cfg.TX.Validate()); err != nil {
		return bad("%v", err)
	}
	d := &Device{cfg: cfg, used: 1, commands: virtio.NewLimiter(virtio.Rate{PerSecond: ctrlRate, Burst: ctrlRate})}
	d.up.Store(true)
	d.rx.limit(cfg.RX)
	d.tx.limit(cfg.TX)
	for i, b := range cfg.Backends {
		if b == nil {
			return bad("backend %d is missing", i)
		}
		d.pairs = append(d.pairs, &pair{d: d, index: i, backend: b})
	}
	return d, nil
}

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDNet }

// offloads are the features that are the backend's business.
const offloads = 1<<F_CSUM | 1<<F_GUEST_CSUM | 1<<F_GUEST_TSO4 | 1<<F_GUEST_TSO6 | 1<<F_GUEST_ECN |
	1<<F_HOST_TSO4 | 1<<F_HOST_TSO6 | 1<<F_HOST_ECN | 1<<F_GUEST_USO4 | 1<<F_GUEST_USO6 | 1<<F_HOST_USO

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := uint64(offloads)
	for _, p := range d.pairs {
		f &= p.backend.Offloads()
	}
	f |= 1<<F_MAC | 1<<F_MRG_RXBUF | 1<<F_STATUS
	if d.cfg.MTU != 0 {
		f |= 1 << F_MTU
	}
	if len(d.pairs) > 1 {
		f |= 1<<F_CTRL_VQ | 1<<F_MQ
	}
	return f
}

// CheckFeatures implements virtio.FeatureChecker: 5.1.3.1.
func (*Device) CheckFeatures(f uint64) error {
	for _, dep := range []struct {
		bit   uint
		needs uint64 // any of these
	}{
		{F_GUEST_TSO4, 1 << F_GUEST_CSUM}, {F_GUEST_TSO6, 1 << F_GUEST_CSUM}, {F_GUEST_ECN, 1<<F_GUEST_TSO4 | 1<<F_GUEST_TSO6},
		{F_GUEST_USO4, 1 << F_GUEST_CSUM}, {F_GUEST_USO6, 1 << F_GUEST_CSUM},
		{F_HOST_TSO4, 1 << F_CSUM}, {F_HOST_TSO6, 1 << F_CSUM}, {F_HOST_ECN, 1<<F_HOST_TSO4 | 1<<F_HOST_TSO6}, {F_HOST_USO, 1 << F_CSUM},
		{F_MQ, 1 << F_CTRL_VQ},
	} {
		if f&(1<<dep.bit) != 0 && f&dep.needs == 0 {
			return fmt.Errorf("virtio-net: feature %d without one of %#x (5.1.3.1)", dep.bit, dep.needs)
		}
	}
	return nil
}

// QueueSizes implements virtio.Device (5.1.2).
func (d *Device) QueueSizes() []uint16 {
	n := pairQueues * len(d.pairs)
	if len(d.pairs) > 1 {
		n++ // the control queue
	}
	sizes := make([]uint16, n)
	for i := range sizes {
		sizes[i] = queueSize
	}
	return sizes
}

// ReadConfig implements virtio.Device: struct virtio_net_config (5.1.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	var b [configLen]byte
	copy(b[:], d.cfg.MAC[:])
	if d.Link() {
		binary.LittleEndian.PutUint16(b[6:], statusLinkUp)
	}
	binary.LittleEndian.PutUint16(b[8:], uint16(len(d.pairs)))
	binary.LittleEndian.PutUint16(b[10:], uint16(d.cfg.MTU))
	if off < configLen {
		copy(p, b[off:])
	}
}

// Link tells whether the link is up.
func (d *Device) Link() bool { return d.up.Load() }

// SetLink plugs the cable in or pulls it: nothing passes while it is out, and the guest is told.
func (d *Device) SetLink(up bool) {
	if d.up.Swap(up) == up {
		return
	}
	d.mu.Lock()
	irq := d.irq
	d.unsaid = irq == nil
	d.mu.Unlock()
	if irq != nil {
		irq.Config()
	}
	for _, p := range d.pairs {
		p.wake()
	}
}

// SetLimits changes Config.RX and Config.TX. The device must not be active.
func (d *Device) SetLimits(rx, tx Limits) error {
	if err := errors.Join(rx.Validate(), tx.Validate()); err != nil {
		return fmt.Errorf("virtio-net: %w", err)
	}
	d.rx.limit(rx)
	d.tx.limit(tx)
	return nil
}

// Counters returns what has passed so far.
func (d *Device) Counters() Counters {
	return Counters{
		RxFrames: d.rx.frames.Load(), RxBytes: d.rx.bytes.Load(), RxDropped: d.rx.dropped.Load(),
		TxFrames: d.tx.frames.Load(), TxBytes: d.tx.bytes.Load(), TxDropped: d.tx.dropped.Load(),
		RxThrottled: d.rx.waits.Total(), TxThrottled: d.tx.waits.Total(),
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	for _, p := range d.pairs {
		if err := p.backend.Start(env.Features & offloads); err != nil {
			return fmt.Errorf("virtio-net: %w", err)
		}
	}
	d.env = env
	if err := d.use(d.used); err != nil {
		d.stop()
		return fmt.Errorf("virtio-net: %w", err)
	}
	d.mu.Lock()
	d.irq = env.Interrupt
	unsaid := d.unsaid
	d.unsaid = false
	d.mu.Unlock()
	if unsaid {
		env.Interrupt.Config()
	}
	for _, p := range d.pairs[:d.served()] {
		if q := p.queue(txQueue); q != nil {
			p.tx = virtio.StartWorker(q, env.Interrupt, p.transmit)
		}
	}
	if q := d.control(); q != nil {
		d.ctrl = virtio.StartWorker(q, env.Interrupt, d.obey)
	}
	return nil
}

// served is the number of pairs whose queues are there (5.1.2).
func (d *Device) served() int {
	if d.env.Has(F_MQ) {
		return len(d.pairs)
	}
	return 1
}

// use has the driver's first n pairs get frames, and no other.
func (d *Device) use(n int) error {
	var errs []error
	// Down before up, so that no frame goes to a pair that is about to be left.
	for i := len(d.pairs) - 1; i >= 0; i-- {
		if p := d.pairs[i]; i >= n || i >= d.served() || p.queue(rxQueue) == nil {
			errs = append(errs, p.off())
		}
	}
	for i, p := range d.pairs[:min(n, d.served())] {
		if p.queue(rxQueue) != nil {
			if err := p.on(); err != nil {
				errs = append(errs, fmt.Errorf("queue pair %d: %w", i, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Deactivate implements virtio.Device.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	d.mu.Lock()
	active := d.irq != nil
	d.irq = nil
	d.mu.Unlock()
	if !active {
		return nil, nil
	}
	queues := d.env.Queues
	d.stop()
	return queues, nil
}

// stop ends all that Activate has started.
func (d *Device) stop() {
	d.ctrl.Stop()
	d.ctrl = nil
	for _, p := range d.pairs {
		p.tx.Stop()
		p.tx = nil
		p.stopReceiver()
	}
	d.env = virtio.Env{}
}

// Reset implements virtio.Resetter: the driver starts with one pair (5.1.6.5.5).
func (d *Device) Reset() { d.used = 1 }
