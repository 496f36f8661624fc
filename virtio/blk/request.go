package blk

import (
	"encoding/binary"
	"errors"
	"time"

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

	pending = 0xff // of hull: not yet carried out
)

const (
	headerSize = 16 // type, reserved, sector
	rangeSize  = 16 // struct virtio_blk_discard_write_zeroes: sector, num_sectors, flags
	flagUnmap  = 1
)

// request is a request on its way. It is used again and again, so that serving one allocates nothing.
type request struct {
	server *server
	chain  *virtio.Chain
	status []byte // where the driver wants the status; nil when there is no place for it
	room   int    // bytes the driver may be given, the status included
	began  time.Time

	kind   uint32
	off, n uint64 // of a transfer, in bytes
	code   byte   // the answer, or pending
	v      Vector

	header [headerSize]byte
	ranges [maxRanges * rangeSize]byte
	list   []byte // the part of ranges that the request has
}

// load takes a request off c and checks it. Afterwards its code is pending, or the answer.
//
// A chain without a byte for the status cannot be answered: it goes back as it
// came (5.2.6.2 leaves it open). One whose header is short is an IOERR.
func (r *request) load(c *virtio.Chain) {
	r.chain, r.room, r.n, r.list = c, c.Writable.Len(), 0, nil
	r.status = c.Writable.CutByte()
	r.code = r.parse(c)
}

func (r *request) parse(c *virtio.Chain) byte {
	d, le := r.server.d, binary.LittleEndian
	if r.kind = pending; r.status == nil || c.Readable.Read(r.header[:]) < headerSize {
		return sIOErr
	}
	r.kind = le.Uint32(r.header[0:])
	sector := le.Uint64(r.header[8:])
	switch r.kind {
	case tIn:
		return r.span(sector, uint64(c.Writable.Len()))
	case tOut:
		if d.cfg.ReadOnly {
			return sIOErr
		}
		return r.span(sector, uint64(c.Readable.Len()))
	case tFlush:
		if d.cfg.ReadOnly || d.cfg.Unsafe {
			return sOK
		}
		return pending
	case tGetID:
		if c.Writable.Len() < IDSize {
			return sIOErr
		}
		c.Writable.Write(d.id[:])
		return sOK
	case tDiscard:
		return r.parseRanges(c, fDiscard, 0)
	case tWriteZeroes:
		return r.parseRanges(c, fWriteZeroes, flagUnmap)
	}
	return sUnsupp
}

// span takes the place of a transfer.
func (r *request) span(sector, n uint64) byte {
	var ok bool
	if r.off, ok = r.server.d.span(sector, n); !ok {
		return sIOErr
	}
	r.n = n
	return pending
}

// span turns a place on the disk into bytes. ok is false unless it is whole
// sectors within the disk.
func (d *Device) span(sector, n uint64) (off uint64, ok bool) {
	size := d.size.Load()
	if n == 0 || n%SectorSize != 0 || sector > size/SectorSize {
		return 0, false
	}
	off = sector * SectorSize // no overflow: sector is at most the capacity
	return off, n <= size-off
}

// parseRanges takes a request whose data is a list of ranges (5.2.6). All
// of them are checked before the first is touched.
func (r *request) parseRanges(c *virtio.Chain, feature uint, known uint32) byte {
	d, le := r.server.d, binary.LittleEndian
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
	r.list = r.ranges[:c.Readable.Read(r.ranges[:])]
	for p := r.list; len(p) > 0; p = p[rangeSize:] {
		if le.Uint32(p[12:])&^known != 0 {
			return sUnsupp // 5.2.6.2: unknown flags
		}
		sectors := uint64(le.Uint32(p[8:]))
		if _, ok := d.span(le.Uint64(p[0:]), sectors*SectorSize); !ok || sectors > maxRangeSectors {
			return sIOErr
		}
	}
	return pending
}

// carryOut does what r asks for and sets its code. With NoWait it may return false instead, with nothing or any
// part of it done: then it is called again without.
func (r *request) carryOut(how Mode) bool {
	b := r.server.d.backend
	var err error
	switch r.kind {
	case tIn:
		r.v.Set(r.chain.Writable.Pieces()...)
		err = b.ReadAt(&r.v, r.off, how)
	case tOut:
		r.v.Set(r.chain.Readable.Pieces()...)
		if !r.server.d.writeBack.Load() {
			how |= Through
		}
		err = b.WriteAt(&r.v, r.off, how)
	case tFlush:
		err = b.Flush()
	case tDiscard, tWriteZeroes:
		err = r.eachRange(b)
	}
	if how&NoWait != 0 && errors.Is(err, ErrWouldBlock) {
		return false
	}
	r.code = status(err)
	if r.code == sOK && r.kind == tIn {
		r.chain.Writable.Skip(r.chain.Writable.Len())
	}
	return true
}

// eachRange carries out a request that has a list of ranges, which have been checked.
func (r *request) eachRange(b Backend) error {
	le := binary.LittleEndian
	for p := r.list; len(p) > 0; p = p[rangeSize:] {
		off, n := le.Uint64(p[0:])*SectorSize, uint64(le.Uint32(p[8:]))*SectorSize
		var err error
		if r.kind == tDiscard {
			err = b.Discard(off, n)
		} else {
			err = b.WriteZeroes(off, n, le.Uint32(p[12:])&flagUnmap != 0)
		}
		if err != nil {
			return err
		}
	}
	if !r.server.d.writeBack.Load() {
		return b.Flush()
	}
	return nil
}

// answer writes the status and returns how many bytes were written, the status
// at the very end included.
//
// The status is the last byte of the writable part, so all before it counts
// as written (2.7.8.2): what was not is made zero.
func (r *request) answer() int {
	if r.status == nil {
		return 0
	}
	r.chain.Writable.Zero(r.chain.Writable.Len())
	r.status[0] = r.code
	return r.room
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
