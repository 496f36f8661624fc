package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/term"
	"golang.org/x/sys/unix"
)

// ErrDetached tells that the user has left a container that goes on.
var ErrDetached = errors.New("detached from the container")

// DefaultDetachKeys leave a container: Ctrl-P Ctrl-Q.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys reads what --detach-keys takes: characters and ctrl-X, with commas between.
func ParseDetachKeys(s string) ([]byte, error) {
	keys, err := term.ToBytes(s)
	if err != nil {
		return nil, fmt.Errorf("invalid detach keys (%s): %w", s, err)
	}
	return keys, nil
}

// session connects this process's streams to those of a container that another process supervises.
type session struct {
	engine   *Engine
	id       string
	attach   *Attach
	mux      *muxConn
	input    *input // nil without one
	restore  func() // of the terminal
	cancel   context.CancelFunc
	relay    *relay
	detached chan struct{} // closed when the user has typed the keys
	over     chan struct{} // closed when there is no more output
	done     sync.WaitGroup

	mu  sync.Mutex
	err error // of this host's side
}

// openSession attaches. The container has a terminal if terminal says so.
func (e *Engine) openSession(ctx context.Context, id string, terminal bool, a *Attach, keys []byte) (_ *session, err error) {
	conn, err := e.dialControl(ctx, id, request{Op: opAttach, Attach: &attachRequest{
		Stdin: a.Stdin != nil, Stdout: a.Stdout != nil, Stderr: a.Stderr != nil,
	}})
	if err != nil {
		return nil, err
	}
	if _, err := readAnswer(ctx, id, conn); err != nil {
		conn.Close()
		return nil, err
	}
	s := &session{
		engine: e, id: id, attach: a, mux: newMuxConn(conn), restore: func() {},
		detached: make(chan struct{}), over: make(chan struct{}),
	}
	ctx, s.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			s.cancel()
			conn.Close()
		}
	}()
	if terminal && isTerminal(a.Stdin) {
		if s.restore, err = makeRaw(a.Stdin); err != nil {
			return nil, err
		}
	}
	if a.Stdin != nil {
		if s.input, err = newInput(a.Stdin); err != nil {
			s.restore()
			return nil, err
		}
		if !terminal {
			keys = nil
		}
		s.done.Go(func() { s.send(keys) })
	}
	s.done.Go(s.receive)
	s.relay = startRelay(ctx, a.Signals, func(signal unix.Signal) { s.signal(ctx, signal) })
	return s, nil
}

// send passes the input on, until its end or the keys.
func (s *session) send(keys []byte) {
	in := io.Reader(s.input)
	if len(keys) > 0 {
		in = term.NewEscapeProxy(in, keys)
	}
	buf := make([]byte, pumpBuffer)
	for {
		n, err := in.Read(buf)
		if n > 0 && s.mux.send(muxStdin, buf[:n]) != nil {
			return // the container has ended
		}
		var escape term.EscapeError
		switch {
		case errors.As(err, &escape):
			close(s.detached)
			return
		case errors.Is(err, errCanceled):
			return
		case err == io.EOF:
			_ = s.mux.send(muxStdin, nil)
			return
		case err != nil:
			s.fail(fmt.Errorf("reading the workload's input: %w", err))
			return
		}
	}
}

// receive passes output on to its end.
func (s *session) receive() {
	defer close(s.over)
	buf := make([]byte, muxMost)
	for {
		kind, p, err := s.mux.receive(buf)
		if errors.Is(err, errBadMux) {
			s.fail(err)
		}
		if err != nil {
			return // the end, of which others tell more
		}
		w := s.attach.Stdout
		if kind == muxStderr {
			w = s.attach.Stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(p); err != nil {
			s.fail(fmt.Errorf("writing the workload's output: %w", err))
			return
		}
	}
}

// signal passes a signal on, or the terminal's new size. A failure means that the container has ended.
func (s *session) signal(ctx context.Context, signal unix.Signal) {
	ctx, cancel := context.WithTimeout(ctx, relayPatience)
	defer cancel()
	if signal != unix.SIGWINCH {
		_, _ = s.engine.ask(ctx, s.id, request{Op: opSignal, Signal: int(signal)})
		return
	}
	s.resize(ctx)
}

// resize gives the container's terminal the size of this one.
func (s *session) resize(ctx context.Context) {
	if s.attach.Terminal == nil {
		return
	}
	if rows, cols, ok := s.attach.size(); ok {
		_, _ = s.engine.ask(ctx, s.id, request{Op: opResize, Rows: rows, Cols: cols})
	}
}

func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// failure is what went wrong on this side. That a reader has gone away is nothing wrong.
func (s *session) failure() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.err, unix.EPIPE) {
		return nil
	}
	return s.err
}

// drain waits for the last of the output of a container that has ended.
func (s *session) drain(ctx context.Context) {
	if s == nil {
		return
	}
	select {
	case <-s.over:
	case <-ctx.Done():
	}
}

// close lets go of the container, and gives the terminal back.
func (s *session) close() {
	if s == nil {
		return
	}
	s.cancel()
	s.relay.wait()
	if s.input != nil {
		s.input.Cancel()
	}
	s.mux.conn.Close()
	s.done.Wait()
	if s.input != nil {
		s.input.Close()
	}
	s.restore()
}

// AttachOptions say how to attach to a container that runs.
type AttachOptions struct {
	Attach     Attach
	DetachKeys []byte // typed in a terminal, they detach; empty: nothing does
}

// Attach connects this process's streams to a running container's until that ends, and returns how, or until the user
// detaches, which the error says then.
func (e *Engine) Attach(ctx context.Context, ref string, o AttachOptions) (Exit, error) {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return Exit{}, err
	}
	switch {
	case r.State.Status == StatusPaused:
		return Exit{}, errors.New("you cannot attach to a paused container, unpause it first")
	case r.State.Status == StatusRestarting:
		return Exit{}, errors.New("you cannot attach to a restarting container, wait until it is running")
	case r.State.Status != StatusRunning:
		return Exit{}, errors.New("you cannot attach to a stopped container, start it first")
	}
	if !r.Config.OpenStdin {
		o.Attach.Stdin = nil
	}
	// Before attaching: then the end cannot be missed.
	conn, err := e.dialControl(ctx, r.ID, request{Op: opWait, Next: true})
	if err != nil {
		return Exit{}, err
	}
	defer conn.Close()
	s, err := e.openSession(ctx, r.ID, r.Config.Terminal, &o.Attach, o.DetachKeys)
	if err != nil {
		return Exit{}, err
	}
	defer s.close()
	s.resize(ctx)
	type ended struct {
		answer answer
		err    error
	}
	end := make(chan ended, 1)
	go func() {
		a, err := readAnswer(ctx, r.ID, conn)
		end <- ended{a, err}
	}()
	select {
	case <-s.detached:
		e.emit(r, "detach", nil)
		return Exit{}, ErrDetached
	case last := <-end:
		s.drain(ctx)
		if last.err == nil && last.answer.Exit != nil {
			return *last.answer.Exit, s.failure()
		}
		return e.lastExit(ctx, r.ID, last.err)
	}
}

// lastExit is how a container ended whose supervisor could not say: it was killed.
func (e *Engine) lastExit(ctx context.Context, id string, err error) (Exit, error) {
	if ctx.Err() != nil {
		return Exit{}, context.Cause(ctx)
	}
	r, getErr := e.Get(ctx, id)
	if getErr != nil || r.State.Alive() {
		return Exit{}, errors.Join(err, getErr)
	}
	return Exit{Code: r.State.ExitCode, OOMKilled: r.State.OOMKilled}, nil
}
