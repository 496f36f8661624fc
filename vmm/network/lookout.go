package network

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// lookout tells of a descriptor that becomes readable after it was found empty.
type lookout struct {
	fd    int
	again chan struct{} // the descriptor is empty: look out for more

	mu   sync.Mutex
	stop *os.File // closing it ends the look-out
	done chan struct{}
}

func newLookout(fd int) lookout { return lookout{fd: fd, again: make(chan struct{}, 1)} }

// begin calls ready from a goroutine of its own until end.
func (l *lookout) begin(ready func()) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("looking out for frames: %w", err)
	}
	l.mu.Lock()
	l.stop, l.done = w, make(chan struct{})
	done := l.done
	l.mu.Unlock()
	go func() {
		defer close(done)
		defer r.Close()
		l.watch(int(r.Fd()), ready)
	}()
	return nil
}

// end returns when ready is not called any more.
func (l *lookout) end() {
	l.mu.Lock()
	stop, done := l.stop, l.done
	l.stop = nil
	l.mu.Unlock()
	if stop == nil {
		return
	}
	stop.Close()
	l.rearm()
	<-done
}

// rearm says that the descriptor was found empty.
func (l *lookout) rearm() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// watch calls ready each time that the descriptor becomes readable after it was found empty.
func (l *lookout) watch(stop int, ready func()) {
	for {
		fds := [2]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds[:], -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents == 0 {
			continue
		}
		// Who found it empty before this may have asked already: then ready comes once too often, which is harmless.
		ready()
		<-l.again
	}
}
