package vsock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsafe because the wrappers of golang.org/x/sys/unix allocate: for each call an address, a list of vectors, or both.

// maxVector is the most pieces of memory for one system call: a burst of receive buffers, or the largest buffer of a
// connection.
const maxVector = 64

// vector is the argument of one sendmsg or recvmsg.
type vector struct {
	msg   unix.Msghdr
	iov   [maxVector]unix.Iovec
	n     int // pieces
	bytes int
}

// add appends p and reports whether there was room for it. A piece without bytes takes no room.
func (v *vector) add(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if v.n == maxVector {
		return false
	}
	v.iov[v.n].Base = unsafe.SliceData(p)
	v.iov[v.n].SetLen(len(p))
	v.n++
	v.bytes += len(p)
	return true
}

// reset empties v. No pointer stays behind: guest memory may be unmapped before the device goes.
func (v *vector) reset() {
	clear(v.iov[:v.n])
	v.n, v.bytes = 0, 0
}

// send writes v to a socket without waiting. An error is 0 or an errno.
func (v *vector) send(fd int) (n int, errno unix.Errno) {
	return v.call(unix.SYS_SENDMSG, fd, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// receive reads from a socket without waiting. cut reports that the peer has passed file descriptors, which are
// dropped, and which end the read early.
func (v *vector) receive(fd int) (n int, cut bool, errno unix.Errno) {
	v.msg.Flags = 0
	n, errno = v.call(unix.SYS_RECVMSG, fd, unix.MSG_DONTWAIT)
	return n, v.msg.Flags&unix.MSG_CTRUNC != 0, errno
}

func (v *vector) call(trap uintptr, fd int, flags uintptr) (int, unix.Errno) {
	v.msg.Iov = &v.iov[0]
	v.msg.SetIovlen(v.n)
	for {
		n, _, errno := unix.Syscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&v.msg)), flags)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

// recv reads from a socket into p, which is not empty, without waiting.
func recv(fd int, p []byte, flags int) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

// send writes p, which is not empty, to a socket without waiting.
func send(fd int, p []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}
