// Package console is the console device (VIRTIO 1.2, section 5.3) with its first port: a terminal at which a line of
// output is one notification, where a serial port takes an exit for each byte.
//
// # Output
//
// What the guest sends is collected, and written to Config.Output by a goroutine that New starts and Close ends; no queue
// and no vCPU waits for the writing itself. When outputLimit bytes are waiting, the transmit queue stands still, and memory
// is bounded. But not for long: Linux's driver spins, with interrupts off, until its buffer comes back, and a guest must
// not stand still because somebody has gone away from a pseudo-terminal. So after stallTime without a byte being taken
// output is dropped; how much is told in its place once Output takes something again.
//
// # Input
//
// There is no goroutine for input: who has it calls Feed, which takes as much as fits into a small buffer, and waits on
// Space for the rest. What the driver has no buffers for stays there, so that no more is read of a terminal than the guest
// can take.
//
// Linux's driver offers its buffers a moment before it has made a terminal of the port, and throws away what comes then. So
// what was typed ahead waits until the driver, after DRIVER_OK, has asked for the terminal's size, or has sent something: it
// does both when the terminal is there.
//
// # What is left out
//
// VIRTIO_CONSOLE_F_MULTIPORT, more ports than the one and names for them: vsock is how programs in guest and host talk.
package console

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hullvm/hull/virtio"
)

// Feature bits (5.3.3).
const (
	F_SIZE        = 0 // VIRTIO_CONSOLE_F_SIZE: the configuration tells the terminal's size
	F_EMERG_WRITE = 2 // VIRTIO_CONSOLE_F_EMERG_WRITE: a byte can be put out by a write to the configuration
)

// The queues of port 0 (5.3.2).
const (
	rxQueue = iota
	txQueue
	queueCount
)

const (
	// rxQueueSize: Linux fills the queue with buffers of a page, however little is typed.
	rxQueueSize = 16
	txQueueSize = 64

	// struct virtio_console_config (5.3.4): cols, rows, max_nr_ports, emerg_wr.
	configLen     = 12
	configRows    = 2
	configPorts   = 4
	configEmergWr = 8
)

// Config says what a console is connected to.
type Config struct {
	// Output receives what the guest sends; nil drops it. It may block as long as it likes.
	Output io.Writer
	// Rows and Cols are the terminal's size in characters, 0 for unknown.
	Rows, Cols uint16
}

// Device is a console.
type Device struct {
	out output
	in  input

	env     virtio.Env
	workers []*virtio.Worker
	held    []*virtio.Chain // receive buffers in order; the receive worker's own

	listening atomic.Bool // the driver has a terminal to give input to

	mu   sync.Mutex // guards what follows
	rows uint16
	cols uint16
	irq  virtio.Interrupter // nil while inactive
	rx   *virtio.Worker     // nil while there is none to wake
}

// New makes a console. It has a goroutine until Close if there is an Output.
func New(cfg Config) *Device {
	d := &Device{rows: cfg.Rows, cols: cfg.Cols}
	d.in.space = make(chan struct{}, 1)
	d.out.start(cfg.Output)
	return d
}

// Close writes out what the guest has sent, waits for that up to timeout, and ends the console's goroutine. Afterwards
// output is dropped. It returns the first error of Output. After ErrTimeout the goroutine is still in Output's Write,
// unless Output has a SetWriteDeadline that frees it.
func (d *Device) Close(timeout time.Duration) error {
	if err := d.out.close(timeout); err != nil {
		return fmt.Errorf("virtio-console: %w", err)
	}
	return nil
}

// Dropped returns how many bytes of output were lost because nobody took them.
func (d *Device) Dropped() uint64 { return d.out.lost() }

// Feed offers p as input and returns how many bytes were taken, from the start of p. When that is not all, Space tells
// when to offer the rest.
func (d *Device) Feed(p []byte) int {
	n := d.in.put(p)
	d.wake()
	return n
}

// wake has the receive queue served.
func (d *Device) wake() {
	d.mu.Lock()
	defer d.mu.Unlock() // held for Wake: until Deactivate has it, the doorbell is there
	if d.rx != nil {
		d.rx.Wake()
	}
}

// listen tells that the driver has a terminal.
func (d *Device) listen() {
	if !d.listening.Load() && !d.listening.Swap(true) {
		d.wake()
	}
}

// Space returns a channel that gets a value when half of the input buffer is free again after Feed has not taken all it
// was offered. It is always the same channel.
func (d *Device) Space() <-chan struct{} { return d.in.space }

// Resize tells the driver the terminal's new size in characters (5.3.4).
func (d *Device) Resize(rows, cols uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rows == rows && d.cols == cols {
		return
	}
	d.rows, d.cols = rows, cols
	if d.irq != nil {
		d.irq.Config()
	}
}

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDConsole }

// Features implements virtio.Device.
func (*Device) Features() uint64 { return 1<<F_SIZE | 1<<F_EMERG_WRITE }

// QueueSizes implements virtio.Device: receiveq and transmitq of port 0 (5.3.2).
func (*Device) QueueSizes() []uint16 { return []uint16{rxQueue: rxQueueSize, txQueue: txQueueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off uint64, p []byte) {
	var config [configLen]byte
	d.mu.Lock()
	binary.LittleEndian.PutUint16(config[0:], d.cols)
	binary.LittleEndian.PutUint16(config[configRows:], d.rows)
	active := d.irq != nil
	d.mu.Unlock()
	binary.LittleEndian.PutUint32(config[configPorts:], 1)
	if off < configPorts && active {
		d.listen()
	}
	if off < configLen {
		copy(p, config[off:])
	}
}

// WriteConfig implements virtio.ConfigWriter: the emergency write, a byte that needs no queue and no negotiation
// (5.3.4). It comes on a vCPU's thread and never waits.
func (d *Device) WriteConfig(off uint64, p []byte) {
	if off == configEmergWr && len(p) > 0 {
		d.out.emergency(p[0])
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	d.env = env
	for _, q := range env.Queues {
		if q != nil && q.State().NextUsed != 0 {
			d.listening.Store(true) // a driver that was at work before, in a machine that was saved
		}
	}
	if q := env.Queue(txQueue); q != nil {
		d.workers = append(d.workers, virtio.StartWorker(q, env.Interrupt, d.transmit))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.irq = env.Interrupt
	if q := env.Queue(rxQueue); q != nil {
		d.rx = virtio.StartWorker(q, env.Interrupt, d.receive)
		d.workers = append(d.workers, d.rx)
	}
	return nil
}

// Deactivate implements virtio.Device.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	d.mu.Lock()
	d.irq, d.rx = nil, nil
	d.mu.Unlock()
	for _, w := range d.workers {
		w.Stop()
	}
	// The driver offers them again, as far as the queue knows.
	for i := len(d.held) - 1; i >= 0; i-- {
		d.env.Queue(rxQueue).Unpop(d.held[i])
	}
	queues := d.env.Queues
	d.workers, d.held, d.env = nil, nil, virtio.Env{}
	return queues, nil
}

// Reset implements virtio.Resetter: the next driver begins without a terminal. What was typed ahead is for it.
func (d *Device) Reset() { d.listening.Store(false) }

// transmit serves the transmit queue. A chain of up to outputLimit bytes is taken whole or, when the device is to stop,
// not at all.
func (d *Device) transmit(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		if !d.out.await(w.Stopped()) {
			q.Unpop(c)
			return nil
		}
		d.out.take(&c.Readable)
		for c.Readable.Len() > 0 && d.out.await(w.Stopped()) {
			d.out.take(&c.Readable)
		}
		d.out.leave(&c.Readable)
		q.Push(c, 0)
		q.Signal()
		d.listen()
	}
	return nil
}

// receive serves the receive queue, whose buffers the device keeps until there is something to put into them.
func (d *Device) receive(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if err != nil {
			return err
		}
		if c == nil {
			break
		}
		d.held = append(d.held, c)
	}
	if !d.listening.Load() && d.env.Has(F_SIZE) { // without the feature there is nothing to go by
		return nil
	}
	// Only the first is ever given back, so that those left are the last that were popped.
	used := 0
	for used < len(d.held) && !w.Stopping() {
		c := d.held[used]
		n := d.in.fill(&c.Writable)
		if n == 0 && c.Writable.Len() > 0 {
			break
		}
		q.Push(c, n)
		used++
	}
	d.held = d.held[:copy(d.held, d.held[used:])]
	return nil
}
