package console

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// typed is what somebody types without end: a byte says where it stands.
func typed(at, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((at + i) % 251)
	}
	return b
}

// typist is a console at which somebody types all the time.
type typist struct {
	*Device
	mu sync.Mutex
	at int
}

// fill types as much as the console takes.
func (p *typist) fill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = (p.at + p.Feed(typed(p.at, inputLimit+1))) % 251
}

// startTypist types until the test ends.
func startTypist(t testing.TB, d *Device) *typist {
	p := &typist{Device: d}
	done, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(done)
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			p.fill()
			select {
			case <-d.Space():
			case <-done:
				return
			}
		}
	}()
	return p
}

// typing is a transport on which a kick finds something typed, and a driver that has a terminal: what is offered before a
// kick is not used long after it.
type typing struct {
	*mmio.Transport
	*typist
}

func (t typing) Write(off uint64, p []byte) {
	if off == virtiotest.RegQueueNotify {
		t.fill()
		t.Transport.Read(virtiotest.RegConfig, make([]byte, 2))
	}
	t.Transport.Write(off, p)
}

func (t typing) Close() error { return t.Transport.Close() }

// Restore has whoever types go on where the saved input ends.
func (t typing) Restore(s virtio.State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.in.mu.Lock()
	t.in.count = 0
	t.in.mu.Unlock()
	if n := len(s.Device); n > stateHeader {
		t.at = (int(s.Device[n-1]) + 1) % 251
	}
	return t.Transport.Restore(s)
}

func connect(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
	t, err := mmio.New(dev, mem, irq, mmio.Options{})
	if p, ok := dev.(*typist); ok && err == nil {
		return typing{t, p}, nil
	}
	return t, err
}

// device makes a console that is closed at the end of the test.
func device(t testing.TB, out io.Writer) *Device {
	d := New(Config{Output: out, Rows: 25, Cols: 80})
	t.Cleanup(func() {
		if err := d.Close(virtiotest.Patience); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func nothing(t testing.TB, _ []byte, written int) {
	t.Helper()
	if written != 0 {
		t.Errorf("%d bytes written to a buffer that is to be read", written)
	}
}

// some checks that a receive buffer has a piece of what is typed.
func some(t testing.TB, in []byte, written int) {
	t.Helper()
	if written < 1 {
		t.Error("an empty buffer came back")
		return
	}
	if !bytes.Equal(in[:written], typed(int(in[0]), written)) {
		t.Errorf("not what was typed: %x", in[:min(written, 32)])
	}
	for i, v := range in[written:] {
		if v != virtiotest.Untouched {
			t.Fatalf("byte %d was written, beyond the %d that were announced", written+i, written)
		}
	}
}

var suite = virtiotest.Suite{
	New:       func(t testing.TB) virtio.Device { return startTypist(t, device(t, io.Discard)) },
	Connect:   connect,
	ConfigLen: configLen,
	Requests: []virtiotest.Request{
		{Name: "a line", Queue: txQueue, Out: []byte("a line of output\r\n"), Check: nothing},
		{Name: "a page", Queue: txQueue, Out: make([]byte, 4096), Check: nothing},
		{Name: "more than waits", Queue: txQueue, Out: make([]byte, outputLimit+1), Check: nothing},
		{Name: "a key", Queue: rxQueue, In: 1, Check: some},
		{Name: "a page of input", Queue: rxQueue, In: 4096, Check: some},
		{Name: "more than is kept", Queue: rxQueue, In: inputLimit + 1, Check: some},
	},
}

func TestSuite(t *testing.T)     { virtiotest.Run(t, suite) }
func FuzzRing(f *testing.F)      { suite.FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite.FuzzRegisters(f) }

// start makes a device with a driver that uses it.
func start(t *testing.T, d *Device) *virtiotest.Driver {
	t.Helper()
	s := suite
	s.New = func(testing.TB) virtio.Device { return d }
	drv := s.NewDriver(t)
	drv.Start(drv.Offered())
	drv.Config(0, 4) // and with that it has a terminal
	return drv
}

// send has the device take bytes, so many times, and waits until it has.
func send(drv *virtiotest.Driver, b []byte, times int) {
	drv.T.Helper()
	r := drv.Rings[txQueue]
	s := r.Place(virtiotest.Request{Name: "output", Queue: txQueue, Out: b, Check: nothing}, virtiotest.Layout{})
	for range times {
		r.Offer(s.Head())
		r.KickIfWanted()
		s.Finish(r.AwaitUsed())
	}
	s.Free()
}

// offer puts a receive buffer on the ring.
func offer(drv *virtiotest.Driver, n int) *virtiotest.Sent {
	r := drv.Rings[rxQueue]
	s := r.Place(virtiotest.Request{Name: "buffer", Queue: rxQueue, In: n}, virtiotest.Layout{})
	r.Offer(s.Head())
	r.Kick()
	return s
}

func TestLineIsOneKick(t *testing.T) {
	var out bytes.Buffer
	d := New(Config{Output: &out})
	drv := start(t, d)
	r := drv.Rings[txQueue]
	line := []byte("one line, as long as lines are, of what a guest has to say\r\n")
	s := r.Place(virtiotest.Request{Name: "line", Queue: txQueue, Out: line, Check: nothing}, virtiotest.Layout{})
	r.Offer(s.Head())
	r.Kick()
	s.Finish(r.AwaitUsed())
	if err := d.Close(virtiotest.Patience); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), line) {
		t.Errorf("output %q", out.Bytes())
	}
	send(drv, line, 1) // after Close it is dropped
	if d.Dropped() != uint64(len(line)) {
		t.Errorf("%d bytes dropped, want %d", d.Dropped(), len(line))
	}
}

func TestConfiguration(t *testing.T) {
	out := newReader()
	close(out.hold)
	d := New(Config{Output: out, Rows: 25, Cols: 80})
	s := suite
	s.New = func(testing.TB) virtio.Device { return d }
	drv := s.NewDriver(t)
	size := func() (rows, cols uint16) {
		b := drv.Config(0, 4)
		return binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint16(b)
	}
	if rows, cols := size(); rows != 25 || cols != 80 {
		t.Errorf("%d rows, %d columns", rows, cols)
	}
	drv.Write(virtiotest.RegConfig+configEmergWr, '!') // before anything is negotiated (5.3.4)
	drv.Start(drv.Offered())
	drv.Write(virtiotest.RegConfig, 0xffff) // not the driver's to write
	before := drv.Read(virtiotest.RegConfigGeneration)
	d.Resize(25, 80)
	if drv.Read(virtiotest.RegInterruptStatus) != 0 {
		t.Error("an interrupt for a size that is the same")
	}
	d.Resize(50, 132)
	if rows, cols := size(); rows != 50 || cols != 132 {
		t.Errorf("%d rows, %d columns after they have changed", rows, cols)
	}
	if drv.Read(virtiotest.RegInterruptStatus)&2 == 0 || drv.Read(virtiotest.RegConfigGeneration) == before {
		t.Error("the driver is not told of the new size")
	}
	drv.Write(virtiotest.RegConfig+configEmergWr, 0x12300+'?') // the lowest byte counts
	if err := d.Close(virtiotest.Patience); err != nil {
		t.Fatal(err)
	}
	if out.got.String() != "!?" {
		t.Errorf("emergency writes put out %q", out.got.String())
	}
	d.ReadConfig(^uint64(0), make([]byte, 8))
	d.WriteConfig(^uint64(0), make([]byte, 8))
}

// TestInputWaitsForBuffers: what the guest has no buffers for is left to who has it, and nothing is lost (backpressure).
func TestInputWaitsForBuffers(t *testing.T) {
	d := device(t, nil)
	if n := d.Feed(typed(0, 3*inputLimit)); n != inputLimit {
		t.Fatalf("%d bytes taken without a driver, want %d", n, inputLimit)
	}
	drv := start(t, d)
	drv.Rings[rxQueue].Quiesce()
	select {
	case <-d.Space():
		t.Fatal("space without buffers")
	default:
	}
	var got []byte
	at := inputLimit
	for len(got) < 3*inputLimit {
		s := offer(drv, 100)
		id, n := drv.Rings[rxQueue].AwaitUsed()
		s.Finish(id, n)
		got = append(got, s.Answer()[:n]...)
		s.Free()
		select {
		case <-d.Space():
			at += d.Feed(typed(at, 3*inputLimit-at))
		default:
		}
	}
	if !bytes.Equal(got, typed(0, 3*inputLimit)) {
		t.Error("input is not what was typed")
	}
	// A buffer without room comes back; one that waits for a key gets it at once.
	r := drv.Rings[rxQueue]
	r.SetDesc(0, virtiotest.Desc{Flags: virtiotest.WriteTo})
	r.Offer(0)
	r.Kick()
	if id, n := r.AwaitUsed(); id != 0 || n != 0 {
		t.Errorf("buffer %d with %d bytes, want an empty one", id, n)
	}
	s := offer(drv, 10)
	r.Quiesce()
	if d.Feed([]byte("x")) != 1 {
		t.Error("a key was not taken")
	}
	if _, n := r.AwaitUsed(); n != 1 || s.Answer()[0] != 'x' {
		t.Errorf("%d bytes, %q", n, s.Answer())
	}
}

// TestTypedAhead: what was typed waits until the driver has a terminal, over a reset too.
func TestTypedAhead(t *testing.T) {
	d := device(t, nil)
	s := suite
	s.New = func(testing.TB) virtio.Device { return d }
	drv := s.NewDriver(t)
	d.Feed([]byte("a"))
	drv.Config(0, 4) // before DRIVER_OK it says nothing
	for name, ready := range map[string]func(){
		"asks for the size": func() { drv.Config(0, 1) },
		"sends something":   func() { send(drv, []byte("$ "), 1) },
	} {
		drv.Start(drv.Offered())
		r := drv.Rings[rxQueue]
		b := offer(drv, 10)
		r.Quiesce()
		if _, _, ok := r.TakeUsed(); ok {
			t.Errorf("%s: input came before", name)
		}
		ready()
		b.Finish(r.AwaitUsed())
		if b.Answer()[0] != 'a' {
			t.Errorf("%s: input %q", name, b.Answer())
		}
		drv.Reset()
		d.Feed([]byte("a"))
	}
	// A driver whose queues have been used had a terminal in a machine that was saved.
	drv.Start(drv.Offered())
	send(drv, []byte("$ "), 1)
	d.listening.Store(false) // as in a new device
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	saved := offer(drv, 10)
	saved.Finish(drv.Rings[rxQueue].AwaitUsed())
	drv.Reset()
	d.Feed([]byte("a"))
	// Without the feature it does not know better.
	drv.Start(drv.Offered() &^ (1 << F_SIZE))
	b := offer(drv, 10)
	b.Finish(drv.Rings[rxQueue].AwaitUsed())
}

// TestPauseKeepsOrder: buffers that the device holds at a pause are used afterwards, in their order.
func TestPauseKeepsOrder(t *testing.T) {
	d := device(t, nil)
	drv := start(t, d)
	first, second := offer(drv, 1), offer(drv, 1)
	drv.Rings[rxQueue].Quiesce()
	for range 3 {
		if err := drv.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := drv.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	d.Feed([]byte("ab"))
	for i, s := range []*virtiotest.Sent{first, second} {
		s.Finish(drv.Rings[rxQueue].AwaitUsed())
		if s.Answer()[0] != "ab"[i] {
			t.Errorf("buffer %d has %q", i, s.Answer())
		}
	}
}

// Where the buffers of FuzzTerminal are: memory that no test allocates.
const (
	fuzzOut = 1 << 32
	fuzzIn  = fuzzOut + 1<<20
)

// FuzzTerminal has a driver and a user do anything in any order: bytes out, bytes in, buffers of any size, sizes, emergency
// writes, pauses and resets. A script is a sequence of operations of 3 bytes.
func FuzzTerminal(f *testing.F) {
	f.Add([]byte{0, 10, 0, 1, 20, 0, 2, 5, 0, 3, 1, 1, 4, 'x', 0, 5, 0, 0, 1, 20, 0, 2, 5, 0})
	f.Add([]byte{2, 0xff, 0xff, 2, 0xff, 0xff, 1, 0xff, 0xff, 1, 0, 0, 6, 0, 0, 1, 1, 0})
	f.Add([]byte{0, 0xff, 0xff, 0, 0xff, 0xff, 5, 0, 0, 0, 0xff, 0xff, 6, 0, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 3*64 {
			return
		}
		out := newReader()
		close(out.hold)
		d := New(Config{Output: out})
		s := suite
		s.New = func(testing.TB) virtio.Device { return d }
		drv := s.NewDriver(t)
		drv.Start(drv.Offered())
		sent, emergencies := 0, 0
		for ; len(script) >= 3; script = script[3:] {
			n := int(script[1]) | int(script[2])<<8
			switch script[0] % 7 {
			case 0:
				r := drv.Rings[txQueue]
				r.SetDesc(0, virtiotest.Desc{Addr: fuzzOut, Len: uint32(n)})
				r.Offer(0)
				r.Kick()
				r.AwaitUsed()
				sent += n
			case 1:
				r := drv.Rings[rxQueue]
				r.SetDesc(uint16(n%rxQueueSize), virtiotest.Desc{Addr: fuzzIn, Len: uint32(n), Flags: virtiotest.WriteTo})
				r.Offer(uint16(n % rxQueueSize))
				r.Kick()
			case 2:
				if took := d.Feed(make([]byte, n)); took > min(n, inputLimit) {
					t.Errorf("%d of %d bytes taken", took, n)
				}
			case 3:
				d.Resize(uint16(script[1]), uint16(script[2]))
			case 4:
				drv.Write(virtiotest.RegConfig+configEmergWr, uint32(script[1]))
				sent++
				emergencies++
			case 5:
				if err := drv.Dev.Pause(); err != nil {
					t.Fatal(err)
				}
				if err := drv.Dev.Resume(); err != nil {
					t.Fatal(err)
				}
			case 6:
				drv.Start(drv.Offered())
			}
			if drv.Status()&virtiotest.NeedsReset != 0 {
				drv.Start(drv.Offered()) // a buffer was offered twice
			}
		}
		if err := d.Close(virtiotest.Patience); err != nil {
			t.Fatal(err)
		}
		// Emergency writes do not wait for room. What is missing is told.
		dropped := int(d.Dropped())
		if got := out.got.Len(); dropped > emergencies || got < sent-dropped || dropped == 0 && got != sent {
			t.Errorf("%d bytes arrived and %d were dropped of %d, %d of them emergency writes", got, dropped, sent, emergencies)
		}
	})
}
