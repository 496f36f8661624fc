package virtio

import "fmt"

// load fills c with the chain that begins at head: each descriptor is copied once and only the copy is looked at.
func (c *Chain) load(q *Queue, head uint16) error {
	c.head = head
	c.segments = c.segments[:0]
	w := walk{q: q, c: c}
	next := head
	// A chain without a loop has no more descriptors than the table (2.7.5.2).
	for range q.size {
		d := q.ring.descriptor(next)
		if d.flags&descIndirect != 0 {
			if err := w.table(d); err != nil {
				return err
			}
			return w.finish()
		}
		if err := w.add(d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return w.finish()
		}
		if next = d.next; next >= q.size {
			return fmt.Errorf("%w: next %d, size %d", ErrDescIndex, next, q.size)
		}
	}
	return fmt.Errorf("%w: head %d", ErrChainLoop, head)
}

// walk is the state while a chain is loaded.
type walk struct {
	q        *Queue
	c        *Chain
	count    int    // descriptors
	bytes    uint64 // in all
	readable int    // bytes
	pieces   int    // of c.segments that are readable
	writing  bool   // a device-writable descriptor has been seen
}

// add takes one descriptor that points at a buffer.
func (w *walk) add(d descriptor) error {
	if w.count++; w.count > maxPieces {
		return fmt.Errorf("%w: more than %d descriptors", ErrChainLong, maxPieces)
	}
	// 2.7.5.2: no more than 2^32 bytes in all, which also keeps the sums far from overflow.
	if w.bytes += uint64(d.len); w.bytes > 1<<32 {
		return fmt.Errorf("%w: more than 2^32 bytes", ErrChainLong)
	}
	writable := d.flags&descWrite != 0
	if w.writing && !writable {
		return ErrDirection // 2.7.4.2
	}
	w.writing = writable
	if d.len == 0 {
		return nil // no bytes, whatever the address
	}
	p, err := w.q.mem.Slice(d.addr, int(d.len))
	if err != nil {
		return fmt.Errorf("%w: buffer at %#x, %#x long: %w", ErrMemory, d.addr, d.len, err)
	}
	w.c.segments = append(w.c.segments, p)
	if !writable {
		w.readable += len(p)
		w.pieces++
	}
	return nil
}

// table takes the descriptor of an indirect table, which ends the chain (2.7.5.3).
func (w *walk) table(d descriptor) error {
	if !w.q.tables {
		return fmt.Errorf("%w: VIRTIO_F_INDIRECT_DESC was not negotiated", ErrIndirect)
	}
	if d.flags&descNext != 0 {
		return fmt.Errorf("%w: it has the flag NEXT", ErrIndirect)
	}
	if d.len == 0 || d.len%16 != 0 {
		return fmt.Errorf("%w: a table of %d bytes", ErrIndirect, d.len)
	}
	// Its flag WRITE means nothing (2.7.5.3.2).
	table, err := w.q.mem.Slice(d.addr, int(d.len))
	if err != nil {
		return fmt.Errorf("%w: indirect table at %#x, %#x long: %w", ErrMemory, d.addr, d.len, err)
	}
	entries := len(table) / 16
	next := 0
	for range min(entries, maxPieces+1) {
		e := decodeDescriptor(table, next)
		if e.flags&descIndirect != 0 {
			return fmt.Errorf("%w: a table in a table", ErrIndirect)
		}
		if err := w.add(e); err != nil {
			return err
		}
		if e.flags&descNext == 0 {
			return nil
		}
		if next = int(e.next); next >= entries {
			return fmt.Errorf("%w: next %d in an indirect table of %d", ErrDescIndex, next, entries)
		}
	}
	return fmt.Errorf("%w: in an indirect table", ErrChainLoop)
}

// finish sets the chain's two halves.
func (w *walk) finish() error {
	c := w.c
	total := int(w.bytes)
	c.Readable = Buffers{c.segments[:w.pieces], w.readable}
	c.Writable = Buffers{c.segments[w.pieces:], total - w.readable}
	c.capacity = uint32(min(total-w.readable, 1<<32-1))
	return nil
}
