package blk

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsafe because unix.Preadv2 and unix.Pwritev2 make a list of vectors for each call, on the heap when there are more
// than eight; here the list is kept.

// maxVector is IOV_MAX, the most vectors of one call.
const maxVector = 1024

// Vector is a list of buffers that is used up from its front, and that can be filled again without
// allocating. The zero value is empty.
type Vector struct {
	all  []unix.Iovec // the room
	rest []unix.Iovec // what is left, none of it empty
	n    uint64       // bytes in rest
}

// Set makes v the list of bufs, which must stay where they are until it is used up or cleared.
func (v *Vector) Set(bufs ...[]byte) {
	v.all, v.n = v.all[:0], 0
	for _, b := range bufs {
		if len(b) > 0 {
			v.all = append(v.all, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
			v.n += uint64(len(b))
		}
	}
	v.rest = v.all
}

// Clear forgets the buffers: guest memory may be unmapped before the disk goes.
func (v *Vector) Clear() {
	clear(v.all)
	v.all, v.rest, v.n = v.all[:0], nil, 0
}

// Len is how many bytes are left.
func (v *Vector) Len() uint64 { return v.n }

// front returns the first buffer, no more than n bytes of it.
func (v *Vector) front(n uint64) []byte {
	return unsafe.Slice(v.rest[0].Base, min(n, v.rest[0].Len))
}

// skip takes n bytes, no more than there are, off the front.
func (v *Vector) skip(n uint64) {
	v.n -= n
	for n > 0 {
		first := &v.rest[0]
		if n < first.Len {
			first.Base = (*byte)(unsafe.Add(unsafe.Pointer(first.Base), n))
			first.Len -= n
			return
		}
		n -= first.Len
		v.rest = v.rest[1:]
	}
}

// fill copies p to the front of v, zero clears n bytes there, take copies from there to p. There is room.
func (v *Vector) fill(p []byte) {
	for len(p) > 0 {
		n := copy(v.front(v.n), p)
		v.skip(uint64(n))
		p = p[n:]
	}
}

func (v *Vector) zero(n uint64) {
	for n > 0 {
		b := v.front(n)
		clear(b)
		v.skip(uint64(len(b)))
		n -= uint64(len(b))
	}
}

func (v *Vector) take(p []byte) {
	for len(p) > 0 {
		n := copy(p, v.front(v.n))
		v.skip(uint64(n))
		p = p[n:]
	}
}

// read fills the first n bytes of v from offset off of fd, write writes them there, however little a single
// call manages. flags are the RWF_ flags of preadv2(2). An error leaves v anywhere in between.
func (v *Vector) read(fd int, off, n uint64, flags uintptr) error {
	return v.transfer(unix.SYS_PREADV2, fd, off, n, flags)
}

func (v *Vector) write(fd int, off, n uint64, flags uintptr) error {
	return v.transfer(unix.SYS_PWRITEV2, fd, off, n, flags)
}

func (v *Vector) transfer(trap uintptr, fd int, off, n uint64, flags uintptr) error {
	for n > 0 {
		// The vector in which n ends is cut short for the call.
		count, sum := 0, uint64(0)
		for count < min(len(v.rest), maxVector) && sum < n {
			sum += v.rest[count].Len
			count++
		}
		last := &v.rest[count-1]
		whole := last.Len
		if sum > n {
			last.Len -= sum - n
		}
		// The offset's upper half is an argument of its own, and unused, on 64-bit kernels.
		done, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v.rest))),
			uintptr(count), uintptr(off), 0, flags)
		last.Len = whole
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return errno
		case done == 0:
			return io.ErrUnexpectedEOF
		}
		v.skip(uint64(done))
		off += uint64(done)
		n -= uint64(done)
	}
	return nil
}

// aligned reports whether the first n bytes of v are in buffers whose addresses and lengths are multiples of align.
func (v *Vector) aligned(n, align uint64) bool {
	for i := 0; n > 0; i++ {
		b := v.rest[i]
		if (uint64(uintptr(unsafe.Pointer(b.Base)))|b.Len)&(align-1) != 0 {
			return false
		}
		n -= min(n, b.Len)
	}
	return true
}
