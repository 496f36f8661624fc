package virtiotest

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"
)

// Registers of virtio-mmio (VIRTIO 1.2, 4.2.2).
const (
	RegMagicValue        = 0x000
	RegVersion           = 0x004
	RegDeviceID          = 0x008
	RegVendorID          = 0x00c
	RegDeviceFeatures    = 0x010
	RegDeviceFeaturesSel = 0x014
	RegDriverFeatures    = 0x020
	RegDriverFeaturesSel = 0x024
	RegQueueSel          = 0x030
	RegQueueNumMax       = 0x034
	RegQueueNum          = 0x038
	RegQueueReady        = 0x044
	RegQueueNotify       = 0x050
	RegInterruptStatus   = 0x060
	RegInterruptACK      = 0x064
	RegStatus            = 0x070
	RegQueueDescLow      = 0x080
	RegQueueDriverLow    = 0x090
	RegQueueDeviceLow    = 0x0a0
	RegSHMSel            = 0x0ac
	RegSHMLenLow         = 0x0b0
	RegSHMBaseLow        = 0x0b8
	RegQueueReset        = 0x0c0
	RegConfigGeneration  = 0x0fc
	RegConfig            = 0x100
)

// Status bits (2.1).
const (
	Acknowledge = 1
	DriverBit   = 2
	DriverOK    = 4
	FeaturesOK  = 8
	NeedsReset  = 64
	Failed      = 128
)

// Feature bits of rings (6), as masks.
const (
	IndirectDesc = 1 << 28
	EventIdx     = 1 << 29
	Version1     = 1 << 32
	RingReset    = 1 << 40
)

// Patience is how long a test waits for something that must happen.
const Patience = 30 * time.Second

// Line is an interrupt line that counts.
type Line struct {
	edges atomic.Int64
	edge  chan struct{}
}

// Trigger implements devices.IRQ.
func (l *Line) Trigger() {
	l.edges.Add(1)
	select {
	case l.edge <- struct{}{}:
	default:
	}
}

// Edges returns how many edges there have been.
func (l *Line) Edges() int64 { return l.edges.Load() }

// Driver drives one device through its registers.
type Driver struct {
	T    testing.TB
	Dev  Transport
	Mem  *Memory
	Line *Line

	// Features are the negotiated ones.
	Features uint64
	// Rings are the queues that are set up, nil where none is.
	Rings []*Ring
}

// NewDriver connects a new device to a driver. The device is closed at the end of the test.
func (s Suite) NewDriver(t testing.TB) *Driver { return s.NewDriverIn(t, NewMemory()) }

// NewDriverIn is NewDriver with memory that the test has made.
func (s Suite) NewDriverIn(t testing.TB, mem *Memory) *Driver {
	t.Helper()
	d := &Driver{T: t, Mem: mem, Line: &Line{edge: make(chan struct{}, 1)}}
	d.Dev = s.connect(t, d)
	d.Rings = make([]*Ring, len(d.Dev.NotifyFDs()))
	return d
}

// connect makes a new device on d's memory and interrupt line.
func (s Suite) connect(t testing.TB, d *Driver) Transport {
	t.Helper()
	tr, err := s.Connect(s.New(t), d.Mem, d.Line)
	if err != nil {
		t.Fatalf("connect the device: %v", err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Errorf("close the device: %v", err)
		}
	})
	return tr
}

// Read reads a 32-bit register.
func (d *Driver) Read(reg uint64) uint32 {
	var p [4]byte
	d.Dev.Read(reg, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

// Write writes a 32-bit register.
func (d *Driver) Write(reg uint64, v uint32) {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], v)
	d.Dev.Write(reg, p[:])
}

// Write64 writes a pair of registers.
func (d *Driver) Write64(reg uint64, v uint64) {
	d.Write(reg, uint32(v))
	d.Write(reg+4, uint32(v>>32))
}

// Config reads n bytes of configuration, byte by byte.
func (d *Driver) Config(off uint64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		d.Dev.Read(RegConfig+off+uint64(i), p[i:i+1])
	}
	return p
}

// Status reads the device status.
func (d *Driver) Status() uint32 { return d.Read(RegStatus) }

// Reset resets the device and checks that it has happened.
func (d *Driver) Reset() {
	d.T.Helper()
	d.Write(RegStatus, 0)
	if got := d.Status(); got != 0 {
		d.T.Fatalf("status after reset = %#x, want 0", got)
	}
	clear(d.Rings)
	d.Features = 0
}

// Offered reads the features that the device offers.
func (d *Driver) Offered() uint64 {
	d.Write(RegDeviceFeaturesSel, 0)
	lo := d.Read(RegDeviceFeatures)
	d.Write(RegDeviceFeaturesSel, 1)
	return uint64(lo) | uint64(d.Read(RegDeviceFeatures))<<32
}

// Negotiate goes from reset to FEATURES_OK and reports whether the device agreed.
func (d *Driver) Negotiate(features uint64) bool {
	d.T.Helper()
	d.Reset()
	d.Write(RegStatus, Acknowledge)
	d.Write(RegStatus, Acknowledge|DriverBit)
	d.Write(RegDriverFeaturesSel, 0)
	d.Write(RegDriverFeatures, uint32(features))
	d.Write(RegDriverFeaturesSel, 1)
	d.Write(RegDriverFeatures, uint32(features>>32))
	d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK)
	d.Features = features
	return d.Status()&FeaturesOK != 0
}

// SetUp configures and enables queue i with size entries, or the most that the device has if that is less or size is 0.
func (d *Driver) SetUp(i int, size uint16) *Ring {
	d.T.Helper()
	d.Write(RegQueueSel, uint32(i))
	if most := uint16(d.Read(RegQueueNumMax)); size == 0 || size > most {
		size = most
	}
	r := newRing(d, i, size)
	d.enable(r)
	if d.Read(RegQueueReady) != 1 {
		d.T.Fatalf("queue %d of size %d did not become ready", i, size)
	}
	d.Rings[i] = r
	return r
}

// enable writes r's addresses and size to the device and sets QueueReady.
func (d *Driver) enable(r *Ring) {
	d.Write(RegQueueSel, uint32(r.Index))
	d.Write(RegQueueNum, uint32(r.Size))
	d.Write64(RegQueueDescLow, r.Desc)
	d.Write64(RegQueueDriverLow, r.Avail)
	d.Write64(RegQueueDeviceLow, r.Used)
	d.Write(RegQueueReady, 1)
}

// Start negotiates, sets up every queue in its largest size and sets DRIVER_OK.
func (d *Driver) Start(features uint64) {
	d.T.Helper()
	d.StartSize(features, 0)
}

// StartSize is Start with queues of the given size, see SetUp.
func (d *Driver) StartSize(features uint64, size uint16) {
	d.T.Helper()
	if !d.Negotiate(features) {
		d.T.Fatalf("the device refused features %#x", features)
	}
	for i := range d.Rings {
		d.SetUp(i, size)
	}
	d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
	if got := d.Status(); got&(DriverOK|NeedsReset) != DriverOK {
		d.T.Fatalf("status after DRIVER_OK = %#x: %v", got, d.Dev.Failure())
	}
}

// AwaitNeedsReset waits for DEVICE_NEEDS_RESET and the configuration interrupt that goes with it.
func (d *Driver) AwaitNeedsReset() {
	d.T.Helper()
	d.await("DEVICE_NEEDS_RESET", func() bool {
		return d.Status()&NeedsReset != 0 && d.Read(RegInterruptStatus)&2 != 0
	})
	if d.Dev.Failure() == nil {
		d.T.Error("DEVICE_NEEDS_RESET without a reason")
	}
}

// await waits until cond holds; it looks after each interrupt.
func (d *Driver) await(what string, cond func() bool) {
	d.T.Helper()
	if cond() {
		return
	}
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	for !cond() {
		select {
		case <-d.Line.edge:
		case <-timeout.C:
			d.T.Fatalf("waited %v for %s in vain; status %#x, failure: %v", Patience, what, d.Status(), d.Dev.Failure())
		}
	}
}
