package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// Attach says what is at this end of a container's streams.
type Attach struct {
	Stdin  *os.File  // nil: the workload reads an empty input
	Stdout io.Writer // nil: thrown away
	Stderr io.Writer // nil: thrown away; unused with a terminal

	// Terminal is the user's terminal, whose size the workload's follows;
	// nil if there is none.
	Terminal *os.File

	// Signals brings what is to be passed on to the workload, SIGWINCH for a
	// new size of Terminal. May be nil.
	Signals <-chan os.Signal

	// Note is told what the user must know while the container runs. May be nil.
	Note func(text string)

	// rows and cols are the size of a terminal that another process has.
	rows, cols uint16
	// ready, if not nil, is closed when the workload may be started.
	ready <-chan struct{}
	// started, if not nil, is called when the workload runs.
	started func()
}

// size is that of the terminal at this end, if there is one.
func (a *Attach) size() (rows, cols uint16, ok bool) {
	if a.Terminal == nil {
		return a.rows, a.cols, a.rows != 0
	}
	rows, cols, err := terminalSize(a.Terminal)
	return rows, cols, err == nil
}

// wait waits until the workload may be started.
func (a *Attach) wait(ctx context.Context) error {
	if a.ready == nil {
		return nil
	}
	select {
	case <-a.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *Attach) hasStarted() {
	if a.started != nil {
		a.started()
	}
}

// names lists the streams of a process with these ends.
func (a *Attach) names(terminal bool) []string {
	if terminal {
		return []string{proto.StreamTerminal}
	}
	var names []string
	if a.Stdin != nil {
		names = append(names, proto.StreamStdin)
	}
	return append(names, proto.StreamStdout, proto.StreamStderr)
}

// pumps carries the bytes of one process's streams, one goroutine for each
// direction. A snapshot has them let go of the guest and go on with it, or with
// another one (identity.go).
type pumps struct {
	process string
	attach  *Attach
	names   []string
	in      sync.WaitGroup
	out     sync.WaitGroup // what may still bring output

	received atomic.Int64 // counts what has come from the guest, in reads
	writing  atomic.Int64 // pumps that wait for this host's side to take output

	mu        sync.Mutex
	err       error // first failure of this host's side
	link      *link
	inputOver bool // the input is at its end, and the guest has been told
	detached  bool
	closed    bool
}

// link is the way to a guest.
type link struct {
	input *input // nil without one
	conns map[string]*net.UnixConn
	in    sync.WaitGroup
	out   sync.WaitGroup
}

func (l *link) close() {
	if l.input != nil {
		l.input.Cancel()
	}
	for _, c := range l.conns {
		c.Close()
	}
}

// connect opens the streams of a process and starts to pump.
func connect(ctx context.Context, socket, process string, terminal bool, a *Attach) (*pumps, error) {
	p := &pumps{process: process, attach: a, names: a.names(terminal)}
	return p, p.open(ctx, socket, p.names)
}

// open starts to pump over new connections.
func (p *pumps) open(ctx context.Context, socket string, names []string) (err error) {
	l := &link{conns: make(map[string]*net.UnixConn)}
	defer func() {
		if err != nil {
			l.close()
			if l.input != nil {
				l.input.Close()
			}
		}
	}()
	if p.attach.Stdin != nil {
		if l.input, err = newInput(p.attach.Stdin); err != nil {
			return err
		}
	}
	for _, name := range names {
		if l.conns[name], err = openStream(ctx, socket, p.process, name); err != nil {
			delete(l.conns, name)
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.link = l
	for name, conn := range l.conns {
		if name == proto.StreamStdin || name == proto.StreamTerminal {
			p.start(&p.in, &l.in, func() { p.send(l, conn) })
		}
		switch name {
		case proto.StreamStdout, proto.StreamTerminal:
			p.start(&p.out, &l.out, func() { p.receive(conn, p.attach.Stdout) })
		case proto.StreamStderr:
			p.start(&p.out, &l.out, func() { p.receive(conn, p.attach.Stderr) })
		}
	}
	return nil
}

// start starts a pump of the process and of the link.
func (p *pumps) start(process, link *sync.WaitGroup, pump func()) {
	process.Add(1)
	link.Go(func() {
		defer process.Done()
		pump()
	})
}

// pumpBuffer is how much one pump moves at a time, in bytes. The loops below do
// what io.Copy does, without its shortcuts: splice(2) on a file that somebody
// else has made non-blocking fails in the middle.
const pumpBuffer = 64 << 10

// send passes the input on. Its end shuts down this direction only.
func (p *pumps) send(l *link, conn *net.UnixConn) {
	if l.input == nil && !p.hasInputEnded() {
		return // a terminal that nobody types at
	}
	defer conn.CloseWrite()
	if p.hasInputEnded() {
		return
	}
	buf := make([]byte, pumpBuffer)
	for {
		n, err := l.input.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return // the workload has closed its end, or is gone
			}
		}
		switch {
		case errors.Is(err, errCanceled):
			return
		case err == io.EOF:
			p.inputEnded()
			return
		case err != nil:
			p.inputEnded()
			p.fail(fmt.Errorf("reading the workload's input: %w", err))
			return
		}
	}
}

// receive passes output on. When nobody wants it any more the stream is closed,
// so that the workload learns of it, as it would from a closed pipe.
func (p *pumps) receive(conn *net.UnixConn, w io.Writer) {
	if w == nil {
		w = io.Discard
	}
	buf := make([]byte, pumpBuffer)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			p.received.Add(1)
			p.writing.Add(1)
			_, err := w.Write(buf[:n])
			p.writing.Add(-1)
			if err != nil {
				p.fail(fmt.Errorf("writing the workload's output: %w", err))
				conn.Close()
				return
			}
		}
		if err != nil {
			return // its end, or that of the VM, of which others will tell
		}
	}
}

func (p *pumps) inputEnded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inputOver = true
}

func (p *pumps) hasInputEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inputOver
}

func (p *pumps) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

// failure is the first thing that went wrong on this host's side. That a reader
// has gone away is nothing wrong.
func (p *pumps) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(p.err, unix.EPIPE) {
		return nil
	}
	return p.err
}

// drainPatience is how long the guest may keep silent about the output of a
// workload that has ended. Whoever reads it here may take any time.
const drainPatience = 10 * time.Second

// drain waits until all output has come through.
func (p *pumps) drain(ctx context.Context) error {
	end := make(chan struct{})
	go func() {
		p.out.Wait()
		close(end)
	}()
	tick := time.NewTicker(drainPatience)
	defer tick.Stop()
	for seen := int64(-1); ; {
		select {
		case <-end:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			now := p.received.Load()
			if now == seen && p.writing.Load() == 0 {
				return fmt.Errorf("the guest holds back output of a workload that has ended")
			}
			seen = now
		}
	}
}

// close ends all pumps and returns when they have ended. Only one that sleeps in
// a write to a file of this host, such as a pipe that nobody empties, cannot be
// called back: it ends with this process.
func (p *pumps) close() {
	p.mu.Lock()
	l := p.link
	p.closed = true
	if p.detached {
		p.detached = false
		p.out.Done()
	}
	p.mu.Unlock()
	l.close()
	p.in.Wait()
	if p.writing.Load() == 0 {
		p.out.Wait()
	}
	if l.input != nil {
		l.input.Close()
	}
}
