package virtio_test

import (
	"runtime"
	"testing"
	"time"

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
