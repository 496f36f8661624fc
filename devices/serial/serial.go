// Package serial is a 16550A UART (National Semiconductor PC16550D data sheet) between a guest and a terminal.
//
// # Output
//
// What the guest sends is collected and written to Config.Output by one goroutine: at a newline, at flushBytes, or
// flushDelay after the first byte, whichever comes first. A vCPU never writes and never waits.
//
// A terminal that does not keep up is told to the guest as a real line tells it: when outputLimit bytes are waiting,
// THRE and TEMT read 0, and the THRE interrupt comes when there is room again. A driver that heeds that loses nothing;
// bytes sent in spite of it are dropped and counted, so memory is bounded. After the first error of Output everything
// is dropped, and the transmitter is always ready.
//
// # Input
//
// There is no goroutine for input: who has it calls Feed, which takes as much as fits, and waits on Space for the
// rest. An idle terminal costs nothing. Bytes wait on the line, and are not lost, until the guest is ready to receive:
// RTS is set, or the receive interrupt is enabled, or the guest does not care for modem control at all. So a kernel
// that clears its FIFOs while it boots does not eat what was typed ahead.
//
// # Interrupts
//
// The line is one edge whenever "some enabled interrupt is pending" becomes true, which is all that an ISA interrupt
// gives. The THRE interrupt is pending after THR was written, after its enable bit was set while THR was empty, and
// when a full transmitter is empty again; reading IIR or writing THR withdraws it.
package serial

import (
	"io"
	"sync"
	"time"

	"github.com/hullvm/hull/devices"
)

// Size is the number of I/O ports (or bytes) that a UART takes.
const Size = 8

// The PC's first serial port.
const (
	COM1    = 0x3f8
	COM1IRQ = 4
)

const (
	// outputLimit is when the transmitter stops being ready, in bytes. As much again may be on its way to Output.
	outputLimit = 32 << 10
	// flushBytes and flushDelay bound how long output is collected.
	flushBytes = 512
	flushDelay = time.Millisecond
	// inputLimit is the number of bytes that Feed takes ahead of the guest.
	inputLimit = 4 << 10
)

// Config says what a UART is connected to.
type Config struct {
	// IRQ gets an edge for each interrupt; nil for none.
	IRQ devices.IRQ
	// Output receives what the guest sends; nil drops it. It may block as long as it likes.
	Output io.Writer
}

// UART is a 16550A. It is a devices.Device of Size bytes.
type UART struct {
	irq devices.IRQ
	out io.Writer

	mu  sync.Mutex // guards what follows; never held while Output or IRQ is called
	reg registers

	input   [inputLimit]byte // ring: bytes on the line towards the guest
	inHead  int
	inCount int
	starved bool // a Feed was cut short
	space   chan struct{}

	pending []byte // bytes on the line from the guest
	full    bool   // the transmitter is not ready
	dead    bool   // Output has failed or was closed: drop everything
	err     error  // of Output
	dropped uint64

	wake    sync.Cond // for the writer
	due     bool      // pending should be written now
	armed   bool      // timer is running
	timer   *time.Timer
	closing bool
	done    chan struct{} // closed when the writer has ended
}

var _ devices.Device = (*UART)(nil)

// New makes a UART. It has a goroutine until Close if there is an Output.
func New(cfg Config) *UART {
	u := &UART{irq: cfg.IRQ, out: cfg.Output, space: make(chan struct{}, 1), done: make(chan struct{})}
	if u.irq == nil {
		u.irq = devices.NoIRQ{}
	}
	u.reg.init()
	u.wake.L = &u.mu
	if u.out == nil {
		u.dead = true
		close(u.done)
		return u
	}
	u.timer = time.AfterFunc(time.Hour, u.flushDue)
	u.timer.Stop()
	go u.writer()
	return u
}

// Feed offers p as input and returns how many bytes were taken, from the start of p. When that is not all, Space tells
// when to offer the rest.
func (u *UART) Feed(p []byte) int {
	u.mu.Lock()
	n := min(len(p), len(u.input)-u.inCount)
	for _, b := range p[:n] {
		u.input[(u.inHead+u.inCount)%len(u.input)] = b
		u.inCount++
	}
	if n < len(p) {
		u.starved = true
	}
	edge := u.update()
	u.mu.Unlock()
	if edge {
		u.irq.Trigger()
	}
	return n
}

// Space returns a channel that gets a value when half of the input buffer is free again after Feed has not taken all it
// was offered. It is always the same channel.
func (u *UART) Space() <-chan struct{} { return u.space }

// Dropped returns how many bytes of output were lost because the guest sent them while the transmitter was not ready,
// or because Output had failed.
func (u *UART) Dropped() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dropped
}

// Read implements devices.Device. A wider access reads neighbouring registers, as on an 8-bit bus.
func (u *UART) Read(off uint64, p []byte) {
	u.mu.Lock()
	for i := range p {
		p[i] = 0xff
		if o := off + uint64(i); o < Size && o >= off {
			p[i] = u.read(o)
		}
	}
	edge := u.update()
	u.mu.Unlock()
	if edge {
		u.irq.Trigger()
	}
}

// Write implements devices.Device.
func (u *UART) Write(off uint64, p []byte) {
	u.mu.Lock()
	for i, v := range p {
		if o := off + uint64(i); o < Size && o >= off {
			u.write(o, v)
		}
	}
	edge := u.update()
	u.mu.Unlock()
	if edge {
		u.irq.Trigger()
	}
}

// update works out the interrupt line and reports whether it has gone up. The caller, which holds mu, triggers the IRQ
// after it has let go.
func (u *UART) update() bool {
	old := u.reg.line
	u.reg.line = u.cause() != iirNone
	return u.reg.line && !old
}
