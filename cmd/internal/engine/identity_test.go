package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hullvm/hull/guestinit/proto"
)

// streamGuest is a guest's end of streams, which the test holds.
type streamGuest struct {
	t      *testing.T
	socket string
	came   chan net.Conn
	heads  chan proto.StreamHeader
}

func newStreamGuest(t *testing.T) *streamGuest {
	t.Helper()
	g := &streamGuest{t: t, socket: filepath.Join(t.TempDir(), "s"), came: make(chan net.Conn), heads: make(chan proto.StreamHeader)}
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() {
		close(done)
		l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
			var head proto.StreamHeader
			if err != nil || line != fmt.Sprintf("CONNECT %d\n", proto.PortStream) {
				t.Errorf("read %q, %v", line, err)
			}
			fmt.Fprint(conn, "OK 1\n")
			if err := proto.ReadFrame(conn, &head); err != nil {
				t.Error(err)
			}
			select {
			case g.heads <- head:
				g.came <- conn
			case <-done:
				conn.Close()
			}
		}
	})
	return g
}

// accept takes the next stream, which must be this one. The connections come in the order of Attach.names.
func (g *streamGuest) accept(stream string) *net.UnixConn {
	g.t.Helper()
	select {
	case head := <-g.heads:
		conn := <-g.came
		g.t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if head != (proto.StreamHeader{Process: proto.InitProcess, Stream: stream}) {
			g.t.Fatalf("stream %+v, want %s", head, stream)
		}
		return conn.(*net.UnixConn)
	case <-time.After(30 * time.Second):
		g.t.Fatalf("%s is not connected", stream)
		return nil
	}
}

// Streams leave one guest and go on with another: what was typed is in one of them, and all output comes in order.
func TestStreamsMove(t *testing.T) {
	first, second := newStreamGuest(t), newStreamGuest(t)
	stdin, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer typed.Close()
	var out lockedBuffer
	type connected struct {
		p   *pumps
		err error
	}
	result := make(chan connected, 1)
	go func() {
		p, err := connect(t.Context(), first.socket, proto.InitProcess, false, &Attach{Stdin: stdin, Stdout: &out})
		result <- connected{p, err}
	}()
	in, stdout, stderr := first.accept(proto.StreamStdin), first.accept(proto.StreamStdout), first.accept(proto.StreamStderr)
	r := <-result
	if r.err != nil {
		t.Fatal(r.err)
	}
	p := r.p
	defer p.close()
	fmt.Fprint(typed, "one")
	got := make([]byte, 3)
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "one" {
		t.Fatalf("the guest reads %q, %v", got, err)
	}

	detached := make(chan error, 1)
	go func() { detached <- p.detach(t.Context()) }()
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Errorf("the guest reads %q, %v, want its end", rest, err)
	}
	fmt.Fprint(stdout, "last words, ")
	for _, conn := range []*net.UnixConn{in, stdout, stderr} {
		select {
		case err := <-detached:
			t.Fatalf("detached, though the guest may have more to say: %v", err)
		default:
		}
		conn.Close()
	}
	if err := <-detached; err != nil {
		t.Fatal(err)
	}
	if out.String() != "last words, " {
		t.Errorf("output %q", out.String())
	}
	if err := p.detach(t.Context()); !errors.Is(err, errDetached) {
		t.Errorf("detached twice: %v", err)
	}
	// The workload is not over: nobody takes this for the end of its output.
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	if err := p.drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained while detached: %v", err)
	}
	cancel()

	fmt.Fprint(typed, "two") // to nobody yet
	frozen := &proto.Frozen{Streams: []proto.StreamHeader{
		{Process: proto.InitProcess, Stream: proto.StreamStdin}, {Process: proto.InitProcess, Stream: proto.StreamStdout},
		{Process: "other", Stream: proto.StreamStderr},
	}}
	attached := make(chan error, 1)
	go func() { attached <- p.reattach(t.Context(), second.socket, frozen) }()
	in, stdout = second.accept(proto.StreamStdin), second.accept(proto.StreamStdout)
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	if err := p.reattach(t.Context(), second.socket, frozen); !errors.Is(err, errDetached) {
		t.Errorf("attached twice: %v", err)
	}
	typed.Close()
	if rest, err := io.ReadAll(in); string(rest) != "two" || err != nil {
		t.Errorf("the second guest reads %q, %v", rest, err)
	}
	fmt.Fprint(stdout, "and more")
	stdout.Close()
	if err := p.drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "last words, and more"; out.String() != want {
		t.Errorf("output %q, want %q", out.String(), want)
	}
}

// A guest that keeps a stream does not keep the host.
func TestDetachGivesUp(t *testing.T) {
	g := newStreamGuest(t)
	go func() {
		g.accept(proto.StreamStdout)
		g.accept(proto.StreamStderr)
	}()
	p, err := connect(t.Context(), g.socket, proto.InitProcess, false, &Attach{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.detach(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("detach: %v", err)
	}
}

// agentOf answers requests as the test says, and returns a client and the requests that came.
func agentOf(t *testing.T, features []string, answer func(m proto.Message) proto.Message) *proto.Client {
	t.Helper()
	here, there := net.Pipe()
	var serving sync.WaitGroup
	serving.Go(func() {
		defer there.Close()
		hello := &proto.Hello{Version: proto.Version, MinVersion: proto.MinVersion, Features: features}
		if err := proto.WriteFrame(there, proto.Message{Type: proto.TypeHello, Hello: hello}); err != nil {
			return
		}
		for {
			var m proto.Message
			if err := proto.ReadFrame(there, &m); err != nil {
				return
			}
			a := answer(m)
			a.ID = m.ID
			if err := proto.WriteFrame(there, a); err != nil {
				return
			}
		}
	})
	c, err := proto.Dial(t.Context(), here, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		serving.Wait()
	})
	return c
}

// The steps come in their order, and a guest whose freeze fails has its streams again.
func TestFreezeAndBecome(t *testing.T) {
	var steps []proto.Type
	var thawed proto.Thaw
	fail := false
	clock := time.Now().Add(-time.Hour)
	client := agentOf(t, []string{proto.FeatureSnapshots}, func(m proto.Message) proto.Message {
		steps = append(steps, m.Type)
		switch m.Type {
		case proto.TypeFreeze:
			if fail {
				return proto.Message{Type: proto.TypeError, Error: &proto.Error{Code: proto.CodeBusy, Message: "busy"}}
			}
			return proto.Message{Type: proto.TypeFrozen, Frozen: &proto.Frozen{}}
		case proto.TypeClock:
			clock = clock.Add(time.Duration(m.Clock.Adjust))
			return proto.Message{Type: proto.TypeClock, Clock: &proto.Clock{Now: clock.UnixNano()}}
		case proto.TypeThaw:
			thawed = *m.Thaw
		}
		return proto.Message{Type: proto.TypeOK}
	})
	frozen, err := freeze(t.Context(), client, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := resume(t.Context(), client, "", frozen); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(steps), "[detach freeze thaw]"; got != want {
		t.Errorf("steps %s, want %s", got, want)
	}
	if len(thawed.Entropy) > 0 || thawed.EndConnections {
		t.Errorf("who goes on in the same VM becomes %+v", thawed)
	}
	steps = nil
	if err := become(t.Context(), client, anonymous()); err != nil {
		t.Fatal(err)
	}
	if steps[0] != proto.TypeClock || steps[len(steps)-1] != proto.TypeThaw {
		t.Errorf("steps %s", steps)
	}
	if off := time.Since(clock).Abs(); off > time.Minute { // it stands still meanwhile
		t.Errorf("the clock is wrong by %v", off)
	}
	if _, err := hex.DecodeString(thawed.MachineID); err != nil || len(thawed.MachineID) != 32 || len(thawed.Entropy) != entropyBytes {
		t.Errorf("thawed as %+v", thawed)
	}
	if a, b := anonymous(), anonymous(); a.MachineID == b.MachineID || a.BootID == b.BootID || bytes.Equal(a.Entropy, b.Entropy) {
		t.Error("two guests are the same")
	}
	var parts [5]string
	if n, err := fmt.Sscanf(thawed.BootID, "%8s-%4s-4%3s-%4s-%12s", &parts[0], &parts[1], &parts[2], &parts[3], &parts[4]); n != 5 {
		t.Errorf("boot ID %q: %v", thawed.BootID, err)
	}

	fail, steps = true, nil
	var busy *proto.Error
	if _, err := freeze(t.Context(), client, ""); !errors.As(err, &busy) || busy.Code != proto.CodeBusy {
		t.Errorf("a freeze that fails: %v", err)
	}
	if got, want := fmt.Sprint(steps), "[detach freeze thaw]"; got != want { // it may have come to be frozen later
		t.Errorf("steps %s, want %s", got, want)
	}
	old := agentOf(t, nil, func(proto.Message) proto.Message { return proto.Message{Type: proto.TypeOK} })
	if _, err := freeze(t.Context(), old, ""); !errors.Is(err, errNoSnapshots) {
		t.Errorf("an old agent: %v", err)
	}
}

// Who attaches to a restored process that has input somewhere, and has none here, ends that input.
func TestReconnect(t *testing.T) {
	g := newStreamGuest(t)
	frozen := &proto.Frozen{Streams: []proto.StreamHeader{
		{Process: proto.InitProcess, Stream: proto.StreamStdin}, {Process: proto.InitProcess, Stream: proto.StreamStdout},
	}}
	var out lockedBuffer
	result := make(chan error, 1)
	var p *pumps
	go func() {
		var err error
		p, err = reconnect(t.Context(), g.socket, frozen, proto.InitProcess, false, &Attach{Stdout: &out})
		result <- err
	}()
	stdout, in := g.accept(proto.StreamStdout), g.accept(proto.StreamStdin)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Errorf("the guest reads %q, %v", rest, err)
	}
	fmt.Fprint(stdout, "output")
	stdout.Close()
	if err := p.drain(t.Context()); err != nil || out.String() != "output" {
		t.Errorf("output %q, %v", out.String(), err)
	}
}

// A restored container has the names of its own record, and each of its cards the address that is next.
func TestIdentity(t *testing.T) {
	card := func(mac string) proto.Interface { return proto.Interface{MAC: mac} }
	r := &run{
		Container: &Container{id: "0123456789abcdef"},
		record:    &Record{ID: "0123456789abcdef", Config: Config{Args: []string{"true"}, CPUs: 1}},
		network:   &guestNetwork{cards: []proto.Interface{card("02:00:00:00:00:0a"), card("02:00:00:00:00:0b")}},
	}
	thaw, err := r.identity([]proto.Interface{card("02:00:00:00:00:01"), card("02:00:00:00:00:02")})
	if err != nil {
		t.Fatal(err)
	}
	if thaw.Hostname != ShortID(r.record.ID) || thaw.Hosts == nil || thaw.ResolvConf == nil || thaw.MachineID == "" || len(thaw.Entropy) == 0 {
		t.Errorf("thawed as %+v", thaw)
	}
	if len(thaw.Interfaces) != 2 || thaw.Interfaces[1].Was != "02:00:00:00:00:02" || thaw.Interfaces[1].MAC != "02:00:00:00:00:0b" {
		t.Errorf("cards %+v", thaw.Interfaces)
	}
	if _, err := r.identity(nil); err == nil {
		t.Error("cards that were not there are given addresses")
	}
}
