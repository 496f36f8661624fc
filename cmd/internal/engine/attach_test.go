package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestAttach has two attached to one container, whose input both write.
func TestAttach(t *testing.T) {
	e := newTestEngine(t)
	id := background(t, e, Config{Args: []string{"sh", "-c", "read a; echo 1 $a; read b; echo 2 $b >&2; exit 5"}, OpenStdin: true})
	type end struct {
		exit     Exit
		err      error
		out, bad string
	}
	ends := make(chan end, 2)
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer feed.Close()
	first := make(chan struct{})
	for i := range 2 {
		var out, bad lockedBuffer
		a := Attach{Stdout: writerFunc(func(p []byte) (int, error) {
			if i == 0 {
				close(first)
			}
			return out.Write(p)
		}), Stderr: &bad}
		if i == 0 {
			a.Stdin = in
		}
		go func() {
			exit, err := e.Attach(t.Context(), id, AttachOptions{Attach: a})
			ends <- end{exit, err, out.String(), bad.String()}
		}()
	}
	// Both are attached when the supervisor has two clients; there is no other way to see it than by what they get.
	waitClients(t, e, id, 2)
	feed.WriteString("x\n")
	<-first
	feed.WriteString("y\n")
	for range 2 {
		if got := <-ends; got != (end{Exit{Code: 5}, nil, "1 x\n", "2 y\n"}) {
			t.Errorf("%+v", got)
		}
	}
	if _, err := e.Attach(t.Context(), id, AttachOptions{}); err == nil || !strings.Contains(err.Error(), "stopped container") {
		t.Errorf("%v", err)
	}
}

// waitClients waits until so many attach events have been noted.
func waitClients(t *testing.T, e *Engine, id string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := e.Events(ctx, time.Time{}, time.Time{}, func(event Event) error {
		if event.ID == id && event.Action == "attach" {
			if n--; n == 0 {
				cancel()
			}
		}
		return nil
	})
	if n > 0 {
		t.Fatalf("%d are not attached: %v", n, err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// terminalUser is a user at a terminal.
type terminalUser struct {
	tty, screen *os.File
	seen        lockedBuffer
	done        sync.WaitGroup
}

func newTerminalUser(t *testing.T) *terminalUser {
	t.Helper()
	screen, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(screen, &pty.Winsize{Rows: 33, Cols: 111}); err != nil {
		t.Fatal(err)
	}
	u := &terminalUser{tty: tty, screen: screen}
	u.done.Go(func() { io.Copy(&u.seen, screen) })
	t.Cleanup(func() {
		tty.Close()
		screen.Close()
		u.done.Wait()
	})
	return u
}

func (u *terminalUser) await(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(u.seen.String(), text); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("on the screen: %q, want %q", u.seen.String(), text)
		}
	}
}

// TestDetach leaves a container that was run at a terminal, comes back, and sees it to its end.
func TestDetach(t *testing.T) {
	e := newTestEngine(t)
	u := newTerminalUser(t)
	c := Config{
		Image: "test", Args: []string{"sh", "-c", "stty size; read a; echo got $a; read b; exit 4"},
		Terminal: true, OpenStdin: true, StdinOnce: true, AutoRemove: true,
	}
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseDetachKeys(DefaultDetachKeys)
	if err != nil {
		t.Fatal(err)
	}
	ends := func() Attach { return Attach{Stdin: u.tty, Stdout: u.tty, Stderr: u.tty, Terminal: u.tty} }
	left := make(chan error, 1)
	go func() {
		a := ends()
		_, err := container.Start(t.Context(), StartOptions{Attach: &a, Bound: true, DetachKeys: keys})
		left <- err
	}()
	u.await(t, "33 111")
	u.screen.WriteString("one\r")
	u.await(t, "got one")
	u.screen.Write([]byte{0x10, 0x11}) // Ctrl-P Ctrl-Q
	if err := <-left; !errors.Is(err, ErrDetached) {
		t.Fatal(err)
	}
	r := get(t, e, container.ID())
	if r.State.Status != StatusRunning {
		t.Errorf("%+v", r.State)
	}
	type end struct {
		exit Exit
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		exit, err := e.Attach(t.Context(), container.ID(), AttachOptions{Attach: ends(), DetachKeys: keys})
		ended <- end{exit, err}
	}()
	waitClients(t, e, container.ID(), 2) // of which the first has left
	u.screen.WriteString("two\r")
	if got := <-ended; got != (end{Exit{Code: 4}, nil}) {
		t.Errorf("%+v", got)
	}
	waitGone(t, r.State.Supervisor)
	mustBeEmpty(t, e)
}
