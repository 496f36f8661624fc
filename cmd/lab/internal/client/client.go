// Package client is the near end of a command in the lab: it connects this
// process's stdin, stdout, stderr, terminal and signals with a stream to the machine.
package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// ErrLost is wrapped by the error of a stream that ended before the command did.
var ErrLost = errors.New("lab: connection to the machine lost")

// ErrTimeout is the error of a command that ran longer than it may.
var ErrTimeout = errors.New("lab: command timed out")

// killAfter is how long a command that timed out has to heed SIGTERM.
const killAfter = 2 * time.Second

// A Client is this end's stdin, stdout and stderr. It may run its command again
// on another machine, if it has not given away too much of stdin to repeat it.
type Client struct {
	Out, Err io.Writer
	// Terminal is the terminal to be connected, nil to use pipes.
	Terminal *os.File
	// Signals to pass on. A window change is a new size, any other a signal.
	Signals <-chan os.Signal
	// Timeout is how long the command may run; 0 for ever.
	Timeout time.Duration

	input input
}

// New returns a client that reads stdin from in, once a command runs.
func New(in io.Reader) *Client {
	return &Client{input: input{from: in, chunks: make(chan []byte)}}
}

// CanRepeat tells whether Run may be called again and give the command the same input.
func (c *Client) CanRepeat() bool { return c.input.canRepeat() }

// Run asks for a command on a new stream and passes input, output and signals
// until it has ended. The caller closes the stream.
func (c *Client) Run(ctx context.Context, stream io.ReadWriter, request wire.Request) (wire.Exit, error) {
	if c.Terminal != nil {
		size := wire.Size{Rows: 24, Cols: 80}
		if cols, rows, err := term.GetSize(int(c.Terminal.Fd())); err == nil {
			size = wire.Size{Rows: uint16(rows), Cols: uint16(cols)}
		}
		request.Terminal = &size
	}
	if err := wire.WriteJSON(stream, wire.KindRequest, request); err != nil {
		return wire.Exit{}, fmt.Errorf("%w: %w", ErrLost, err)
	}

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	exit := make(chan result, 1)
	go func() { exit <- c.output(stream) }()
	wg.Go(func() { c.input.send(ctx, stream) })

	var timeout, kill <-chan time.Time
	if c.Timeout > 0 {
		t := time.NewTimer(c.Timeout)
		defer t.Stop()
		timeout = t.C
	}
	for {
		select {
		case r := <-exit:
			if r.err == nil && kill != nil {
				r.err = ErrTimeout
			}
			return r.exit, r.err
		case s := <-c.Signals:
			c.pass(stream, s)
		case <-timeout:
			_ = wire.Write(stream, wire.KindSignal, []byte{byte(syscall.SIGTERM)})
			kill = time.After(killAfter)
		case <-kill:
			return wire.Exit{}, ErrTimeout
		case <-ctx.Done():
			return wire.Exit{}, ctx.Err()
		}
	}
}

// pass sends a signal, or a size, to the command.
func (c *Client) pass(stream io.Writer, s os.Signal) {
	if s == syscall.SIGWINCH {
		if c.Terminal == nil {
			return
		}
		if cols, rows, err := term.GetSize(int(c.Terminal.Fd())); err == nil {
			_ = wire.WriteJSON(stream, wire.KindResize, wire.Size{Rows: uint16(rows), Cols: uint16(cols)})
		}
		return
	}
	if n, ok := s.(syscall.Signal); ok {
		_ = wire.Write(stream, wire.KindSignal, []byte{byte(n)})
	}
}

type result struct {
	exit wire.Exit
	err  error
}

// output writes what the command writes, until its end.
func (c *Client) output(stream io.Reader) result {
	r := bufio.NewReaderSize(stream, 2*wire.Chunk)
	for {
		kind, payload, err := wire.Read(r)
		if err != nil {
			return result{err: fmt.Errorf("%w: %w", ErrLost, err)}
		}
		switch kind {
		case wire.KindOutput:
			_, err = c.Out.Write(payload)
		case wire.KindErrors:
			_, err = c.Err.Write(payload)
		case wire.KindExit:
			var exit wire.Exit
			if err := json.Unmarshal(payload, &exit); err != nil {
				return result{err: fmt.Errorf("%w: exit: %w", ErrLost, err)}
			}
			return result{exit: exit}
		}
		if err != nil {
			return result{err: fmt.Errorf("lab: writing the command's output: %w", err)}
		}
	}
}
