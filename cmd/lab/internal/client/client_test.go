package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// server plays the machine on one connection.
func server(t *testing.T, serve func(conn net.Conn)) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		serve(far)
	}()
	t.Cleanup(func() { near.Close(); <-done })
	return near
}

// input reads frames until the end of input.
func readInput(t *testing.T, conn net.Conn) string {
	t.Helper()
	var got bytes.Buffer
	for {
		kind, payload, err := wire.Read(conn)
		if err != nil {
			t.Error(err)
			return ""
		}
		switch kind {
		case wire.KindInput:
			got.Write(payload)
		case wire.KindInputEnd:
			return got.String()
		}
	}
}

func request(t *testing.T, conn net.Conn) *wire.Request {
	t.Helper()
	kind, payload, err := wire.Read(conn)
	if err != nil || kind != wire.KindRequest {
		t.Errorf("want a request: kind %d, %v", kind, err)
		return &wire.Request{}
	}
	r, err := wire.ReadRequest(payload)
	if err != nil {
		t.Error(err)
		return &wire.Request{}
	}
	return r
}

func TestRun(t *testing.T) {
	conn := server(t, func(conn net.Conn) {
		r := request(t, conn)
		in := readInput(t, conn)
		wire.Write(conn, wire.KindErrors, []byte(r.Command[0]))
		wire.Write(conn, wire.KindOutput, []byte(in))
		wire.WriteJSON(conn, wire.KindExit, wire.Exit{Status: 7})
	})
	var out, errs strings.Builder
	c := New(strings.NewReader("in"))
	c.Out, c.Err = &out, &errs
	exit, err := c.Run(t.Context(), conn, wire.Request{Command: []string{"cat"}})
	if err != nil || exit.Status != 7 || out.String() != "in" || errs.String() != "cat" {
		t.Errorf("%+v, %v, out %q, err %q", exit, err, out.String(), errs.String())
	}
}

func TestLostMachineAndRepeat(t *testing.T) {
	for _, size := range []int{10, maxRepeat, maxRepeat + 1} {
		in := strings.Repeat("i", size)
		c := New(strings.NewReader(in))
		c.Out, c.Err = io.Discard, io.Discard
		lost := server(t, func(conn net.Conn) {
			request(t, conn)
			readInput(t, conn)
		})
		if _, err := c.Run(t.Context(), lost, wire.Request{Command: []string{"cat"}}); !errors.Is(err, ErrLost) {
			t.Fatalf("%v", err)
		}
		if c.CanRepeat() != (size <= maxRepeat) {
			t.Errorf("after %d bytes: CanRepeat is %v", size, c.CanRepeat())
		}
		if !c.CanRepeat() {
			continue
		}
		again := server(t, func(conn net.Conn) {
			request(t, conn)
			if got := readInput(t, conn); got != in {
				t.Errorf("second machine got %d bytes of %d", len(got), size)
			}
			wire.WriteJSON(conn, wire.KindExit, wire.Exit{})
		})
		if _, err := c.Run(t.Context(), again, wire.Request{Command: []string{"cat"}}); err != nil {
			t.Error(err)
		}
	}
}

// TestInputSurvivesMachine: bytes that were read while no machine was there to
// take them reach the next.
func TestInputSurvivesMachine(t *testing.T) {
	r, w := io.Pipe()
	c := New(r)
	c.Out, c.Err = io.Discard, io.Discard
	lost := server(t, func(conn net.Conn) { request(t, conn) })
	if _, err := c.Run(t.Context(), lost, wire.Request{Command: []string{"cat"}}); !errors.Is(err, ErrLost) {
		t.Fatalf("%v", err)
	}
	go func() {
		io.WriteString(w, "late")
		w.Close()
	}()
	again := server(t, func(conn net.Conn) {
		request(t, conn)
		if got := readInput(t, conn); got != "late" {
			t.Errorf("got %q", got)
		}
		wire.WriteJSON(conn, wire.KindExit, wire.Exit{})
	})
	if _, err := c.Run(t.Context(), again, wire.Request{Command: []string{"cat"}}); err != nil {
		t.Error(err)
	}
}

func TestSignals(t *testing.T) {
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGWINCH // no terminal: nobody's business
	signals <- syscall.SIGTERM
	conn := server(t, func(conn net.Conn) {
		request(t, conn)
		for {
			kind, payload, err := wire.Read(conn)
			if err != nil {
				t.Error(err)
				return
			}
			if kind == wire.KindSignal {
				wire.WriteJSON(conn, wire.KindExit, wire.Exit{Status: 128 + int(payload[0])})
				return
			}
		}
	})
	c := New(strings.NewReader(""))
	c.Signals = signals
	exit, err := c.Run(t.Context(), conn, wire.Request{Command: []string{"sleep"}})
	if err != nil || exit.Status != 128+15 {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestTimeout(t *testing.T) {
	signalled := make(chan struct{})
	conn := server(t, func(conn net.Conn) {
		request(t, conn)
		for {
			kind, _, err := wire.Read(conn)
			if err != nil {
				return
			}
			if kind == wire.KindSignal {
				close(signalled)
				wire.WriteJSON(conn, wire.KindExit, wire.Exit{Status: 143})
			}
		}
	})
	c := New(strings.NewReader(""))
	c.Timeout = time.Millisecond
	if _, err := c.Run(t.Context(), conn, wire.Request{Command: []string{"sleep"}}); !errors.Is(err, ErrTimeout) {
		t.Errorf("%v", err)
	}
	<-signalled
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	conn := server(t, func(conn net.Conn) {
		request(t, conn)
		cancel()
		io.Copy(io.Discard, conn)
	})
	if _, err := New(strings.NewReader("")).Run(ctx, conn, wire.Request{Command: []string{"sleep"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestOutputNobodyTakes(t *testing.T) {
	conn := server(t, func(conn net.Conn) {
		request(t, conn)
		go io.Copy(io.Discard, conn)
		for wire.Write(conn, wire.KindOutput, []byte("y\n")) == nil {
		}
	})
	c := New(strings.NewReader(""))
	c.Out = broken{}
	if _, err := c.Run(t.Context(), conn, wire.Request{Command: []string{"yes"}}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
	conn.Close()
}
