package console

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// reader is an output that takes nothing while it is held up.
type reader struct {
	mu   sync.Mutex
	got  bytes.Buffer
	hold chan struct{} // what Write waits for
	came chan struct{} // gets a value when Write waits
}

func newReader() *reader {
	return &reader{hold: make(chan struct{}), came: make(chan struct{}, 1)}
}

func (r *reader) Write(p []byte) (int, error) {
	select {
	case r.came <- struct{}{}:
	default:
	}
	<-r.hold
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.Write(p)
}

// TestStalledReader: a reader that does not read bounds what is kept, stops neither the guest for long nor Deactivate, and
// is told what it has missed (hostile case 25).
func TestStalledReader(t *testing.T) {
	out := newReader()
	d := New(Config{Output: out})
	drv := start(t, d)
	send(drv, []byte("begin\r\n"), 1)
	<-out.came
	page := bytes.Repeat([]byte("0123456789abcdef"), 256)
	send(drv, page, outputLimit/len(page))
	// Full: the next stands still, and a pause does not wait for it.
	r := drv.Rings[txQueue]
	held := r.Place(virtiotest.Request{Name: "held", Queue: txQueue, Out: []byte("held\r\n"), Check: nothing}, virtiotest.Layout{})
	r.Offer(held.Head())
	r.Kick()
	began := time.Now()
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > stallTime/2 {
		t.Errorf("a pause took %v", took)
	}
	if _, _, ok := r.TakeUsed(); ok {
		t.Error("output was taken though there is no room")
	}
	if err := drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	held.Finish(r.AwaitUsed()) // after stallTime
	const flood = 64 << 20
	send(drv, make([]byte, 1<<20), flood>>20) // and the rest without waiting
	d.out.mu.Lock()
	kept := cap(d.out.waiting)
	d.out.mu.Unlock()
	if kept > 3*outputLimit {
		t.Errorf("%d bytes kept", kept)
	}
	if want := uint64(flood + len("held\r\n")); d.Dropped() != want {
		t.Errorf("%d bytes dropped, want %d", d.Dropped(), want)
	}
	close(out.hold)
	for stalled := true; stalled; runtime.Gosched() {
		d.out.mu.Lock()
		stalled = d.out.stalled
		d.out.mu.Unlock()
	}
	// From now on all arrives.
	send(drv, []byte("end\r\n"), 1)
	if err := d.Close(virtiotest.Patience); err != nil {
		t.Fatal(err)
	}
	want := "begin\r\n" + string(bytes.Repeat(page, outputLimit/len(page))) +
		"\r\n[hull: 67108870 bytes are missing here, which nobody has read]\r\nend\r\n"
	if out.got.String() != want {
		t.Errorf("%d bytes arrived, want %d; the last: %q", out.got.Len(), len(want), out.got.Bytes()[max(0, out.got.Len()-200):])
	}
}

// TestSlowReader: one that reads slowly gets everything.
func TestSlowReader(t *testing.T) {
	r, w := io.Pipe()
	d := New(Config{Output: w})
	drv := start(t, d)
	want := typed(0, 8*outputLimit)
	var got bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(&got, r) })
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 3*outputLimit)
		send(drv, rest[:n], 1)
		rest = rest[n:]
	}
	if err := d.Close(virtiotest.Patience); err != nil {
		t.Fatal(err)
	}
	w.Close()
	wg.Wait()
	if !bytes.Equal(got.Bytes(), want) || d.Dropped() != 0 {
		t.Errorf("%d of %d bytes, %d dropped", got.Len(), len(want), d.Dropped())
	}
}

func TestBrokenReader(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	d := New(Config{Output: w})
	drv := start(t, d)
	send(drv, make([]byte, 3*outputLimit), 3)
	if err := d.Close(virtiotest.Patience); err == nil {
		t.Error("the writer's error is lost")
	}
}

// TestCloseDoesNotWaitForReader: one that never reads again holds up Close as long as it was told to wait.
func TestCloseDoesNotWaitForReader(t *testing.T) {
	out := newReader()
	d := New(Config{Output: out})
	drv := start(t, d)
	send(drv, []byte("x"), 1)
	if err := d.Close(10 * time.Millisecond); err == nil {
		t.Error("closed without an error though the output was not taken")
	}
	send(drv, make([]byte, 3*outputLimit), 1) // nobody waits for the reader any more
	close(out.hold)
	<-d.out.done
}
