package serial

import (
	"errors"
	"fmt"
	"time"
)

// send puts a byte on the line to Output. mu is held.
func (u *UART) send(v byte) {
	if u.dead || u.full {
		u.dropped++
		return
	}
	u.pending = append(u.pending, v)
	u.full = len(u.pending) >= outputLimit
	switch {
	case u.due:
	case v == '\n' || len(u.pending) >= flushBytes:
		u.due = true
		u.wake.Signal()
	case !u.armed:
		u.armed = true
		u.timer.Reset(flushDelay)
	}
}

// flushDue is the timer's function.
func (u *UART) flushDue() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.armed = false
	if len(u.pending) > 0 {
		u.due = true
		u.wake.Signal()
	}
}

// writer is the goroutine that writes to Output.
func (u *UART) writer() {
	defer close(u.done)
	var batch []byte
	u.mu.Lock()
	defer u.mu.Unlock()
	for {
		for !u.due && !u.closing {
			u.wake.Wait()
		}
		if len(u.pending) == 0 && u.closing {
			return
		}
		batch, u.pending, u.due = u.pending, batch[:0], false
		dead := u.dead
		u.drained()

		u.mu.Unlock()
		var err error
		if !dead {
			_, err = u.out.Write(batch)
		}
		u.mu.Lock()

		if err != nil && !u.dead {
			u.dead, u.err = true, err
		}
		if u.dead {
			u.dropped += uint64(len(u.pending))
			u.pending, u.due = u.pending[:0], false
			u.drained()
		}
	}
}

// drained makes the transmitter ready if it was not. mu is held, and let go of meanwhile.
func (u *UART) drained() {
	if !u.full {
		return
	}
	u.full, u.reg.thre = false, true
	if u.update() {
		u.mu.Unlock()
		u.irq.Trigger()
		u.mu.Lock()
	}
}

// ErrTimeout is what Close returns when Output did not take everything in time.
var ErrTimeout = errors.New("output was not taken in time")

// Close writes out what the guest has sent, waits for that up to timeout, and ends the UART's goroutine. Afterwards
// output is dropped. It returns the first error of Output. After ErrTimeout the goroutine is still in Output's Write,
// unless Output has a SetWriteDeadline that frees it.
func (u *UART) Close(timeout time.Duration) error {
	u.mu.Lock()
	u.closing = true
	u.wake.Signal()
	if u.timer != nil {
		u.timer.Stop()
	}
	u.mu.Unlock()

	wait := time.NewTimer(timeout)
	defer wait.Stop()
	select {
	case <-u.done:
	case <-wait.C:
		u.mu.Lock()
		u.dead = true
		u.mu.Unlock()
		if d, ok := u.out.(interface{ SetWriteDeadline(time.Time) error }); ok && d.SetWriteDeadline(time.Unix(1, 0)) == nil {
			<-u.done
		}
		return fmt.Errorf("serial port: %w", ErrTimeout)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dead = true
	if u.err != nil {
		return fmt.Errorf("serial port: write output: %w", u.err)
	}
	return nil
}
