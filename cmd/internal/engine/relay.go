package engine

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// InterruptedError tells that a signal to this process ended the work before
// there was a workload to pass it on to.
type InterruptedError struct {
	Signal unix.Signal
}

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("interrupted by signal %d (%s)", int(e.Signal), unix.SignalName(e.Signal))
}

// relay takes the signals of this process and does with them what is right at
// the time: before the workload runs and after it has ended they end the work,
// in between they are the workload's.
type relay struct {
	mu      sync.Mutex
	deliver func(unix.Signal)
	done    sync.WaitGroup
}

// startRelay begins to take signals, until ctx ends; wait then returns.
func startRelay(ctx context.Context, signals <-chan os.Signal, deliver func(unix.Signal)) *relay {
	r := &relay{deliver: deliver}
	r.done.Go(func() {
		for {
			select {
			case s := <-signals:
				if signal, ok := s.(unix.Signal); ok {
					r.handler()(signal)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return r
}

func (r *relay) wait() { r.done.Wait() }

func (r *relay) handler() func(unix.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deliver
}

// switchTo changes what is done with the signals that come from now on.
func (r *relay) switchTo(deliver func(unix.Signal)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliver = deliver
}

// interrupt returns a handler that cancels when a signal is one that ends
// programs.
func interrupt(cancel context.CancelCauseFunc) func(unix.Signal) {
	return func(s unix.Signal) {
		switch s {
		case unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT:
			cancel(&InterruptedError{Signal: s})
		}
	}
}

// relayPatience is how long the agent may take to answer for a signal.
const relayPatience = 5 * time.Second

// forward returns a handler that passes signals to a process in the guest, and
// the terminal's new size for SIGWINCH.
func forward(ctx context.Context, client *proto.Client, process string, terminal *os.File) func(unix.Signal) {
	return func(s unix.Signal) {
		ctx, cancel := context.WithTimeout(ctx, relayPatience)
		defer cancel()
		// A failure means that the process, the guest or its agent is gone or
		// stuck; whoever waits for the process learns of it.
		if s == unix.SIGWINCH {
			_ = resize(ctx, client, process, terminal)
			return
		}
		_ = client.Signal(ctx, process, int(s))
	}
}

// resize gives a process's terminal the size of this host's.
func resize(ctx context.Context, client *proto.Client, process string, terminal *os.File) error {
	if terminal == nil {
		return nil
	}
	rows, cols, err := terminalSize(terminal)
	if err != nil {
		return err
	}
	return client.Resize(ctx, process, rows, cols)
}

// Forwardable lists the signals that a front end should take and hand to
// [Attach]: all that a process can catch but those about this process's own
// affairs, which are its children, its pipes, its job control and Go's scheduler.
func Forwardable() []os.Signal {
	var list []os.Signal
	for n := unix.Signal(1); n < 32; n++ {
		switch n {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG,
			unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGPROF:
			continue
		}
		list = append(list, n)
	}
	return list
}
