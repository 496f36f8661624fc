package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hullvm/hull/devices/serial"
	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/console"
)

// openOutput opens where a terminal's output goes, besides into the tail, no more of
// it than limit allows. Close closes it.
func (m *Machine) openOutput(f *File, limit *virtio.Limiter) (io.Writer, error) {
	if f == nil {
		return m.tail, nil
	}
	out, err := f.Open(os.O_WRONLY | os.O_APPEND)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	m.closing(out.Close)
	if limit == nil {
		return io.MultiWriter(m.tail, out), nil
	}
	return io.MultiWriter(m.tail, &droppingWriter{to: out, limit: limit, dropped: &m.serialDropped}), nil
}

// droppingWriter writes what a limit allows at this moment, and drops the rest.
type droppingWriter struct {
	to      io.Writer
	limit   *virtio.Limiter
	dropped *atomic.Uint64 // bytes
}

func (w *droppingWriter) Write(p []byte) (int, error) {
	allowed := 0
	for allowed < len(p) && w.limit.Take(1) == 0 {
		allowed++
	}
	if allowed < len(p) {
		w.limit.Give(1) // it was not used
		w.dropped.Add(uint64(len(p) - allowed))
	}
	if allowed > 0 {
		if n, err := w.to.Write(p[:allowed]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// terminal is a device that takes input.
type terminal interface {
	Feed(p []byte) int
	Space() <-chan struct{}
}

// openInput opens a terminal's input, if it has one. Start begins to read it: before, a restored guest's interrupt
// controllers would not keep what input raises.
func (m *Machine) openInput(f *File, t terminal) error {
	if f == nil {
		return nil
	}
	in, err := f.Open(os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("input: %w", err)
	}
	started := false
	m.onStart = append(m.onStart, func() {
		started = true
		go m.feed(in, t)
	})
	m.closing(func() error {
		if started {
			return nil // it is feed's
		}
		return in.Close()
	})
	return nil
}

// feed hands what is read to the guest, no faster than the guest takes it, until
// the input or the machine ends. It owns in. A read that is under way when the
// machine ends cannot be interrupted on every kind of file; then this goroutine
// stays until the next byte or the end of the process.
func (m *Machine) feed(in *os.File, t terminal) {
	defer in.Close()
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		for p := buf[:n]; len(p) > 0; {
			if p = p[t.Feed(p):]; len(p) == 0 {
				break
			}
			select {
			case <-t.Space():
			case <-m.ended:
				return
			}
		}
		if err != nil || m.hasEnded() {
			return
		}
	}
}

// flushTimeout is how long the end of a VM waits for a reader of one of its
// terminals who does not read.
const flushTimeout = time.Second

func (m *Machine) flushSerial() error {
	if m.serial == nil {
		return nil
	}
	if err := m.serial.Close(flushTimeout); err != nil && !errors.Is(err, serial.ErrTimeout) {
		return fmt.Errorf("serial port: %w", err)
	}
	return nil
}

func (m *Machine) flushConsole() error {
	if m.console == nil {
		return nil
	}
	if err := m.console.Close(flushTimeout); err != nil && !errors.Is(err, console.ErrTimeout) {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}

// Resize tells the guest the new size of the virtio console's terminal, in
// characters.
func (m *Machine) Resize(rows, cols uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.console == nil {
		return fmt.Errorf("resize: the machine has no virtio console: %w", errors.ErrUnsupported)
	}
	if m.state == stateClosed {
		return ErrState
	}
	m.console.Resize(rows, cols)
	return nil
}

// tail keeps the last ConsoleTail bytes written to it.
type tail struct {
	mu   sync.Mutex
	buf  []byte
	next int  // where the next byte goes
	full bool // buf has wrapped around
}

func newTail(size int) *tail { return &tail{buf: make([]byte, size)} }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) > len(t.buf) {
		p = p[len(p)-len(t.buf):]
	}
	for len(p) > 0 {
		k := copy(t.buf[t.next:], p)
		p = p[k:]
		if t.next += k; t.next == len(t.buf) {
			t.next, t.full = 0, true
		}
	}
	return n, nil
}

// Lines returns the last n whole lines, or fewer, without carriage returns.
func (t *tail) Lines(n int) string {
	t.mu.Lock()
	var all []byte
	if t.full {
		all = append(all, t.buf[t.next:]...)
	}
	all = append(all, t.buf[:t.next]...)
	t.mu.Unlock()
	all = bytes.TrimRight(bytes.ReplaceAll(all, []byte("\r"), nil), "\n")
	start := len(all)
	for ; n > 0; n-- {
		i := bytes.LastIndexByte(all[:start], '\n')
		if i < 0 {
			start = 0
			break
		}
		start = i
		if n == 1 {
			start++
		}
	}
	return string(bytes.ToValidUTF8(all[start:], []byte("?")))
}
