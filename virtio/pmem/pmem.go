// Package pmem is the persistent memory device (VIRTIO 1.2, section 5.19): a file of the host's that the guest has in
// its physical address space. The monitor maps it there; the device only says where it is, and makes what the guest
// has written stable when asked.
package pmem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hullvm/hull/virtio"
)

const (
	queueSize = 64

	// typeFlush is VIRTIO_PMEM_REQ_TYPE_FLUSH (5.19.6).
	typeFlush   = 0
	requestSize = 4 // struct virtio_pmem_req: type
	answerSize  = 4 // struct virtio_pmem_resp: ret
	configSize  = 16

	// Answers (5.19.6.1): 0, or -1 when the flush failed.
	retOK    = 0
	retError = 0xffffffff
)

// Align is what address and size are multiples of, in bytes: Linux takes a device's memory in no smaller units.
const Align = 2 << 20

// Config describes a device.
type Config struct {
	// Start and Size are the guest physical address and the length of the memory in bytes, multiples of Align.
	Start, Size uint64
	// Flush returns when all that was written to the memory is on stable storage. nil: the guest cannot write.
	Flush  func() error
	Limits Limits
}

// Limits hold flushes back; the zero value does not.
type Limits struct {
	Bytes virtio.Rate `json:"bytes,omitzero"` // a flush is one of all Size bytes
	Ops   virtio.Rate `json:"ops,omitzero"`
}

// Validate reports rates that mean nothing.
func (l *Limits) Validate() error { return errors.Join(l.Bytes.Validate(), l.Ops.Validate()) }

// Device is a persistent memory device.
type Device struct {
	config [configSize]byte
	size   uint64
	flush  func() error
	bytes  *virtio.Limiter // these change only while the device is not active
	ops    *virtio.Limiter
	waits  virtio.Waits
	env    virtio.Env
	worker *virtio.Worker
	// chains wait for the flush that is to come.
	chains []*virtio.Chain
}

// New makes a device.
func New(cfg Config) (*Device, error) {
	if cfg.Size == 0 || cfg.Start%Align != 0 || cfg.Size%Align != 0 || cfg.Start+cfg.Size < cfg.Start {
		return nil, fmt.Errorf("persistent memory of %d bytes at %#x: both must be multiples of %d", cfg.Size, cfg.Start, Align)
	}
	d := &Device{size: cfg.Size, flush: cfg.Flush, chains: make([]*virtio.Chain, 0, queueSize)}
	if err := d.SetLimits(cfg.Limits); err != nil {
		return nil, err
	}
	if d.flush == nil {
		d.flush = func() error { return nil }
	}
	binary.LittleEndian.PutUint64(d.config[0:], cfg.Start)
	binary.LittleEndian.PutUint64(d.config[8:], cfg.Size)
	return d, nil
}

// SetLimits changes Config.Limits. The device must not be active.
func (d *Device) SetLimits(l Limits) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("persistent memory: %w", err)
	}
	d.bytes, d.ops = virtio.NewLimiter(l.Bytes).Note(&d.waits), virtio.NewLimiter(l.Ops).Note(&d.waits)
	return nil
}

// Throttled returns for how long limits have kept flushes waiting.
func (d *Device) Throttled() time.Duration { return d.waits.Total() }

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDPmem }

// Features implements virtio.Device. SHMEM_REGION (5.19.3) is for transports without a place for the addresses.
func (*Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device: req_vq (5.19.2).
func (*Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device: struct virtio_pmem_config (5.19.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	if off < configSize {
		copy(p, d.config[off:])
	}
}

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

// serve answers all requests there are. One flush is enough for all that came before it began.
func (d *Device) serve(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		d.chains = d.chains[:0]
		var broken error
		for len(d.chains) < queueSize {
			c, err := q.Pop()
			if c == nil || err != nil {
				broken = err
				break
			}
			if !isFlush(c) {
				q.Push(c, answer(c, retError))
				continue
			}
			d.chains = append(d.chains, c)
		}
		if len(d.chains) > 0 {
			if !w.Throttle(virtio.Cost{Limiter: d.bytes, Tokens: d.size}, virtio.Cost{Limiter: d.ops, Tokens: 1}) {
				for i := len(d.chains) - 1; i >= 0; i-- {
					q.Unpop(d.chains[i])
				}
				return nil
			}
			ret := uint32(retOK)
			if err := d.flush(); err != nil {
				ret = retError
			}
			for i, c := range d.chains {
				q.Push(c, answer(c, ret))
				d.chains[i] = nil
			}
		}
		if broken != nil || len(d.chains) < queueSize {
			return broken
		}
	}
	return nil
}

func isFlush(c *virtio.Chain) bool {
	var p [requestSize]byte
	return c.Readable.Read(p[:]) == requestSize && binary.LittleEndian.Uint32(p[:]) == typeFlush
}

// answer writes ret, as much as there is room for, and returns how many bytes that are.
func answer(c *virtio.Chain, ret uint32) int {
	var p [answerSize]byte
	binary.LittleEndian.PutUint32(p[:], ret)
	return c.Writable.Write(p[:])
}
