package proto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrClosed is wrapped by the errors of a [Client] whose connection has ended.
var ErrClosed = errors.New("connection to the guest agent is closed")

// Client is the host's end of one control connection. Its methods may be called
// from any goroutine. All its own goroutines have ended when Close returns.
//
// Nothing that the guest does makes it panic, wait beyond the caller's context or hold
// more memory than the caller's own requests call for.
type Client struct {
	conn    io.ReadWriteCloser
	hello   Hello
	onEvent func(Message)
	done    chan struct{} // closed by the reader, last

	writing chan struct{} // holds a token while a frame is written

	mu    sync.Mutex
	next  uint64           // last request ID given out
	calls map[uint64]*call // requests with an answer outstanding
	err   error            // why no further call can be made
}

// call is a request in flight.
type call struct {
	first  chan Message  // cap 1: the first answer
	exited chan struct{} // closed when exit is set, for start, exec and wait
	exit   Exited
	seen   bool // the first answer has come; guarded by Client.mu
}

// Dial takes a fresh control connection into use: it reads the agent's hello and
// checks the versions. When it fails, or ctx ends before the hello has come, it closes conn.
//
// onEvent, if not nil, is called with each event (see the package comment) on the goroutine that
// reads the connection; it must not block nor call the client.
func Dial(ctx context.Context, conn io.ReadWriteCloser, onEvent func(Message)) (*Client, error) {
	hello, err := readHello(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("greeting the guest agent: %w", err)
	}
	c := &Client{
		conn:    conn,
		hello:   *hello,
		onEvent: onEvent,
		done:    make(chan struct{}),
		writing: make(chan struct{}, 1),
		calls:   make(map[uint64]*call),
	}
	go c.read()
	return c, nil
}

func readHello(ctx context.Context, conn io.ReadWriteCloser) (*Hello, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	var m Message
	err := ReadFrame(conn, &m)
	if !stop() {
		return nil, ctx.Err()
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	case m.Type != TypeHello || m.Hello == nil:
		return nil, fmt.Errorf("first message is %q, not a hello", m.Type)
	}
	return m.Hello, m.Hello.Check()
}

// Hello returns what the agent said of itself.
func (c *Client) Hello() Hello { return c.hello }

// Done is closed when the connection has ended, whoever ended it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why the connection ended: nil while it has not, an error that wraps [ErrClosed] after.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and returns when the client's goroutines have ended.
// Calls in flight fail with ErrClosed.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	c.writing <- struct{}{} // whoever was writing has stopped
	<-c.writing
	return err
}

// Process is a process that the client has started.
type Process struct {
	Started
	client *Client
	call   *call
}

// Start starts the main process. The error is an [*Error] when the agent refused.
func (c *Client) Start(ctx context.Context, s *Start) (*Process, error) {
	return c.launch(ctx, Message{Type: TypeStart, Start: s}, s.Process)
}

// Exec starts a further process beside the main one.
func (c *Client) Exec(ctx context.Context, process string, spec *specs.Process, streams ...string) (*Process, error) {
	return c.launch(ctx, Message{Type: TypeExec, Exec: &Exec{Process: process, Spec: spec, Streams: streams}}, process)
}

func (c *Client) launch(ctx context.Context, m Message, process string) (*Process, error) {
	call, answer, err := c.request(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("starting process %q: %w", process, err)
	}
	if answer.Type != TypeStarted || answer.Started == nil {
		return nil, fmt.Errorf("starting process %q: unexpected answer %q", process, answer.Type)
	}
	return &Process{Started: *answer.Started, client: c, call: call}, nil
}

// Wait waits for the end of the process, of ctx or of the connection.
func (p *Process) Wait(ctx context.Context) (Exited, error) {
	exit, err := p.client.await(ctx, p.call)
	if err != nil {
		return Exited{}, fmt.Errorf("waiting for process %q: %w", p.Process, err)
	}
	return exit, nil
}

// Wait waits for the end of a process by name, whoever started it.
func (c *Client) Wait(ctx context.Context, process string) (Exited, error) {
	call, answer, err := c.request(ctx, Message{Type: TypeWait, Wait: &Wait{Process: process}})
	if err == nil && answer.Type != TypeExited {
		err = fmt.Errorf("unexpected answer %q", answer.Type)
	}
	if err != nil {
		return Exited{}, fmt.Errorf("waiting for process %q: %w", process, err)
	}
	return call.exit, nil
}

// Signal sends a signal, by its Linux number, to the named process.
func (c *Client) Signal(ctx context.Context, process string, signal int) error {
	m := Message{Type: TypeSignal, Signal: &Signal{Process: process, Signal: signal}}
	if _, _, err := c.request(ctx, m); err != nil {
		return fmt.Errorf("sending signal %d to process %q: %w", signal, process, err)
	}
	return nil
}

// SignalAll sends a signal to every process of the container.
func (c *Client) SignalAll(ctx context.Context, signal int) error {
	m := Message{Type: TypeSignal, Signal: &Signal{Process: InitProcess, Signal: signal, All: true}}
	if _, _, err := c.request(ctx, m); err != nil {
		return fmt.Errorf("sending signal %d to all processes: %w", signal, err)
	}
	return nil
}

// Resize sets the size of a process's terminal, in characters.
func (c *Client) Resize(ctx context.Context, process string, rows, cols uint16) error {
	m := Message{Type: TypeResize, Resize: &Resize{Process: process, Rows: rows, Cols: cols}}
	if _, _, err := c.request(ctx, m); err != nil {
		return fmt.Errorf("resizing the terminal of process %q: %w", process, err)
	}
	return nil
}

// Shutdown asks the guest to power off in order. It returns when the agent has
// answered; a connection that ends instead is as good an answer.
func (c *Client) Shutdown(ctx context.Context) error {
	_, _, err := c.request(ctx, Message{Type: TypeShutdown})
	if err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("shutting the guest down: %w", err)
	}
	return nil
}

// request sends m with a new ID and waits for the first answer.
func (c *Client) request(ctx context.Context, m Message) (*call, Message, error) {
	call := &call{first: make(chan Message, 1), exited: make(chan struct{})}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, Message{}, c.err
	}
	c.next++
	m.ID = c.next
	c.calls[m.ID] = call
	c.mu.Unlock()

	if err := c.write(ctx, m); err != nil {
		c.forget(m.ID)
		return nil, Message{}, err
	}
	select {
	case answer := <-call.first:
		if answer.Type == TypeError {
			if answer.Error == nil {
				return nil, Message{}, &Error{Code: CodeIO, Message: "guest agent reports an error without saying which"}
			}
			return nil, Message{}, answer.Error
		}
		return call, answer, nil
	case <-ctx.Done():
		c.forget(m.ID)
		return nil, Message{}, ctx.Err()
	case <-c.done:
		// An answer may have come with the connection's last bytes.
		select {
		case answer := <-call.first:
			if answer.Type == TypeError && answer.Error != nil {
				return nil, Message{}, answer.Error
			}
			return call, answer, nil
		default:
		}
		return nil, Message{}, c.Err()
	}
}

// write sends one frame. It returns early when ctx or the connection ends; the
// frame still goes out whole, should the guest read on, so that the connection stays good.
func (c *Client) write(ctx context.Context, m Message) error {
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.Err()
	}
	result := make(chan error, 1)
	go func() {
		result <- WriteFrame(c.conn, m)
		<-c.writing
	}()
	select {
	case err := <-result:
		if err != nil && !errors.Is(err, ErrFrameSize) {
			return fmt.Errorf("%w: %w", ErrClosed, err)
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.Err()
	}
}

func (c *Client) await(ctx context.Context, call *call) (Exited, error) {
	select {
	case <-call.exited:
		return call.exit, nil
	case <-ctx.Done():
		return Exited{}, ctx.Err()
	case <-c.done:
		select {
		case <-call.exited:
			return call.exit, nil
		default:
			return Exited{}, c.Err()
		}
	}
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	delete(c.calls, id)
	c.mu.Unlock()
}

// read is the client's goroutine: it hands out what comes, until the connection ends.
func (c *Client) read() {
	defer close(c.done)
	defer c.conn.Close()
	for {
		var m Message
		err := ReadFrame(c.conn, &m)
		if err == nil {
			err = c.dispatch(m)
		}
		if err != nil {
			c.mu.Lock()
			c.err = fmt.Errorf("%w: %w", ErrClosed, err)
			c.calls = nil
			c.mu.Unlock()
			return
		}
	}
}

// dispatch hands a message to whom it belongs. An error ends the connection.
func (c *Client) dispatch(m Message) error {
	if m.ID == 0 {
		if c.onEvent != nil {
			c.onEvent(m)
		}
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.calls[m.ID]
	if call == nil {
		return nil // its caller has given up
	}
	if m.Type == TypeExited && m.Exited == nil {
		return fmt.Errorf("answer %d of the guest agent says that a process has ended but not how", m.ID)
	}
	if call.seen && m.Type != TypeExited {
		return fmt.Errorf("guest agent answers request %d twice", m.ID)
	}
	if m.Type == TypeExited {
		call.exit = *m.Exited
		close(call.exited)
	}
	if !call.seen {
		call.seen = true
		call.first <- m
	}
	if m.Type != TypeStarted {
		delete(c.calls, m.ID)
	}
	return nil
}

// OpenStream writes the head of a stream connection; from then on w carries the
// stream's bytes.
func OpenStream(w io.Writer, process, stream string) error {
	if err := WriteFrame(w, StreamHeader{Process: process, Stream: stream}); err != nil {
		return fmt.Errorf("opening %s of process %q: %w", stream, process, err)
	}
	return nil
}
