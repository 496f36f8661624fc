package virtio

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Kick is the doorbell of one queue: an eventfd that KVM (KVM_IOEVENTFD), a vCPU thread (Notify) or another
// goroutine rings, and that one Worker waits at. Rings that nobody has waited for yet count as one.
//
// Wait is a plain blocking read, and WaitOr a poll, not the Go poller: a thread for each busy queue, but one system call
// or two a wake-up instead of three and more, and no dependence on what else the scheduler is doing.
type Kick struct {
	fd int
	// rung is set by Notify, and cleared before a ring is waited for: for a Worker that looks at its queue meanwhile,
	// in which KVM's rings show.
	rung atomic.Bool
}

// NewKick makes a doorbell.
func NewKick() (*Kick, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create the eventfd of a queue: %w", os.NewSyscallError("eventfd2", err))
	}
	return &Kick{fd: fd}, nil
}

// FD returns the eventfd, which stays k's.
func (k *Kick) FD() int { return k.fd }

// one is what rings an eventfd: the number 1 in the host's byte order.
var one = [8]byte{1}

// Notify rings. It does not block: an eventfd only blocks writers at 2^64-1.
func (k *Kick) Notify() {
	k.rung.Store(true)
	for {
		if _, err := unix.Write(k.fd, one[:]); !errors.Is(err, unix.EINTR) {
			return // the only other errors are those of a closed doorbell
		}
	}
}

// Wait blocks until the doorbell has been rung since the last Wait. An error means that it is closed.
func (k *Kick) Wait() error {
	k.rung.Store(false)
	return k.take()
}

// WaitOr is Wait that also ends when fd is readable, has failed, or has lost its other end. The doorbell is taken note of
// only if it has been rung.
func (k *Kick) WaitOr(fd int) error {
	k.rung.Store(false)
	fds := [2]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}, {Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds[:], -1)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a queue's doorbell: %w", os.NewSyscallError("poll", err))
		}
	}
	if fds[0].Revents == 0 {
		return nil
	}
	return k.take() // does not block: nobody else waits
}

// readable reports whether WaitOr would return at once for fd's sake.
func readable(fd int) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	return n > 0 && err == nil
}

// take blocks until the eventfd is not 0, and makes it 0.
func (k *Kick) take() error {
	var count [8]byte
	for {
		_, err := unix.Read(k.fd, count[:])
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a queue's doorbell: %w", os.NewSyscallError("read", err))
		}
	}
}

// Close closes the eventfd. Nobody may be waiting.
func (k *Kick) Close() error {
	return os.NewSyscallError("close", unix.Close(k.fd))
}
