// Package blk is the block device (VIRTIO 1.2, section 5.2): a disk whose
// sectors are those of a Backend, a raw file (OpenFile), a virtual disk with
// one partition for each of several files (NewGPT), or either of them under
// private changes (NewOverlay).
//
// A raw file is never looked at: what a guest writes to it, such as another
// format's header, stays data.
//
// Data moves between guest memory and file with preadv2 and pwritev2, without a
// copy in between. Each queue has a worker that does at once what need not
// wait, and hands the rest to a pool of goroutines that can: server.go. What a
// request may say is in request.go.
package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hullvm/hull/virtio"
)

// SectorSize is the unit of addresses and of capacity, whatever the block size
// (5.2.6): 512 bytes.
const SectorSize = 512

// Feature bits (5.2.3).
const (
	fSegMax      = 2  // VIRTIO_BLK_F_SEG_MAX
	fRO          = 5  // VIRTIO_BLK_F_RO
	fBlkSize     = 6  // VIRTIO_BLK_F_BLK_SIZE
	fFlush       = 9  // VIRTIO_BLK_F_FLUSH
	fTopology    = 10 // VIRTIO_BLK_F_TOPOLOGY
	fConfigWCE   = 11 // VIRTIO_BLK_F_CONFIG_WCE
	fMQ          = 12 // VIRTIO_BLK_F_MQ
	fDiscard     = 13 // VIRTIO_BLK_F_DISCARD
	fWriteZeroes = 14 // VIRTIO_BLK_F_WRITE_ZEROES
)

// Limits.
const (
	queueSize = 256
	// segMax is how many data segments a request may have: what is left of a
	// chain as long as the queue without header and status.
	segMax = queueSize - 2
	// maxRangeSectors bounds one range of a discard or write-zeroes request,
	// 1 GiB, and maxRanges how many there may be.
	maxRangeSectors = 1 << 21
	maxRanges       = 16
	// IDSize is the length of the answer to GET_ID (5.2.6).
	IDSize = 20
	// MaxQueues is how many request queues a disk can have.
	MaxQueues = 16
	// maxBlockSize is the largest logical block: a page, for drivers take no more.
	maxBlockSize = 4096
)

// Limits hold a disk's reads and writes back; the zero value does not.
type Limits struct {
	// Bytes and Ops are of reads and writes together; the others of the same unit must not be there then.
	Bytes virtio.Rate `json:"bytes,omitzero"`
	Ops   virtio.Rate `json:"ops,omitzero"`

	ReadBytes  virtio.Rate `json:"read_bytes,omitzero"`
	WriteBytes virtio.Rate `json:"write_bytes,omitzero"`
	ReadOps    virtio.Rate `json:"read_ops,omitzero"`
	WriteOps   virtio.Rate `json:"write_ops,omitzero"`
}

// Validate checks all rates.
func (l *Limits) Validate() error {
	none := virtio.Rate{}
	if l.Bytes != none && (l.ReadBytes != none || l.WriteBytes != none) || l.Ops != none && (l.ReadOps != none || l.WriteOps != none) {
		return errors.New("limits of reads and writes together, and of one of them")
	}
	for name, r := range map[string]virtio.Rate{
		"bytes": l.Bytes, "operations": l.Ops,
		"bytes read": l.ReadBytes, "bytes written": l.WriteBytes, "reads": l.ReadOps, "writes": l.WriteOps,
	} {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("limit of %s: %w", name, err)
		}
	}
	return nil
}

// Config describes a disk.
type Config struct {
	Backend  Backend
	ReadOnly bool
	ID       string // the answer to GET_ID, at most IDSize bytes
	// BlockSize is the logical block size in bytes, 512 to 4096; 0 means what the backend would like.
	BlockSize int
	// Queues is how many queues requests can come through, 1 to MaxQueues; 0 means 1.
	Queues int
	// Unsafe leaves the driver no way of making writes stable, and none are made so: they reach the host's disk when its kernel likes.
	Unsafe bool
	Limits Limits
}

// Device is a block device.
type Device struct {
	cfg       Config
	id        [IDSize]byte
	size      atomic.Uint64
	writeBack atomic.Bool // writes need not be on stable storage before a flush (5.2.5.2)
	// slow is 1 while writes are known to wait for the host's disk.
	slow atomic.Int32

	readBytes, writeBytes, readOps, writeOps *virtio.Limiter // change only while there are no servers

	reads, bytesRead, writes, bytesWritten, flushes, failed atomic.Uint64

	readTime, writeTime, flushTime virtio.Histogram
	waits                          virtio.Waits

	mu     sync.Mutex // guards config
	config [configSize]byte

	state   sync.Mutex // serialises Activate, Deactivate and Replace; guards what follows
	backend Backend    // changes only while there are no servers
	env     virtio.Env
	pool    *pool
	servers []*server
}

// New makes a disk.
func New(cfg Config) (*Device, error) {
	if cfg.Backend == nil {
		return nil, errors.New("disk: no backend given")
	}
	if cfg.BlockSize == 0 {
		cfg.BlockSize = blockSize(cfg.Backend)
	}
	if b := cfg.BlockSize; b < SectorSize || b > maxBlockSize || b&(b-1) != 0 {
		return nil, fmt.Errorf("disk: block size %d: must be 512, 1024, 2048 or 4096", b)
	}
	if cfg.Queues == 0 {
		cfg.Queues = 1
	}
	if cfg.Queues < 0 || cfg.Queues > MaxQueues {
		return nil, fmt.Errorf("disk: %d queues: must be 1 to %d", cfg.Queues, MaxQueues)
	}
	if err := cfg.Limits.Validate(); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if len(cfg.ID) > IDSize {
		return nil, fmt.Errorf("disk: ID %q is longer than %d bytes", cfg.ID, IDSize)
	}
	if err := checkSize(cfg.Backend.Size()); err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, backend: cfg.Backend}
	d.limit(cfg.Limits)
	d.size.Store(cfg.Backend.Size())
	copy(d.id[:], cfg.ID)
	d.fillConfig()
	return d, nil
}

func (d *Device) limit(l Limits) {
	d.readBytes, d.writeBytes = virtio.NewLimiter(l.ReadBytes), virtio.NewLimiter(l.WriteBytes)
	d.readOps, d.writeOps = virtio.NewLimiter(l.ReadOps), virtio.NewLimiter(l.WriteOps)
	if both := virtio.NewLimiter(l.Bytes); both != nil {
		d.readBytes, d.writeBytes = both, both
	}
	if both := virtio.NewLimiter(l.Ops); both != nil {
		d.readOps, d.writeOps = both, both
	}
}

// SetLimits changes Config.Limits, also while the device is active. What waits already waits anew.
func (d *Device) SetLimits(l Limits) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	d.state.Lock()
	defer d.state.Unlock()
	running := d.pool != nil
	d.stop()
	d.limit(l)
	if running {
		d.start()
	}
	return nil
}

// Counters are what a disk has done so far.
type Counters struct {
	Reads, ReadBytes   uint64
	Writes, WriteBytes uint64
	Flushes            uint64
	Failed             uint64 // requests of any kind that were answered with an error
}

// Counters returns what has been done so far.
func (d *Device) Counters() Counters {
	return Counters{
		Reads: d.reads.Load(), ReadBytes: d.bytesRead.Load(), Writes: d.writes.Load(), WriteBytes: d.bytesWritten.Load(),
		Flushes: d.flushes.Load(), Failed: d.failed.Load(),
	}
}

// Times are how long requests that went well took, from when they were taken off their queue.
type Times struct {
	Read, Write, Flush virtio.Latency
	Throttled          time.Duration // for which limits have kept queues waiting
}

// Times returns what was measured so far.
func (d *Device) Times() Times {
	return Times{d.readTime.Latency(), d.writeTime.Latency(), d.flushTime.Latency(), d.waits.Total()}
}

// count takes down a request that was carried out.
func (d *Device) count(r *request) {
	switch {
	case r.code != sOK:
		d.failed.Add(1)
	case r.kind == tIn:
		d.readTime.Add(time.Since(r.began))
		d.reads.Add(1)
		d.bytesRead.Add(r.n)
	case r.kind == tOut:
		d.writeTime.Add(time.Since(r.began))
		d.writes.Add(1)
		d.bytesWritten.Add(r.n)
	case r.kind == tFlush:
		d.flushTime.Add(time.Since(r.began))
		d.flushes.Add(1)
	}
}

// blockSize is what a backend wants to be used in, in bytes.
func blockSize(b Backend) int {
	if s, ok := b.(interface{ BlockSize() int }); ok {
		return max(s.BlockSize(), SectorSize)
	}
	return SectorSize
}

func checkSize(size uint64) error {
	if size == 0 || size%SectorSize != 0 {
		return fmt.Errorf("disk: %d bytes: must be whole sectors of %d bytes, and at least one", size, SectorSize)
	}
	return nil
}

// limiters returns those that r is held back by.
func (d *Device) limiters(r *request) (bytes, ops *virtio.Limiter) {
	switch r.kind {
	case tIn:
		return d.readBytes, d.readOps
	case tOut, tFlush, tDiscard, tWriteZeroes:
		return d.writeBytes, d.writeOps
	}
	return nil, nil
}

// configSize covers the fields up to write_zeroes_may_unmap and its padding
// (5.2.4).
const configSize = 60

// offWriteback is the offset of the configuration's one writable field.
const offWriteback = 32

// fillConfig lays out struct virtio_blk_config (5.2.4).
func (d *Device) fillConfig() {
	c, le := d.config[:], binary.LittleEndian
	le.PutUint64(c[0:], d.size.Load()/SectorSize) // capacity
	le.PutUint32(c[12:], segMax)                  // seg_max
	le.PutUint32(c[20:], uint32(d.cfg.BlockSize))
	page := uint32(maxBlockSize / d.cfg.BlockSize)               // in logical blocks
	c[24] = byte(bits.TrailingZeros32(page))                     // topology: a physical block is a page
	le.PutUint16(c[26:], uint16(page))                           // min_io_size, in blocks
	le.PutUint32(c[28:], uint32(32<<10)/uint32(d.cfg.BlockSize)) // opt_io_size, in blocks
	c[offWriteback] = 1
	le.PutUint16(c[34:], uint16(d.cfg.Queues)) // num_queues
	if d.cfg.ReadOnly {
		return
	}
	le.PutUint32(c[36:], maxRangeSectors) // max_discard_sectors
	le.PutUint32(c[40:], maxRanges)       // max_discard_seg
	le.PutUint32(c[44:], 8)               // discard_sector_alignment: pages
	le.PutUint32(c[48:], maxRangeSectors) // max_write_zeroes_sectors
	le.PutUint32(c[52:], maxRanges)       // max_write_zeroes_seg
	c[56] = 1                             // write_zeroes_may_unmap
}

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDBlock }

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := uint64(1<<fSegMax | 1<<fBlkSize | 1<<fTopology)
	if !d.cfg.Unsafe {
		f |= 1 << fFlush
	}
	if d.cfg.Queues > 1 {
		f |= 1 << fMQ
	}
	if d.cfg.ReadOnly {
		return f | 1<<fRO
	}
	f |= 1<<fDiscard | 1<<fWriteZeroes
	if !d.cfg.Unsafe {
		f |= 1 << fConfigWCE
	}
	return f
}

// CheckFeatures implements virtio.FeatureChecker. No choice is wrong, but it decides how writes begin: without
// FLUSH a driver has no way of making them stable (5.2.5.2).
func (d *Device) CheckFeatures(features uint64) error {
	d.setWriteBack(d.cfg.Unsafe || features&(1<<fFlush) != 0)
	return nil
}

func (d *Device) setWriteBack(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writeBack.Store(on)
	d.config[offWriteback] = 0
	if on {
		d.config[offWriteback] = 1
	}
}

// QueueSizes implements virtio.Device: request queues (5.2.2).
func (d *Device) QueueSizes() []uint16 { return slices.Repeat([]uint16{queueSize}, d.cfg.Queues) }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off uint64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < configSize {
		copy(p, d.config[off:])
	}
}

// WriteConfig implements virtio.ConfigWriter: the driver turns the write cache on and off (5.2.5.2).
func (d *Device) WriteConfig(off uint64, p []byte) {
	if off == offWriteback && len(p) == 1 && p[0] <= 1 && !d.cfg.ReadOnly && !d.cfg.Unsafe {
		d.setWriteBack(p[0] == 1)
	}
}

// Reset implements virtio.Resetter.
func (d *Device) Reset() { d.setWriteBack(true) }

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	d.state.Lock()
	defer d.state.Unlock()
	d.env = env
	d.start()
	return nil
}

// start starts a server for each queue. state is held.
func (d *Device) start() {
	d.pool = newPool(queueSize * d.cfg.Queues)
	for i := range d.cfg.Queues {
		if q := d.env.Queue(i); q != nil {
			s := &server{d: d, q: q, pool: d.pool, some: make(chan struct{}, 1)}
			s.worker = virtio.StartWorker(q, d.env.Interrupt, s.serve)
			d.servers = append(d.servers, s)
		}
	}
}

// stop ends the servers, with nothing in flight. state is held.
func (d *Device) stop() {
	for _, s := range d.servers {
		s.stop()
	}
	if d.pool != nil {
		d.pool.close()
	}
	d.servers, d.pool = nil, nil
}

// Deactivate implements virtio.Device.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	d.state.Lock()
	defer d.state.Unlock()
	d.stop()
	queues := d.env.Queues
	d.env = virtio.Env{}
	return queues, nil
}

// Replace puts another backend in the place of the present one, with which nothing is in flight any more when it
// returns. The driver is told when the size differs; it cannot be told of larger blocks, which are an error.
func (d *Device) Replace(b Backend) error {
	if err := checkSize(b.Size()); err != nil {
		return err
	}
	if n := blockSize(b); n > d.cfg.BlockSize {
		return fmt.Errorf("disk: the backend wants blocks of %d bytes, the driver was told of %d", n, d.cfg.BlockSize)
	}
	d.state.Lock()
	defer d.state.Unlock()
	running := d.pool != nil
	d.stop()
	d.backend = b
	d.resize()
	if running {
		d.start()
	}
	return nil
}

// Resize makes the disk as large as its backend has become, and tells the driver.
func (d *Device) Resize() error {
	d.state.Lock()
	defer d.state.Unlock()
	if err := checkSize(d.backend.Size()); err != nil {
		return err
	}
	d.resize()
	return nil
}

// resize takes over the backend's size. state is held.
func (d *Device) resize() {
	size := d.backend.Size()
	if size == d.size.Load() {
		return
	}
	d.size.Store(size)
	d.mu.Lock()
	binary.LittleEndian.PutUint64(d.config[:], size/SectorSize)
	d.mu.Unlock()
	if d.env.Interrupt != nil {
		d.env.Interrupt.Config()
	}
}
