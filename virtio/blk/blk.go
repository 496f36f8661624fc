// Package blk is the block device (VIRTIO 1.2, section 5.2): a disk whose
// sectors are those of a Backend, a raw file (OpenFile) or a virtual disk with
// one partition for each of several files (NewGPT).
//
// A raw file is never looked at: what a guest writes to it, such as another
// format's header, stays data.
//
// Data moves between guest memory and file with preadv and pwritev, without a
// copy in between. One worker serves the queue; request.go is what it does.
package blk

import (
	"encoding/binary"
	"errors"
	"fmt"

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
)

// Backend is where a disk's bytes are. Offsets and lengths are those of whole
// sectors within Size, checked before. Its methods are called by one
// goroutine at a time.
type Backend interface {
	// Size is in bytes, a multiple of SectorSize.
	Size() uint64
	// ReadAt fills all of bufs from off.
	ReadAt(bufs [][]byte, off uint64) error
	// WriteAt writes all of bufs at off.
	WriteAt(bufs [][]byte, off uint64) error
	// Flush returns when everything that was written is on stable storage.
	Flush() error
	// Discard gives the host the space of n bytes at off; they may read as
	// anything afterwards.
	Discard(off, n uint64) error
	// WriteZeroes makes n bytes at off read as zero; unmap allows to give the
	// space to the host.
	WriteZeroes(off, n uint64, unmap bool) error
}

// ErrUnsupported is returned by a Backend for what it cannot do.
var ErrUnsupported = errors.New("the disk's backend does not support this")

// Config describes a disk.
type Config struct {
	Backend  Backend
	ReadOnly bool
	ID       string // the answer to GET_ID, at most IDSize bytes
	// BlockSize is the logical block size in bytes, 512 to 4096; 0 means 512.
	BlockSize int
}

// Device is a block device.
type Device struct {
	cfg    Config
	size   uint64
	id     [IDSize]byte
	config [configSize]byte
	env    virtio.Env
	worker *virtio.Worker
}

// New makes a disk.
func New(cfg Config) (*Device, error) {
	if cfg.Backend == nil {
		return nil, errors.New("disk: no backend given")
	}
	if cfg.BlockSize == 0 {
		cfg.BlockSize = SectorSize
	}
	if b := cfg.BlockSize; b < SectorSize || b > 4096 || b&(b-1) != 0 {
		return nil, fmt.Errorf("disk: block size %d: must be 512, 1024, 2048 or 4096", b)
	}
	d := &Device{cfg: cfg, size: cfg.Backend.Size()}
	if d.size == 0 || d.size%SectorSize != 0 {
		return nil, fmt.Errorf("disk: %d bytes: must be whole sectors of %d bytes, and at least one", d.size, SectorSize)
	}
	if len(cfg.ID) > IDSize {
		return nil, fmt.Errorf("disk: ID %q is longer than %d bytes", cfg.ID, IDSize)
	}
	copy(d.id[:], cfg.ID)
	d.fillConfig()
	return d, nil
}

// configSize covers the fields up to write_zeroes_may_unmap and its padding
// (5.2.4).
const configSize = 60

// fillConfig lays out struct virtio_blk_config (5.2.4).
func (d *Device) fillConfig() {
	c, le := d.config[:], binary.LittleEndian
	le.PutUint64(c[0:], d.size/SectorSize) // capacity
	le.PutUint32(c[12:], segMax)           // seg_max
	le.PutUint32(c[20:], uint32(d.cfg.BlockSize))
	c[24] = 3                // topology: a physical block is 2^3 logical ones, a page
	le.PutUint16(c[26:], 8)  // min_io_size, in blocks
	le.PutUint32(c[28:], 64) // opt_io_size, in blocks
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
	f := uint64(1<<fSegMax | 1<<fBlkSize | 1<<fTopology | 1<<fFlush)
	if d.cfg.ReadOnly {
		return f | 1<<fRO
	}
	return f | 1<<fDiscard | 1<<fWriteZeroes
}

// QueueSizes implements virtio.Device: one request queue (5.2.2).
func (*Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off uint64, p []byte) {
	if off < configSize {
		copy(p, d.config[off:])
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	d.env = env
	if q := env.Queue(0); q != nil {
		r := &requests{d: d}
		d.worker = virtio.StartWorker(q, env.Interrupt, r.serve)
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
