package console

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hullvm/hull/virtio"
)

const (
	// outputLimit is when the transmit queue stands still, in bytes. As much again may be added by the chain that reaches
	// it, and twice as much be on its way to Config.Output.
	outputLimit = 64 << 10
	// stallTime is how long the queue stands still for a reader that takes nothing.
	stallTime = time.Second
	// pieceSize is how much is written at once, in bytes, and so what a slow reader has to take in stallTime.
	pieceSize = 4 << 10
)

// ErrTimeout is wrapped by what Close returns when Output did not take everything in time.
var ErrTimeout = errors.New("output was not taken in time")

// output is the way from the guest to a writer that may block.
type output struct {
	w    io.Writer
	room chan struct{} // gets a value when the writer has taken what was waiting
	done chan struct{} // closed when the writer's goroutine has ended

	mu      sync.Mutex // guards what follows; never held while w is called
	wake    sync.Cond  // for the writer
	waiting []byte
	written uint64 // pieces
	stalled bool   // nothing was taken for stallTime: what does not fit is dropped
	missing uint64 // bytes dropped behind what is waiting, not told yet
	dropped uint64 // bytes, in all
	dead    bool   // w has failed or was closed: drop everything
	err     error  // of w
	closing bool
}

func (o *output) start(w io.Writer) {
	o.w, o.wake.L = w, &o.mu
	o.room, o.done = make(chan struct{}, 1), make(chan struct{})
	if w == nil {
		o.dead = true
		close(o.done)
		return
	}
	go o.write()
}

// await waits until there is room, or whatever does not fit is to be dropped. It returns false when quit comes first.
func (o *output) await(quit <-chan struct{}) bool {
	ready, written := o.state()
	if ready {
		return true
	}
	t := time.NewTimer(stallTime)
	defer t.Stop()
	for {
		select {
		case <-o.room:
		case <-t.C:
			written = o.stall(written)
			t.Reset(stallTime)
		case <-quit:
			return false
		}
		if ready, _ := o.state(); ready {
			return true
		}
	}
}

// state tells whether await has to wait, and how much was written.
func (o *output) state() (ready bool, written uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.waiting) < outputLimit || o.stalled || o.dead, o.written
}

// stall has output dropped if no more was written than before, and returns how much that is.
func (o *output) stall(before uint64) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stalled = o.written == before
	return o.written
}

// take takes up to outputLimit bytes off the front of src, or all of them if they are dropped.
func (o *output) take(src *virtio.Buffers) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.drops() {
		o.drop(uint64(src.Skip(src.Len())))
		return
	}
	was, n := len(o.waiting), min(src.Len(), outputLimit)
	o.waiting = slices.Grow(o.waiting, n)[:was+n]
	src.Read(o.waiting[was:])
	o.wake.Signal()
}

// leave drops src.
func (o *output) leave(src *virtio.Buffers) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(uint64(src.Skip(src.Len())))
}

// emergency takes one byte, if there is room for it.
func (o *output) emergency(b byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.drops() || len(o.waiting) >= outputLimit {
		o.drop(1)
		return
	}
	o.waiting = append(o.waiting, b)
	o.wake.Signal()
}

// drops reports whether what comes now is dropped. mu is held.
func (o *output) drops() bool { return o.dead || o.stalled && len(o.waiting) >= outputLimit }

// drop counts bytes that are dropped. mu is held.
func (o *output) drop(n uint64) {
	o.dropped += n
	o.missing += n
}

func (o *output) lost() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// write is the goroutine that writes to w.
func (o *output) write() {
	defer close(o.done)
	var batch []byte
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		for len(o.waiting) == 0 && !o.closing {
			o.wake.Wait()
		}
		if len(o.waiting) == 0 || o.dead {
			return
		}
		batch, o.waiting = o.waiting, batch[:0]
		missing := o.missing
		o.missing, o.stalled = 0, false
		o.signalRoom()

		err := o.writeAll(batch)
		if err == nil && missing > 0 {
			err = o.writeAll(fmt.Appendf(nil, "\r\n[hull: %d bytes are missing here, which nobody has read]\r\n", missing))
		}
		if err != nil {
			o.dead, o.err = true, err
			o.drop(uint64(len(o.waiting)))
			o.waiting = nil
			o.signalRoom()
			return
		}
	}
}

// writeAll writes p piece by piece. mu is held, and let go of meanwhile.
func (o *output) writeAll(p []byte) error {
	for len(p) > 0 && !o.dead {
		o.mu.Unlock()
		n, err := o.w.Write(p[:min(len(p), pieceSize)])
		o.mu.Lock()
		if err != nil {
			return err
		}
		p = p[n:]
		o.written++
	}
	return nil
}

func (o *output) signalRoom() {
	select {
	case o.room <- struct{}{}:
	default:
	}
}

// close is Device.Close.
func (o *output) close(timeout time.Duration) error {
	o.mu.Lock()
	o.closing = true
	o.wake.Signal()
	o.mu.Unlock()

	wait := time.NewTimer(timeout)
	defer wait.Stop()
	select {
	case <-o.done:
	case <-wait.C:
		o.end()
		if d, ok := o.w.(interface{ SetWriteDeadline(time.Time) error }); ok && d.SetWriteDeadline(time.Unix(1, 0)) == nil {
			<-o.done
		}
		return ErrTimeout
	}
	if err := o.end(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// end drops everything from now on and returns the first error there was.
func (o *output) end() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dead = true
	o.signalRoom()
	return o.err
}
