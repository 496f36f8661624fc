package virtio_test

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// answering starts a worker that answers every request and looks for an hour for more.
func answering(t *testing.T, features uint64) (*pair, *virtio.Worker, chan struct{}) {
	t.Helper()
	kick, err := virtio.NewKick()
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t, 8, features, 0)
	if p.q, err = virtio.NewQueue(0, p.state(0), features, p.mem, p.irq, kick); err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{}, 8)
	w := virtio.StartLookingWorker(p.q, p.irq, time.Hour, func(w *virtio.Worker) error {
		for {
			c, err := w.Queue().Pop()
			if c == nil || err != nil {
				return err
			}
			w.Queue().Push(c, 0)
			answered <- struct{}{}
		}
	})
	t.Cleanup(func() {
		w.Stop()
		kick.Close()
	})
	return p, w, answered
}

// TestWorkerLooksBeforeItSleeps offers requests without a notification.
func TestWorkerLooksBeforeItSleeps(t *testing.T) {
	for _, features := range []uint64{0, allRing} {
		p, _, answered := answering(t, features)
		for range 3 {
			p.Offer(p.Place(echo, virtiotest.Layout{}).Head())
			select {
			case <-answered:
			case <-time.After(20 * time.Second):
				t.Fatal("not answered")
			}
		}
		if events := features != 0; events && p.AvailEvent() != 0 || !events && !p.NoNotify() {
			t.Errorf("features %#x: a worker that looks asks for notifications", features)
		}
	}
}

// TestLookingWorkerIsWoken would take an hour.
func TestLookingWorkerIsWoken(t *testing.T) {
	kick, err := virtio.NewKick()
	if err != nil {
		t.Fatal(err)
	}
	defer kick.Close()
	p := newPair(t, 8, allRing, 0)
	if p.q, err = virtio.NewQueue(0, p.state(0), allRing, p.mem, p.irq, kick); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{}, 8)
	w := virtio.StartLookingWorker(p.q, p.irq, time.Hour, func(*virtio.Worker) error {
		served <- struct{}{}
		return nil
	})
	defer w.Stop()
	for range 2 { // at the start, and when it is woken
		select {
		case <-served:
		case <-time.After(20 * time.Second):
			t.Fatal("not woken")
		}
		w.Wake()
	}
}

// TestLookingWorkerStops would take an hour.
func TestLookingWorkerStops(t *testing.T) {
	_, w, _ := answering(t, allRing)
	w.Stop()
}

func TestHowLongAWorkerLooks(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("with one CPU it does not look")
	}
	for _, c := range []struct{ look, slept, want time.Duration }{
		{0, 0, virtio.LookMin},
		{0, virtio.LookMax, virtio.LookMin},
		{virtio.LookMin, virtio.LookMax, 2 * virtio.LookMin},
		{virtio.LookMax, virtio.LookMax, virtio.LookMax},
		{virtio.LookMax, time.Millisecond, 0},
		{0, time.Hour, 0},
	} {
		if got := virtio.Slept(c.look, c.slept); got != c.want {
			t.Errorf("after %v of looking and %v without work it looks for %v, want %v", c.look, c.slept, got, c.want)
		}
	}
}

// awaiting starts a worker that waits for what comes through a pipe, and looks for an hour for more. Each time that
// it is served, it takes what has come, and tells how much.
func awaiting(t *testing.T, look time.Duration) (_ *virtio.Worker, pipe *os.File, served <-chan int) {
	t.Helper()
	kick, err := virtio.NewKick()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd := int(r.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	p := newPair(t, 8, allRing, 0)
	if p.q, err = virtio.NewQueue(0, p.state(0), allRing, p.mem, p.irq, kick); err != nil {
		t.Fatal(err)
	}
	p.Offer(p.Place(echo, virtiotest.Layout{}).Head()) // which nobody takes
	came := make(chan int, 100)
	worker := virtio.StartLookingWorker(p.q, p.irq, look, func(w *virtio.Worker) error {
		n, err := unix.Read(fd, make([]byte, 10))
		switch {
		case err == unix.EAGAIN:
			came <- 0
			w.Await(fd)
		case n == 0:
			came <- -1
			w.AwaitWake()
		default:
			came <- n
		}
		return nil
	})
	t.Cleanup(func() {
		worker.Stop()
		kick.Close()
		r.Close()
		w.Close()
	})
	return worker, w, came
}

// A worker waits for a descriptor as for its driver: looking, asleep, until it is woken, and until it is stopped.
func TestWorkerAwaitsDescriptor(t *testing.T) {
	for name, look := range map[string]time.Duration{"looking": time.Hour, "asleep": 0} {
		t.Run(name, func(t *testing.T) {
			w, pipe, served := awaiting(t, look)
			next := func() int {
				t.Helper()
				select {
				case n := <-served:
					return n
				case <-time.After(20 * time.Second):
					t.Fatal("not served")
				}
				return 0
			}
			empty := func() {
				t.Helper()
				if n := next(); n != 0 {
					t.Fatalf("%d bytes of nothing", n)
				}
			}
			empty()
			for range 3 {
				if _, err := pipe.Write([]byte{1, 2, 3}); err != nil {
					t.Fatal(err)
				}
				if n := next(); n != 3 {
					t.Fatalf("%d bytes came", n)
				}
				empty()
			}
			w.Wake()
			empty()
			pipe.Close()
			if n := next(); n != -1 {
				t.Fatalf("%d bytes from nobody", n)
			}
			time.Sleep(20 * time.Millisecond) // for a worker that runs wild: the descriptor is readable for ever
			if len(served) != 0 {
				t.Error("served though it awaits nothing")
			}
			w.Wake()
			if n := next(); n != -1 {
				t.Fatalf("%d bytes from nobody", n)
			}
		})
	}
}
