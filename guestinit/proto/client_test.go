package proto

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is the other end of a client, driven by the test.
type agent struct {
	t    *testing.T
	conn net.Conn
}

func (a *agent) send(m Message) {
	a.t.Helper()
	if err := WriteFrame(a.conn, m); err != nil {
		a.t.Errorf("agent: %v", err)
	}
}

func (a *agent) receive() Message {
	a.t.Helper()
	var m Message
	if err := ReadFrame(a.conn, &m); err != nil {
		a.t.Errorf("agent: %v", err)
	}
	return m
}

var goodHello = Message{Type: TypeHello, Hello: &Hello{Version: Version, MinVersion: MinVersion, Kernel: "6.12"}}

// connect returns a greeted client, with script as the agent.
func connect(t *testing.T, onEvent func(Message), script func(*agent)) *Client {
	t.Helper()
	host, guest := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		a := &agent{t, guest}
		a.send(goodHello)
		script(a)
	})
	c, err := Dial(t.Context(), host, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		guest.Close()
		wg.Wait()
	})
	return c
}

func TestClientProcess(t *testing.T) {
	c := connect(t, nil, func(a *agent) {
		m := a.receive()
		if m.Type != TypeStart || m.Start.Process != InitProcess || m.ID == 0 {
			t.Errorf("agent got %+v", m)
		}
		a.send(Message{Type: TypeStarted, ID: m.ID, Started: &Started{Process: InitProcess, PID: 42}})
		s := a.receive()
		if s.Signal.Signal != 15 {
			t.Errorf("agent got %+v", s)
		}
		a.send(Message{Type: TypeOK, ID: s.ID})
		a.send(Message{Type: TypeExited, ID: m.ID, Exited: &Exited{Process: InitProcess, Signal: 15}})
		w := a.receive()
		a.send(Message{Type: TypeExited, ID: w.ID, Exited: &Exited{Process: InitProcess, Signal: 15}})
	})
	if c.Hello().Kernel != "6.12" {
		t.Errorf("hello: %+v", c.Hello())
	}
	p, err := c.Start(t.Context(), &Start{Process: InitProcess, Spec: &specs.Spec{}})
	if err != nil {
		t.Fatal(err)
	}
	if p.PID != 42 {
		t.Errorf("pid %d", p.PID)
	}
	if err := c.Signal(t.Context(), InitProcess, 15); err != nil {
		t.Error(err)
	}
	for range 2 { // a process may be waited for more than once
		exit, err := p.Wait(t.Context())
		if err != nil || exit.Code() != 143 {
			t.Errorf("wait: %+v, %v", exit, err)
		}
	}
	if exit, err := c.Wait(t.Context(), InitProcess); err != nil || exit.Code() != 143 {
		t.Errorf("wait by name: %+v, %v", exit, err)
	}
}

func TestClientErrorAnswer(t *testing.T) {
	c := connect(t, nil, func(a *agent) {
		a.send(Message{Type: TypeError, ID: a.receive().ID, Error: &Error{Code: CodeNotFound, Message: "nope"}})
		a.send(Message{Type: TypeError, ID: a.receive().ID})
	})
	var e *Error
	if _, err := c.Start(t.Context(), &Start{}); !errors.As(err, &e) || e.ExitCode() != 127 {
		t.Errorf("got %v", err)
	}
	if err := c.Resize(t.Context(), InitProcess, 1, 1); !errors.As(err, &e) || e.Code != CodeIO {
		t.Errorf("got %v", err)
	}
}

func TestClientContextEnds(t *testing.T) {
	got := make(chan struct{})
	c := connect(t, nil, func(a *agent) {
		first := a.receive()
		close(got)
		second := a.receive()
		a.send(Message{Type: TypeOK, ID: first.ID}) // too late, ignored
		a.send(Message{Type: TypeOK, ID: second.ID})
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-got; cancel() }()
	if err := c.Signal(ctx, InitProcess, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := c.Signal(t.Context(), InitProcess, 1); err != nil {
		t.Errorf("after a cancelled request: %v", err)
	}
}

func TestClientContextEndsWriting(t *testing.T) {
	c := connect(t, nil, func(*agent) {}) // reads nothing
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	for range 3 { // one that writes, two that wait for it
		if err := c.Signal(ctx, InitProcess, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

func TestClientConnectionEnds(t *testing.T) {
	c := connect(t, nil, func(a *agent) {
		m := a.receive()
		a.send(Message{Type: TypeStarted, ID: m.ID, Started: &Started{Process: InitProcess}})
		a.receive()
		a.conn.Close()
	})
	p, err := c.Start(t.Context(), &Start{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(t.Context(), InitProcess, 1); !errors.Is(err, ErrClosed) || !errors.Is(err, io.EOF) {
		t.Errorf("signal: %v", err)
	}
	if _, err := p.Wait(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("wait: %v", err)
	}
	<-c.Done()
	if err := c.Shutdown(t.Context()); err != nil {
		t.Errorf("shutting down what is gone: %v", err)
	}
}

func TestClientEvents(t *testing.T) {
	events := make(chan Message, 1)
	connect(t, func(m Message) { events <- m }, func(a *agent) { a.send(Message{Type: TypeBye}) })
	if m := <-events; m.Type != TypeBye {
		t.Errorf("got %+v", m)
	}
}

// A hostile agent ends its own connection and nothing else.
func TestClientHostileAnswers(t *testing.T) {
	for name, answers := range map[string]func(id uint64) []Message{
		"two answers":         func(id uint64) []Message { return []Message{{Type: TypeStarted, ID: id}, {Type: TypeStarted, ID: id}} },
		"exit without status": func(id uint64) []Message { return []Message{{Type: TypeExited, ID: id}} },
	} {
		c := connect(t, nil, func(a *agent) {
			for _, m := range answers(a.receive().ID) {
				if WriteFrame(a.conn, m) != nil {
					return
				}
			}
		})
		if _, err := c.Start(t.Context(), &Start{}); err == nil {
			t.Errorf("%s: no error", name)
		}
		<-c.Done()
		if err := c.Err(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDialRefuses(t *testing.T) {
	for name, m := range map[string]Message{
		"no hello":       {Type: TypeOK},
		"empty hello":    {Type: TypeHello},
		"other versions": {Type: TypeHello, Hello: &Hello{Version: 99, MinVersion: 99}},
	} {
		host, guest := net.Pipe()
		go func() { WriteFrame(guest, m); guest.Close() }()
		if c, err := Dial(t.Context(), host, nil); err == nil {
			t.Errorf("%s: dialled", name)
			c.Close()
		}
		if _, err := host.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: connection left open: %v", name, err)
		}
	}
}

func TestDialContextEnds(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, host, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
