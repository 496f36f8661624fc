package virtio

import "encoding/binary"

// Descriptor flags (2.7.5).
const (
	descNext     = 1 // VIRTQ_DESC_F_NEXT
	descWrite    = 2 // VIRTQ_DESC_F_WRITE: the device writes
	descIndirect = 4 // VIRTQ_DESC_F_INDIRECT
)

// descriptor is a copy of struct virtq_desc (2.7.5).
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// makeDescriptor takes the two little-endian words of a descriptor.
func makeDescriptor(lo, hi uint64) descriptor {
	return descriptor{addr: lo, len: uint32(hi), flags: uint16(hi >> 32), next: uint16(hi >> 48)}
}

// decodeDescriptor copies descriptor i of an indirect table, which may have any alignment.
func decodeDescriptor(table []byte, i int) descriptor {
	var b [16]byte
	copy(b[:], table[16*i:16*i+16])
	return makeDescriptor(binary.LittleEndian.Uint64(b[0:]), binary.LittleEndian.Uint64(b[8:]))
}

// Chain is one request: the buffers of a descriptor chain. A device that has popped a chain gives it back with
// Queue.Push (or Queue.Unpop) and does not use it afterwards.
type Chain struct {
	// Readable is what the driver sends, Writable where it wants the answer. Both point into guest memory.
	Readable, Writable Buffers

	head     uint16
	capacity uint32 // bytes in Writable when it was popped
	segments [][]byte
}

// Head is the index of the chain's first descriptor, which names the chain while it is in flight.
func (c *Chain) Head() uint16 { return c.head }

// Buffers is a sequence of pieces of guest memory which is taken off at the front. The pieces' borders mean
// nothing: any layout of the same bytes is the same request (2.7.4.1).
//
// The bytes may change while they are looked at; Read them once and decide on the copy.
type Buffers struct {
	pieces [][]byte // none of them empty
	n      int
}

// Len returns the number of bytes left.
func (b *Buffers) Len() int { return b.n }

// Pieces returns what is left, without empty pieces. The result is valid until b is changed.
func (b *Buffers) Pieces() [][]byte { return b.pieces }

// Read copies up to len(p) bytes off the front of b and returns how many.
func (b *Buffers) Read(p []byte) int {
	done := 0
	for done < len(p) && len(b.pieces) > 0 {
		n := copy(p[done:], b.pieces[0])
		b.take(n)
		done += n
	}
	return done
}

// Write copies p to the front of b, takes off what was written and returns how many bytes that were.
func (b *Buffers) Write(p []byte) int {
	done := 0
	for done < len(p) && len(b.pieces) > 0 {
		n := copy(b.pieces[0], p[done:])
		b.take(n)
		done += n
	}
	return done
}

// Zero fills up to n bytes at the front with zeros, takes them off and returns how many.
func (b *Buffers) Zero(n int) int {
	done := 0
	for done < n && len(b.pieces) > 0 {
		k := min(n-done, len(b.pieces[0]))
		clear(b.pieces[0][:k])
		b.take(k)
		done += k
	}
	return done
}

// Skip takes up to n bytes off the front and returns how many.
func (b *Buffers) Skip(n int) int {
	done := 0
	for done < n && len(b.pieces) > 0 {
		k := min(n-done, len(b.pieces[0]))
		b.take(k)
		done += k
	}
	return done
}

// CutByte takes the last byte off the end of b and returns it as a one-byte slice of guest memory, or nil
// when b is empty. It is for answers that end in a status byte.
func (b *Buffers) CutByte() []byte {
	if b.n == 0 {
		return nil
	}
	last := len(b.pieces) - 1
	p := b.pieces[last]
	tail := p[len(p)-1:]
	if len(p) == 1 {
		b.pieces = b.pieces[:last]
	} else {
		b.pieces[last] = p[:len(p)-1]
	}
	b.n--
	return tail
}

// take removes n bytes, at least 1 and no more than the first piece has, from the front.
func (b *Buffers) take(n int) {
	b.n -= n
	if n == len(b.pieces[0]) {
		b.pieces = b.pieces[1:]
	} else if n > 0 {
		b.pieces[0] = b.pieces[0][n:]
	}
}
