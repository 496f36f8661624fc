package agent

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// A host that does not let go of a stream has no snapshot, and the container goes on.
func TestFreezeWithoutLettingGo(t *testing.T) {
	t.Parallel() // it takes as long as the agent is patient
	g := newGuest(t, nil)
	h := g.host(proto.InitProcess, proto.StreamStdin, proto.StreamStdout)
	g.start(testSpec("cat"), nil, h.streams...)
	_, err := g.client.Freeze(t.Context(), proto.Freeze{})
	wantCode(t, "freeze", err, proto.CodeBusy)
	h.letGo()
	h.attach()
	if _, err := io.WriteString(h.conns[proto.StreamStdin], "still here"); err != nil {
		t.Fatal(err)
	}
	h.conns[proto.StreamStdin].CloseWrite()
	if exit, err := g.client.Wait(t.Context(), proto.InitProcess); err != nil || exit.Code() != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
	h.letGo()
	if got := h.out[proto.StreamStdout].String(); got != "still here" {
		t.Errorf("read %q", got)
	}
}

// The host sees the end of a connection before the agent is done with it: the next one waits for that.
func TestAttachWhileLettingGo(t *testing.T) {
	ours, process, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	connect := func() (host, guest *net.UnixConn) {
		host, guest = socketPair(t)
		host.SetDeadline(time.Now().Add(patience))
		return host, guest
	}
	all := newStreams(func(string) bool { return true })
	firstHost, first := connect()
	l := newStream("one", proto.StreamStdout, first)
	l.src = ours
	all.carry(l, first)
	nextHost, next := connect()
	if all.offer(l.header, next) {
		t.Fatal("a second reader is taken")
	}
	l.detach()
	if b, err := io.ReadAll(firstHost); err != nil || len(b) > 0 {
		t.Fatalf("read %q, %v", b, err)
	}
	if !all.offer(l.header, next) {
		t.Fatal("who reads next is refused")
	}
	if _, third := connect(); all.offer(l.header, third) {
		t.Fatal("a third is taken")
	}
	if l.waitParked(time.After(time.Millisecond)) {
		t.Error("parked, with two connections")
	}
	if _, err := process.WriteString("for the next"); err != nil {
		t.Fatal(err)
	}
	process.Close()
	firstHost.CloseWrite()
	if b, err := io.ReadAll(nextHost); err != nil || string(b) != "for the next" {
		t.Errorf("read %q, %v", b, err)
	}
	nextHost.CloseWrite()
	if !l.waitParked(time.After(patience)) {
		t.Error("not parked at its end")
	}
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "one end of a pair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// Bytes go through a container that is restored again and again: none is lost and none comes twice, however far the container is
// behind.
func TestStreamsAcrossSnapshots(t *testing.T) {
	for name, tt := range map[string]struct {
		script  string
		streams []string
		in, out string
	}{
		"pipes":    {"exec cat", []string{proto.StreamStdin, proto.StreamStdout}, proto.StreamStdin, proto.StreamStdout},
		"slow":     {"while dd bs=10000 count=1 2>/dev/null >/piece; [ -s /piece ]; do cat /piece; done", []string{proto.StreamStdin, proto.StreamStdout}, proto.StreamStdin, proto.StreamStdout},
		"terminal": {"stty raw -echo; echo ready; exec cat", []string{proto.StreamTerminal}, proto.StreamTerminal, proto.StreamTerminal},
	} {
		t.Run(name, func(t *testing.T) {
			const rounds, size = 8, 200 << 10
			var sent bytes.Buffer
			for sent.Len() < rounds*size {
				fmt.Fprintf(&sent, "line %d, %x\n", sent.Len(), rand.Uint64())
			}
			want := sent.Bytes()
			if name == "terminal" {
				want = append([]byte("ready\n"), want...)
			}
			g := newGuest(t, nil)
			h := g.host(proto.InitProcess, tt.streams...)
			spec := testSpec("sh", "-c", tt.script)
			spec.Process.Terminal = name == "terminal"
			g.start(spec, nil, tt.streams...)
			if spec.Process.Terminal {
				h.await(tt.out, len("ready\n")) // what is sent before would be changed by the terminal
			}
			left := sent.Bytes()
			for len(left) > 0 {
				n := min(len(left), size)
				// As much as can be on the way; the rest when the container has taken that.
				piece := left[:n]
				left = left[n:]
				if _, err := h.conns[tt.in].Write(piece); err != nil {
					t.Fatal(err)
				}
				g.freeze(h)
				g.lose()
				if rand.N(2) == 0 {
					h.attach()
					g.thaw(proto.Thaw{})
				} else {
					g.thaw(proto.Thaw{})
					h.attach()
				}
			}
			if tt.in == proto.StreamStdin {
				h.conns[tt.in].CloseWrite()
				if exit, err := g.client.Wait(t.Context(), proto.InitProcess); err != nil {
					t.Errorf("%+v, %v", exit, err)
				}
			} else {
				h.await(tt.out, len(want))
			}
			if tt.in == proto.StreamStdin {
				h.letGo()
			} else {
				g.freeze(h)
			}
			if got := []byte(h.out[tt.out].String()); !bytes.Equal(got, want) {
				i := 0
				for i < min(len(got), len(want)) && got[i] == want[i] {
					i++
				}
				t.Errorf("%d bytes came back, want %d; the first difference is at %d", len(got), len(want), i)
			}
		})
	}
}
