package mmio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Feature bits of the echo device: one depends on the other.
const (
	featureBase  = 3
	featureExtra = 4
	idEcho       = 63
)

// echoDevice answers each chain of queues 0 and 1 with the bytes it has read, inverted. Queue 2 is never served.
type echoDevice struct {
	env     virtio.Env
	workers []*virtio.Worker
	config  atomic.Uint64
	written atomic.Uint64
	resets  atomic.Int64
	fail    error // of Activate
}

func (*echoDevice) ID() uint32 { return idEcho }
func (*echoDevice) Features() uint64 {
	return 1<<featureBase | 1<<featureExtra | 1<<30 /* not a device's */
}
func (*echoDevice) QueueSizes() []uint16 { return []uint16{256, 16, 1} }
func (d *echoDevice) Reset()             { d.resets.Add(1) }

func (d *echoDevice) CheckFeatures(f uint64) error {
	if f&(1<<featureExtra) != 0 && f&(1<<featureBase) == 0 {
		return errors.New("extra needs base")
	}
	return nil
}

func (d *echoDevice) ReadConfig(off uint64, p []byte) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], d.config.Load())
	if off < uint64(len(b)) {
		copy(p, b[off:])
	}
}

func (d *echoDevice) WriteConfig(off uint64, p []byte) { d.written.Add(off<<8 + uint64(len(p))) }

func (d *echoDevice) SharedMemory(id uint8) (base, size uint64, ok bool) {
	return 0x1234_5678_9000, 0x2_0000_1000, id == 7
}

func (d *echoDevice) Activate(env virtio.Env) error {
	if d.fail != nil {
		return d.fail
	}
	d.env = env
	for i := range 2 {
		if q := env.Queue(i); q != nil {
			d.workers = append(d.workers, virtio.StartWorker(q, env.Interrupt, d.serve))
		}
	}
	return nil
}

func (d *echoDevice) Deactivate() ([]*virtio.Queue, error) {
	for _, w := range d.workers {
		w.Stop()
	}
	d.workers = nil
	return d.env.Queues, nil
}

func (d *echoDevice) serve(w *virtio.Worker) error {
	q := w.Queue()
	var buf [64]byte
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		n := c.Readable.Read(buf[:])
		for i := range buf[:n] {
			buf[i] = ^buf[i]
		}
		q.Push(c, c.Writable.Write(buf[:n]))
	}
	return nil
}

func connect(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
	return New(dev, mem, irq, Options{})
}

func echo(name string, queue int, out string, in int) virtiotest.Request {
	want := []byte(out)
	for i := range want {
		want[i] = ^want[i]
	}
	want = want[:min(len(want), in)]
	return virtiotest.Request{Name: name, Queue: queue, Out: []byte(out), In: in, Check: func(t testing.TB, got []byte, written int) {
		t.Helper()
		if written != len(want) || !bytes.Equal(got[:written], want) {
			t.Errorf("%s: answer %x, want %x", name, got[:written], want)
		}
		for _, v := range got[written:] {
			if v != virtiotest.Untouched {
				t.Errorf("%s: written past the end", name)
				break
			}
		}
	}}
}

var suite = virtiotest.Suite{
	New:     func(testing.TB) virtio.Device { d := &echoDevice{}; d.config.Store(0x0807060504030201); return d },
	Connect: connect,
	Requests: []virtiotest.Request{
		echo("short", 0, "hello", 5),
		echo("longer answer", 1, "a request of some length, to be cut", 60),
		echo("shorter answer", 0, "a request of some length, to be cut", 9),
		echo("no answer", 1, "x", 0),
		echo("no question", 0, "", 3),
	},
	ConfigLen: 8,
}

func TestSuite(t *testing.T)     { virtiotest.Run(t, suite) }
func FuzzRing(f *testing.F)      { suite.FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite.FuzzRegisters(f) }

// driver returns a driver together with its device.
func driver(t *testing.T) (*virtiotest.Driver, *echoDevice) {
	t.Helper()
	dev := &echoDevice{}
	s := suite
	s.New = func(testing.TB) virtio.Device { return dev }
	return s.NewDriver(t), dev
}

func TestFeatureDependencies(t *testing.T) {
	d, _ := driver(t)
	if got := d.Offered(); got&(1<<30) != 0 {
		t.Errorf("features %#x: bit 30 is not the device's to offer", got)
	}
	if d.Negotiate(virtiotest.Version1 | 1<<featureExtra) {
		t.Error("a feature was accepted without the one that it depends on (2.2.2)")
	}
	if !d.Negotiate(virtiotest.Version1 | 1<<featureExtra | 1<<featureBase) {
		t.Error("good features were refused")
	}
}

func TestConfigChange(t *testing.T) {
	d, dev := driver(t)
	d.Start(d.Offered())
	gen := d.Read(virtiotest.RegConfigGeneration)
	dev.config.Store(99)
	dev.env.Interrupt.Config()
	if got := d.Read(virtiotest.RegConfigGeneration); got == gen {
		t.Error("ConfigGeneration is the same after the configuration has changed")
	}
	if got := d.Read(virtiotest.RegInterruptStatus); got != 2 {
		t.Errorf("InterruptStatus = %#x, want 2", got)
	}
	if d.Line.Edges() != 1 || d.Config(0, 1)[0] != 99 {
		t.Errorf("%d interrupts, configuration %x", d.Line.Edges(), d.Config(0, 1))
	}
	d.Dev.Write(virtiotest.RegConfig+4, []byte{1, 2})
	if got := dev.written.Load(); got != 4<<8+2 {
		t.Errorf("configuration write arrived as %#x", got)
	}
}

func TestActivateFails(t *testing.T) {
	d, dev := driver(t)
	dev.fail = errors.New("no")
	if !d.Negotiate(d.Offered()) {
		t.Fatal("features refused")
	}
	d.Write(virtiotest.RegStatus, virtiotest.Acknowledge|virtiotest.DriverBit|virtiotest.FeaturesOK|virtiotest.DriverOK)
	d.AwaitNeedsReset()
	if err := d.Dev.Failure(); !errors.Is(err, dev.fail) {
		t.Errorf("failure = %v, want %v", err, dev.fail)
	}
	dev.fail = nil
	d.Start(d.Offered())
	if err := d.Dev.Failure(); err != nil {
		t.Errorf("failure after reset = %v", err)
	}
}

func TestSharedMemory(t *testing.T) {
	d, _ := driver(t)
	read := func(reg uint64) uint64 { return uint64(d.Read(reg)) | uint64(d.Read(reg+4))<<32 }
	d.Write(virtiotest.RegSHMSel, 7)
	if base, size := read(virtiotest.RegSHMBaseLow), read(virtiotest.RegSHMLenLow); base != 0x1234_5678_9000 || size != 0x2_0000_1000 {
		t.Errorf("region 7 at %#x, %#x long", base, size)
	}
	d.Write(virtiotest.RegSHMSel, 7+256)
	if size := read(virtiotest.RegSHMLenLow); size != ^uint64(0) {
		t.Errorf("region 263 is %#x long, want all ones", size)
	}
}

// The eventfds do what a write to QueueNotify does: that is how KVM kicks.
func TestNotifyFDs(t *testing.T) {
	d, _ := driver(t)
	d.Start(d.Offered())
	r := d.Rings[1]
	s := r.Place(suite.Requests[1], virtiotest.Layout{Piece: 20})
	fds := d.Dev.NotifyFDs()
	if len(fds) != 3 {
		t.Fatalf("%d eventfds, want 3", len(fds))
	}
	for range 10 {
		s.Again()
		r.Offer(s.Head())
		if _, err := unix.Write(fds[1], []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		s.Finish(r.AwaitUsed())
	}
}

func TestResetReachesDevice(t *testing.T) {
	d, dev := driver(t)
	d.Start(d.Offered())
	n := dev.resets.Load()
	if err := errors.Join(d.Dev.Pause(), d.Dev.Resume()); err != nil {
		t.Fatal(err)
	}
	if dev.resets.Load() != n {
		t.Error("a pause reset the device")
	}
	d.Reset()
	if dev.resets.Load() != n+1 {
		t.Errorf("%d resets, want 1", dev.resets.Load()-n)
	}
}

func TestClose(t *testing.T) {
	d, _ := driver(t)
	d.Start(d.Offered())
	for range 2 {
		if err := d.Dev.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	}
	d.Rings[0].Kick()
	if err := d.Dev.Pause(); !errors.Is(err, virtio.ErrClosed) {
		t.Errorf("Pause after Close = %v, want %v", err, virtio.ErrClosed)
	}
	if err := d.Dev.Resume(); !errors.Is(err, virtio.ErrClosed) {
		t.Errorf("Resume after Close = %v, want %v", err, virtio.ErrClosed)
	}
}

func TestVendor(t *testing.T) {
	tr, err := New(&echoDevice{}, virtiotest.NewMemory(), &virtiotest.Line{}, Options{VendorID: 0x554d4551})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	p := make([]byte, 4)
	tr.Read(regVendorID, p)
	if string(p) != "QEMU" {
		t.Errorf("vendor %q", p)
	}
}

// An exit to a register must not allocate.
func TestNoAllocations(t *testing.T) {
	d, _ := driver(t)
	d.Start(d.Offered())
	p := make([]byte, 4)
	ack := []byte{3, 0, 0, 0}
	if n := virtiotest.AllocsPerRun(100, func() {
		d.Dev.Read(regInterruptStatus, p)
		d.Dev.Write(regInterruptACK, ack)
		d.Dev.Write(QueueNotify, p)
		d.Dev.Read(regConfig, p)
		d.Dev.Read(regStatus, p)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
