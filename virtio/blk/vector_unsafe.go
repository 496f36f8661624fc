package blk

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsafe because unix.Preadv and unix.Pwritev make a list of vectors for each call, on the heap when there are more than
// eight; here the list is kept.

// maxVector is IOV_MAX, the most vectors of one call.
const maxVector = 1024

// vector is the list of buffers of a transfer.
type vector struct{ iov []unix.Iovec }

// read fills all of bufs from offset off of fd, write writes all of them there.
func (v *vector) read(fd int, bufs [][]byte, off uint64) error {
	return v.transfer(unix.SYS_PREADV, fd, bufs, off)
}

func (v *vector) write(fd int, bufs [][]byte, off uint64) error {
	return v.transfer(unix.SYS_PWRITEV, fd, bufs, off)
}

// transfer moves all of bufs, however little a single call manages.
func (v *vector) transfer(trap uintptr, fd int, bufs [][]byte, off uint64) error {
	v.iov = v.iov[:0]
	for _, b := range bufs {
		if len(b) > 0 {
			v.iov = append(v.iov, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
		}
	}
	// No pointer stays behind: guest memory may be unmapped before the disk goes.
	defer clear(v.iov)
	for rest := v.iov; len(rest) > 0; {
		// The offset's upper half is an argument of its own, and unused, on 64-bit kernels.
		n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(rest))),
			uintptr(min(len(rest), maxVector)), uintptr(off), 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return errno
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		off += uint64(n)
		rest = skip(rest, uint64(n))
	}
	return nil
}

// skip takes n bytes off the front of iov.
func skip(iov []unix.Iovec, n uint64) []unix.Iovec {
	for n > 0 {
		first := &iov[0]
		if n < first.Len {
			first.Base = (*byte)(unsafe.Add(unsafe.Pointer(first.Base), n))
			first.Len -= n
			break
		}
		n -= first.Len
		iov = iov[1:]
	}
	return iov
}
