// Package balloon is the traditional memory balloon device (VIRTIO 1.2, section 5.5): how memory that a guest does not
// use gets back to the host.
//
// It gets there in two ways. The host may ask for memory (SetTarget): the driver takes pages from its own system and puts
// them on the inflate queue. And without being asked, a driver reports the pages that are free (page reporting). Both end in
// Config.Discard, which gives the pages' memory back; a page that the guest uses again is a new, zero one.
package balloon

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hullvm/hull/virtio"
)

// PageSize is the unit of the balloon in bytes, whatever the pages of the guest are (5.5.6).
const PageSize = 4096

// Feature bits (5.5.3).
const (
	F_STATS_VQ       = 1 // VIRTIO_BALLOON_F_STATS_VQ: the driver reports how its memory is used
	F_DEFLATE_ON_OOM = 2 // VIRTIO_BALLOON_F_DEFLATE_ON_OOM: a guest short of memory may take pages back unasked
	F_REPORTING      = 5 // VIRTIO_BALLOON_F_PAGE_REPORTING: the driver reports free pages
)

// The queues (5.5.2).
const (
	inflateQueue = iota
	deflateQueue
	statsQueue
	hintQueue // free_page_vq, for a feature that is not offered
	reportingQueue
	queueCount
)

const (
	queueSize = 128
	// statsQueueSize: there is one buffer at any time.
	statsQueueSize = 4

	configLen       = 8 // num_pages and actual; the rest belongs to features that are not offered
	configActual    = 4 // offset of what the driver writes
	batch           = 256
	pageNumberShift = 12

	// What work costs of Config.Rate, besides the pages that are given back: a call of Discard, and a chain of any
	// queue.
	callCost  = 16
	chainCost = 16
)

// Config says how to make a Device.
type Config struct {
	// Discard gives the memory of a piece of guest RAM back to the host. It may leave alone what is not a whole
	// page of the host's. Required.
	Discard func(p []byte) error
	// Rate bounds the work that a guest can make, in pages of PageSize given back. What is done page by page, rather
	// than by the run, counts as callCost more for each. The zero value is no limit.
	Rate virtio.Rate
	// Without has the feature bits, such as 1<<F_REPORTING, that are not to be offered.
	Without uint64
}

// Device is a balloon.
type Device struct {
	discard func([]byte) error
	without uint64
	limiter *virtio.Limiter // of all queues together
	waits   virtio.Waits
	env     virtio.Env
	workers []*virtio.Worker
	stats   *virtio.Worker // of the statistics queue; also in workers

	target atomic.Uint32 // num_pages
	actual atomic.Uint32 // as the driver says

	mu     sync.Mutex // for what follows
	active bool       // env is to be used
	unsaid bool       // the target has changed while there was nobody to tell
	latest Stats
	fresh  chan struct{} // closed by the next report
	asked  bool          // the driver is to be asked for statistics
	held   *virtio.Chain // the statistics buffer, while the driver waits to be asked; the worker's own
}

// New makes a balloon of which nothing is asked yet.
func New(cfg Config) (*Device, error) {
	if cfg.Discard == nil {
		return nil, fmt.Errorf("virtio-balloon: no way to give memory back")
	}
	d := &Device{discard: cfg.Discard, without: cfg.Without, fresh: make(chan struct{})}
	d.limiter = virtio.NewLimiter(cfg.Rate).Note(&d.waits)
	return d, nil
}

// Throttled returns for how long Config.Rate has kept queues waiting, added up.
func (d *Device) Throttled() time.Duration { return d.waits.Total() }

// SetTarget asks the driver for so many bytes of its memory, in all. It is a wish: Actual says what came of it.
func (d *Device) SetTarget(bytes uint64) {
	d.target.Store(uint32(min(bytes>>pageNumberShift, math.MaxUint32)))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.active {
		d.env.Interrupt.Config()
	}
	d.unsaid = !d.active
}

// Target returns what SetTarget has asked for, in bytes.
func (d *Device) Target() uint64 { return uint64(d.target.Load()) << pageNumberShift }

// Actual returns the bytes that the driver says are in the balloon.
func (d *Device) Actual() uint64 { return uint64(d.actual.Load()) << pageNumberShift }

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDBalloon }

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	return (1<<F_STATS_VQ | 1<<F_DEFLATE_ON_OOM | 1<<F_REPORTING) &^ d.without
}

// QueueSizes implements virtio.Device.
func (*Device) QueueSizes() []uint16 {
	return []uint16{inflateQueue: queueSize, deflateQueue: queueSize, statsQueue: statsQueueSize, hintQueue: queueSize, reportingQueue: queueSize}
}

// ReadConfig implements virtio.Device: struct virtio_balloon_config (5.5.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	var config [configLen]byte
	binary.LittleEndian.PutUint32(config[0:], d.target.Load())
	binary.LittleEndian.PutUint32(config[configActual:], d.actual.Load())
	if off < configLen {
		copy(p, config[off:])
	}
}

// WriteConfig implements virtio.ConfigWriter: the driver says how many pages it has given.
func (d *Device) WriteConfig(off uint64, p []byte) {
	if off < configActual || off >= configLen {
		return
	}
	var actual [4]byte
	binary.LittleEndian.PutUint32(actual[:], d.actual.Load())
	copy(actual[off-configActual:], p)
	d.actual.Store(binary.LittleEndian.Uint32(actual[:]))
}

// Reset implements virtio.Resetter: a driver that begins anew has given nothing.
func (d *Device) Reset() {
	d.actual.Store(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.latest, d.asked = Stats{}, false
}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	d.env = env
	d.start(inflateQueue, d.inflate)
	d.start(deflateQueue, d.giveBack)
	// By the standard (5.5.2) the reporting queue is number 4. Linux numbers the queues that it uses one after the
	// other, as do the devices that it is used with: then it is the first that has no other purpose.
	if env.Has(F_STATS_VQ) {
		d.stats = d.start(statsQueue, d.takeStats)
	} else {
		d.start(statsQueue, d.report)
	}
	d.start(hintQueue, d.report)
	d.start(reportingQueue, d.report)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = true
	if d.unsaid {
		d.unsaid = false
		env.Interrupt.Config()
	}
	return nil
}

// start serves queue i, if the driver has enabled it.
func (d *Device) start(i int, serve func(*virtio.Worker) error) *virtio.Worker {
	q := d.env.Queue(i)
	if q == nil {
		return nil
	}
	w := virtio.StartWorker(q, d.env.Interrupt, serve)
	d.workers = append(d.workers, w)
	return w
}

// Deactivate implements virtio.Device.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	d.mu.Lock()
	d.active = false
	d.mu.Unlock()
	for _, w := range d.workers {
		w.Stop()
	}
	if d.held != nil { // the driver offers it again, as far as the queue knows
		d.stats.Queue().Unpop(d.held)
		d.held = nil
	}
	queues := d.env.Queues
	d.workers, d.stats, d.env = nil, nil, virtio.Env{}
	return queues, nil
}

// pay has w wait until work may be done, and returns false when w is to stop first.
func (d *Device) pay(w *virtio.Worker, tokens int) bool {
	return w.Throttle(virtio.Cost{Limiter: d.limiter, Tokens: uint64(tokens)})
}

// inflate gives pages back to the host that the driver lists by number (5.5.6).
func (d *Device) inflate(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		if !d.pay(w, chainCost) {
			q.Unpop(c)
			return nil
		}
		err = d.inflateChain(w, c)
		q.Push(c, 0)
		if err != nil {
			return err
		}
		q.Signal()
	}
	return nil
}

// inflateChain gives back the pages in one chain. A chain may name the same pages over and over, so it is left when
// the device is to stop: what is not given back stays the guest's, and does no harm.
func (d *Device) inflateChain(w *virtio.Worker, c *virtio.Chain) error {
	var raw [4 * batch]byte
	var run pageRun
	for !w.Stopping() {
		n := c.Readable.Read(raw[:])
		if n < 4 { // the last page number is cut short, or there are no more
			break
		}
		for i := 0; i+4 <= n; i += 4 {
			page := binary.LittleEndian.Uint32(raw[i:])
			if run.add(page) {
				continue
			}
			if err := d.discardRun(w, run); err != nil {
				return err
			}
			run = pageRun{first: page, count: 1}
		}
	}
	return d.discardRun(w, run)
}

// pageRun is a number of pages one after the other.
type pageRun struct {
	first uint32
	count uint32
}

// add makes the run longer by the page before or after it, and tells whether page is one.
func (r *pageRun) add(page uint32) bool {
	switch {
	case r.count == 0:
		*r = pageRun{first: page, count: 1}
	case r.count == math.MaxInt32>>pageNumberShift: // bytes stay an int everywhere
		return false
	case uint64(page) == uint64(r.first)+uint64(r.count):
		r.count++
	case uint64(page)+1 == uint64(r.first):
		r.first--
		r.count++
	default:
		return false
	}
	return true
}

// discardRun gives back a run, unless the device is to stop before it may.
func (d *Device) discardRun(w *virtio.Worker, r pageRun) error {
	if r.count == 0 || !d.pay(w, callCost+int(r.count)) {
		return nil
	}
	p, err := d.env.Mem.Slice(uint64(r.first)<<pageNumberShift, int(r.count)<<pageNumberShift)
	if err != nil {
		return fmt.Errorf("virtio-balloon: %d pages from page %#x put in the balloon: %w", r.count, r.first, err)
	}
	if err := d.discard(p); err != nil {
		return fmt.Errorf("virtio-balloon: give memory back to the host: %w", err)
	}
	return nil
}

// giveBack serves the deflate queue: the driver takes pages back by using them, there is nothing to do.
func (d *Device) giveBack(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		if !d.pay(w, chainCost) {
			q.Unpop(c)
			return nil
		}
		q.Push(c, 0)
		q.Signal()
	}
	return nil
}

// report gives back the memory of pages that the driver says are free, until it uses them again (5.5.6.7).
func (d *Device) report(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		if !d.pay(w, chainCost) {
			q.Unpop(c)
			return nil
		}
		for _, p := range c.Writable.Pieces() {
			if !d.pay(w, callCost+len(p)>>pageNumberShift) {
				break // the device is to stop: what is not given back stays the guest's
			}
			if err = d.discard(p); err != nil {
				err = fmt.Errorf("virtio-balloon: give free memory back to the host: %w", err)
				break
			}
		}
		q.Push(c, 0)
		if err != nil {
			return err
		}
		q.Signal()
	}
	return nil
}
