// Package rng is the entropy device (VIRTIO 1.2, section 5.4): the guest offers buffers and gets them back with random
// bytes. It is also the smallest device there is, and a template for others: New, the six methods of virtio.Device, one
// Worker, and a function that serves one chain.
package rng

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
)

const (
	queueSize = 64
	// maxRequest bounds the work for one buffer, in bytes. The driver may not rely on more than one byte (5.4.6.1);
	// Linux asks for 64.
	maxRequest = 64 << 10
	// minCost is what a request costs at least of Config.Rate, in bytes, so that many small ones are not for nothing.
	minCost = 64
)

// Config says how to make a Device. The zero value is good.
type Config struct {
	// Source is where the bytes come from. It must not block for long; nil means the host kernel's getrandom.
	Source io.Reader
	// Rate bounds the bytes that the guest gets, of which a request counts as minCost at least. The zero value is no
	// limit.
	Rate virtio.Rate
	// Ops bounds the requests. The zero value is no limit.
	Ops virtio.Rate
}

// Device is an entropy device.
type Device struct {
	source  io.Reader
	limiter *virtio.Limiter
	ops     *virtio.Limiter
	bytes   atomic.Uint64
	served  atomic.Uint64
	waits   virtio.Waits
	env     virtio.Env
	worker  *virtio.Worker
}

// New makes an entropy device.
func New(cfg Config) *Device {
	if cfg.Source == nil {
		cfg.Source = System{}
	}
	d := &Device{source: cfg.Source}
	d.limiter, d.ops = virtio.NewLimiter(cfg.Rate).Note(&d.waits), virtio.NewLimiter(cfg.Ops).Note(&d.waits)
	return d
}

// Throttled returns for how long limits have kept requests waiting.
func (d *Device) Throttled() time.Duration { return d.waits.Total() }

// Counters returns how many requests the guest has made so far, and how many bytes it has got.
func (d *Device) Counters() (requests, bytes uint64) { return d.served.Load(), d.bytes.Load() }

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDEntropy }

// Features implements virtio.Device. The device has none of its own (5.4.3).
func (*Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device: requestq (5.4.2).
func (*Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device. There is no configuration (5.4.4).
func (*Device) ReadConfig(uint64, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	d.env = env
	if q := env.Queue(0); q != nil {
		d.worker = virtio.StartWorker(q, env.Interrupt, d.serve)
	}
	return nil
}

// Deactivate implements virtio.Device.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	d.worker.Stop()
	d.worker = nil
	queues := d.env.Queues
	d.env = virtio.Env{}
	return queues, nil
}

// serve fills all buffers that are available.
func (d *Device) serve(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		cost := virtio.Cost{Limiter: d.limiter, Tokens: uint64(max(min(c.Writable.Len(), maxRequest), minCost))}
		if !w.Throttle(cost, virtio.Cost{Limiter: d.ops, Tokens: 1}) {
			q.Unpop(c)
			return nil
		}
		n, err := d.fill(c)
		d.served.Add(1)
		d.bytes.Add(uint64(n))
		q.Push(c, n)
		if err != nil {
			return fmt.Errorf("virtio-rng: read random bytes: %w", err)
		}
		q.Signal()
	}
	return nil
}

// fill writes random bytes to the start of a chain and returns how many.
func (d *Device) fill(c *virtio.Chain) (int, error) {
	done := 0
	for _, p := range c.Writable.Pieces() {
		p = p[:min(len(p), maxRequest-done)]
		if len(p) == 0 {
			break
		}
		n, err := io.ReadFull(d.source, p)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// System is the host kernel's source of random bytes.
type System struct{}

// Read fills p with getrandom(2).
func (System) Read(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Getrandom(p[done:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("getrandom: %w", err)
		}
		done += n
	}
	return done, nil
}
