// Package vsock is the socket device (VIRTIO 1.2, section 5.10): stream connections between programs in the guest and
// programs on the host, without a network.
//
// On the host a connection is a Unix stream socket, in the way that Firecracker has made common:
//
//   - A program that wants to reach port P of the guest connects to the socket at Config.Path and writes "CONNECT P\n".
//     When a program in the guest accepts, it reads "OK H\n", H being the port it has on the host's side; from then on
//     all bytes are the connection's. When nobody accepts, the socket is closed. What is written after the first line
//     is not lost, however early.
//   - A program in the guest that connects to port P of the host (CID 2) reaches the program that listens on the Unix
//     socket "<Path>_P", or is refused when nobody does.
//
// The end of one direction is passed on: shutdown(2) on either side becomes the end of file on the other, and all bytes
// that were sent before arrive before it.
//
// # How it works
//
// One goroutine, the mux, does everything: it sleeps in epoll_wait over the doorbells of the queues, the listening socket
// and all connections, and never blocks on any of them. Data goes from the guest's buffers to a socket, and from a socket
// to the guest's buffers, in one system call and without a copy in between. Only what a host program is slow to read
// waits in a buffer, and credit (5.10.6.3) bounds that.
//
// Read in this order: Device here; mux.go (the loop, and what connects it to the outside); conn.go (what a connection is
// and how it ends); guest.go (packets from the guest); rx.go (packets to the guest); host.go (the Unix sockets).
//
// # Trust
//
// Of the guest nothing is believed: every packet is checked as a copy, every connection has bounded memory, there is a
// bounded number of them, and answers that the guest does not collect stop its own transmission. A host program can
// only harm its own connection; file permissions (0600) say who may connect.
package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/hullvm/hull/virtio"
)

// Queues (5.10.2).
const (
	rxQueue    = 0
	txQueue    = 1
	eventQueue = 2
	numQueues  = 3
)

// Sizes of the queues. Linux fills the receive queue with buffers of a page.
const (
	rxQueueSize    = 128
	txQueueSize    = 128
	eventQueueSize = 8
)

// Config describes a device.
type Config struct {
	// GuestCID is the guest's address, 3 to 2^32-2. It need not be unique on the host.
	GuestCID uint32
	// Path is where host programs connect: a Unix socket that New makes with mode 0600 and Close removes. Programs that
	// the guest shall reach listen on Path + "_" + port. At most 107 bytes, 96 if all ports shall fit.
	Path string
}

// ErrClosed is what a closed device answers.
var ErrClosed = errors.New("vsock device is closed")

// Device is a socket device. It implements virtio.Device and virtio.Resetter.
type Device struct {
	cid uint64
	mux *mux

	mu     sync.Mutex // one command at a time
	calls  chan func()
	acks   chan struct{}
	done   chan struct{} // closed when the mux has ended
	closed bool
}

var (
	_ virtio.Device   = (*Device)(nil)
	_ virtio.Resetter = (*Device)(nil)
)

// New makes a device and its Unix socket. Host programs may connect from now on; they wait until the guest's driver is
// ready. The caller closes the device after its transport.
func New(cfg Config) (*Device, error) {
	if cfg.GuestCID < minGuestCID || cfg.GuestCID > maxGuestCID {
		return nil, fmt.Errorf("vsock device: guest CID %d: must be %d to %d", cfg.GuestCID, minGuestCID, uint32(maxGuestCID))
	}
	d := &Device{
		cid:   uint64(cfg.GuestCID),
		calls: make(chan func(), 1),
		acks:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	m, err := newMux(cfg, d.calls, d.acks)
	if err != nil {
		return nil, fmt.Errorf("vsock device: %w", err)
	}
	d.mux = m
	go func() {
		defer close(d.done)
		m.run()
	}()
	return d, nil
}

// do runs f on the mux's goroutine and returns when it is done.
func (d *Device) do(f func(m *mux)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	d.call(f)
	return nil
}

func (d *Device) call(f func(m *mux)) {
	d.calls <- func() { f(d.mux) }
	d.mux.wake.Notify()
	<-d.acks
}

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDVsock }

// Features implements virtio.Device. VIRTIO_VSOCK_F_SEQPACKET is not offered; without any bit a device is one of
// streams (5.10.3).
func (*Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device: rx, tx, event (5.10.2).
func (*Device) QueueSizes() []uint16 {
	return []uint16{rxQueueSize, txQueueSize, eventQueueSize}
}

// ReadConfig implements virtio.Device: struct virtio_vsock_config is the guest's CID (5.10.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	var cfg [8]byte
	binary.LittleEndian.PutUint64(cfg[:], d.cid)
	if off < uint64(len(cfg)) {
		copy(p, cfg[off:])
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	if len(env.Queues) != numQueues {
		return fmt.Errorf("vsock device: %d queues, want %d", len(env.Queues), numQueues)
	}
	var err error
	if closed := d.do(func(m *mux) { err = m.activate(env) }); closed != nil {
		return closed
	}
	return err
}

// Deactivate implements virtio.Device. What the guest has made available for transmission is taken first, so that a
// guest's last words are heard. Connections stay.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	var queues []*virtio.Queue
	if d.do(func(m *mux) { queues = m.deactivate() }) != nil {
		// Close has stopped the mux, which has left the queues as they were.
		queues = d.mux.deactivate()
	}
	return queues, nil
}

// Reset implements virtio.Resetter: the guest has forgotten all its connections. What it has sent still reaches the
// host programs.
func (d *Device) Reset() {
	_ = d.do(func(m *mux) { m.forget() }) // a closed device has none
}

// ResetTransport ends all connections and sends the guest VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (5.10.6.7), which makes it
// end its side of them and read its CID again. It is for guests that have been restored from a snapshot, before or
// after Activate.
func (d *Device) ResetTransport() error {
	return d.do(func(m *mux) { m.resetTransport() })
}

// Close ends all connections and removes the Unix socket. Host programs that are still reading what the guest has
// sent are given some time to do so, and those that do not read 0.3 s.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.call(func(m *mux) { m.stop() })
	<-d.done
	return d.mux.closeErr
}
