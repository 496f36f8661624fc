package network

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsafe because the wrappers of golang.org/x/sys/unix make a list of vectors for each call, mostly on the heap; here
// the list is kept.

// maxVector is IOV_MAX, the most vectors of one call.
const maxVector = 1024

// vector is the list of buffers of one transfer.
type vector struct {
	msg unix.Msghdr
	iov []unix.Iovec
}

// add appends p. A piece without bytes takes no room.
func (v *vector) add(p []byte) {
	if len(p) > 0 {
		v.iov = append(v.iov, unix.Iovec{Base: unsafe.SliceData(p), Len: uint64(len(p))})
	}
}

// reset empties v. No pointer stays behind: guest memory may be unmapped before the backend goes.
func (v *vector) reset() {
	clear(v.iov)
	v.iov = v.iov[:0]
}

// readv and writev transfer one frame over a file, recvmsg and sendmsg over a socket. v must not be empty.
func (v *vector) readv(fd int) (int, unix.Errno)  { return v.call(unix.SYS_READV, fd) }
func (v *vector) writev(fd int) (int, unix.Errno) { return v.call(unix.SYS_WRITEV, fd) }

// None of the calls waits, so the Go scheduler need not hear of them: RawSyscall spares a small frame a tenth of its time.
// What may hold one up is a page of the guest that is not there.

func (v *vector) call(trap uintptr, fd int) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v.iov))), uintptr(len(v.iov)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func (v *vector) recvmsg(fd, flags int) (int, unix.Errno) {
	return v.message(unix.SYS_RECVMSG, fd, flags)
}
func (v *vector) sendmsg(fd, flags int) (int, unix.Errno) {
	return v.message(unix.SYS_SENDMSG, fd, flags)
}

func (v *vector) message(trap uintptr, fd, flags int) (int, unix.Errno) {
	v.msg.Iov = unsafe.SliceData(v.iov)
	v.msg.SetIovlen(len(v.iov))
	for {
		n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&v.msg)), uintptr(flags))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
