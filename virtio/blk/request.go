package blk

import (
	"encoding/binary"
	"errors"

	"github.com/hullvm/hull/virtio"
)

// Request types (5.2.6).
const (
	tIn          = 0  // VIRTIO_BLK_T_IN: read
	tOut         = 1  // VIRTIO_BLK_T_OUT: write
	tFlush       = 4  // VIRTIO_BLK_T_FLUSH
	tGetID       = 8  // VIRTIO_BLK_T_GET_ID
	tDiscard     = 11 // VIRTIO_BLK_T_DISCARD
	tWriteZeroes = 13 // VIRTIO_BLK_T_WRITE_ZEROES
)

// Status bytes (5.2.6).
const (
	sOK     = 0 // VIRTIO_BLK_S_OK
	sIOErr  = 1 // VIRTIO_BLK_S_IOERR
	sUnsupp = 2 // VIRTIO_BLK_S_UNSUPP
)

const (
	headerSize = 16 // type, reserved, sector
	rangeSize  = 16 // struct virtio_blk_discard_write_zeroes: sector, num_sectors, flags
	flagUnmap  = 1
)

// requests serves the queue of a Device. Its buffers are used again for each
// request, so that serving one allocates nothing.
type requests struct {
	d      *Device
	header [headerSize]byte
	ranges [maxRanges * rangeSize]byte
}

// serve answers all requests there are.
func (r *requests) serve(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		q.Push(c, r.request(c))
	}
	return nil
}

// request answers one request and returns how many bytes it wrote, the status
// at the very end included.
//
// A chain without a byte for the status cannot be answered: it goes back as it
// came (5.2.6.2 leaves it open). One whose header is short is an IOERR.
func (r *requests) request(c *virtio.Chain) int {
	room := c.Writable.Len()
	status := c.Writable.CutByte()
	if status == nil {
		return 0
	}
	if c.Readable.Read(r.header[:]) < headerSize {
		c.Writable.Zero(c.Writable.Len())
		status[0] = sIOErr
		return room
	}
	s := r.do(c)
	// The status is the last byte of the writable part, so all before it counts
	// as written (2.7.8.2): what was not is made zero.
	c.Writable.Zero(c.Writable.Len())
	status[0] = s
	return room
}

// do carries a request out. The header has been taken off c's readable part
// and the status byte off its writable part.
func (r *requests) do(c *virtio.Chain) byte {
	d, le := r.d, binary.LittleEndian
	sector := le.Uint64(r.header[8:])
	switch le.Uint32(r.header[0:]) {
	case tIn:
		off, ok := d.span(sector, uint64(c.Writable.Len()))
		if !ok {
			return sIOErr
		}
		if err := d.cfg.Backend.ReadAt(c.Writable.Pieces(), off); err != nil {
			return status(err)
		}
		c.Writable.Skip(c.Writable.Len())
		return sOK
	case tOut:
		off, ok := d.span(sector, uint64(c.Readable.Len()))
		if !ok || d.cfg.ReadOnly {
			return sIOErr
		}
		return status(d.cfg.Backend.WriteAt(c.Readable.Pieces(), off))
	case tFlush:
		if d.cfg.ReadOnly {
			return sOK
		}
		return status(d.cfg.Backend.Flush())
	case tGetID:
		if c.Writable.Len() < IDSize {
			return sIOErr
		}
		c.Writable.Write(d.id[:])
		return sOK
	case tDiscard:
		return r.eachRange(c, fDiscard, 0, func(off, n uint64, _ uint32) error { return d.cfg.Backend.Discard(off, n) })
	case tWriteZeroes:
		return r.eachRange(c, fWriteZeroes, flagUnmap, func(off, n uint64, flags uint32) error {
			return d.cfg.Backend.WriteZeroes(off, n, flags&flagUnmap != 0)
		})
	}
	return sUnsupp
}

// span turns a place on the disk into bytes. ok is false unless it is whole
// sectors within the disk.
func (d *Device) span(sector, n uint64) (off uint64, ok bool) {
	if n == 0 || n%SectorSize != 0 || sector > d.size/SectorSize {
		return 0, false
	}
	off = sector * SectorSize // no overflow: sector is at most the capacity
	return off, n <= d.size-off
}

// eachRange carries out a request whose data is a list of ranges (5.2.6). All
// of them are checked before the first is touched.
func (r *requests) eachRange(c *virtio.Chain, feature uint, known uint32, f func(off, n uint64, flags uint32) error) byte {
	d, le := r.d, binary.LittleEndian
	if d.cfg.ReadOnly {
		return sIOErr
	}
	if !d.env.Has(feature) {
		return sUnsupp
	}
	size := c.Readable.Len()
	if size == 0 || size%rangeSize != 0 || size > len(r.ranges) {
		return sIOErr
	}
	list := r.ranges[:c.Readable.Read(r.ranges[:])]
	for p := list; len(p) > 0; p = p[rangeSize:] {
		if le.Uint32(p[12:])&^known != 0 {
			return sUnsupp // 5.2.6.2: unknown flags
		}
		sectors := uint64(le.Uint32(p[8:]))
		if _, ok := d.span(le.Uint64(p[0:]), sectors*SectorSize); !ok || sectors > maxRangeSectors {
			return sIOErr
		}
	}
	for p := list; len(p) > 0; p = p[rangeSize:] {
		off, n := le.Uint64(p[0:])*SectorSize, uint64(le.Uint32(p[8:]))*SectorSize
		if s := status(f(off, n, le.Uint32(p[12:]))); s != sOK {
			return s
		}
	}
	return sOK
}

func status(err error) byte {
	switch {
	case err == nil:
		return sOK
	case errors.Is(err, ErrUnsupported):
		return sUnsupp
	}
	return sIOErr
}
