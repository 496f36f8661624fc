package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/proto"
)

const patience = 30 * time.Second

// host is the host's end of a process's streams.
type host struct {
	g       *guest
	process string
	streams []string
	conns   map[string]*net.UnixConn
	out     map[string]*sink
	readers sync.WaitGroup
}

// sink keeps what is written to it.
type sink struct {
	mu  sync.Mutex
	got []byte
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, p...)
	return len(p), nil
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.got)
}

func (g *guest) host(process string, streams ...string) *host {
	h := &host{g: g, process: process, streams: streams, out: make(map[string]*sink)}
	for _, name := range streams {
		h.out[name] = &sink{}
	}
	h.attach()
	return h
}

// attach connects all streams and reads them from then on.
func (h *host) attach() {
	h.conns = make(map[string]*net.UnixConn)
	for _, name := range h.streams {
		conn := h.g.stream(h.process, name)
		h.conns[name] = conn
		h.g.t.Cleanup(func() { conn.Close() })
		h.readers.Go(func() { _, _ = io.Copy(h.out[name], conn) })
	}
}

// letGo ends this direction of all streams, reads the other one to its end, and closes them.
func (h *host) letGo() {
	h.g.t.Helper()
	for _, conn := range h.conns {
		conn.SetDeadline(time.Now().Add(patience))
		if err := conn.CloseWrite(); err != nil {
			h.g.t.Error(err)
		}
	}
	h.readers.Wait()
	for _, conn := range h.conns {
		conn.Close()
	}
}

// await waits until so many bytes have come on a stream.
func (h *host) await(stream string, n int) {
	h.g.t.Helper()
	h.awaitThat(stream, func(got string) bool { return len(got) >= n })
}

func (h *host) awaitText(stream, text string) {
	h.g.t.Helper()
	h.awaitThat(stream, func(got string) bool { return strings.Contains(got, text) })
}

func (h *host) awaitThat(stream string, enough func(got string) bool) {
	h.g.t.Helper()
	for deadline := time.Now().Add(patience); !enough(h.out[stream].String()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			got := h.out[stream].String()
			h.g.t.Fatalf("only %d bytes have come, the last of them %q", len(got), got[max(0, len(got)-100):])
		}
	}
}

// freeze takes all steps towards a snapshot.
func (g *guest) freeze(hosts ...*host) *proto.Frozen {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	if err := g.client.Detach(ctx); err != nil {
		g.t.Fatal(err)
	}
	for _, h := range hosts {
		h.letGo()
	}
	frozen, err := g.client.Freeze(ctx, proto.Freeze{Sync: true})
	if err != nil {
		g.t.Fatal(err)
	}
	return frozen
}

// lose ends the control connection as a restored guest finds it ended, and waits for the agent to call.
func (g *guest) lose() {
	g.t.Helper()
	name := filepath.Join(g.dir, fmt.Sprint("host-", proto.PortControl))
	os.Remove(name)
	l, err := net.Listen("unix", name)
	if err != nil {
		g.t.Fatal(err)
	}
	defer l.Close()
	g.client.Close()
	l.(*net.UnixListener).SetDeadline(time.Now().Add(patience))
	conn, err := l.Accept()
	if err != nil {
		g.t.Fatalf("the agent has not called again: %v", err)
	}
	if g.client, err = proto.Dial(g.t.Context(), conn, nil); err != nil {
		g.t.Fatal(err)
	}
	client := g.client
	g.t.Cleanup(func() { client.Close() })
}

func (g *guest) thaw(t proto.Thaw) {
	g.t.Helper()
	if err := g.client.Thaw(g.t.Context(), t); err != nil {
		g.t.Fatal(err)
	}
}

// start starts a main process and skips the test where it could not be frozen.
func (g *guest) start(spec *specs.Spec, change func(*proto.Start), streams ...string) *proto.Process {
	g.t.Helper()
	s := &proto.Start{Process: proto.InitProcess, Spec: spec, Streams: streams}
	if change != nil {
		change(s)
	}
	p, err := g.client.Start(g.t.Context(), s)
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "cgroup-path")); err != nil {
		g.t.Skip("this machine has no cgroup2")
	}
	return p
}

func (g *guest) notes() string {
	raw, err := os.ReadFile(filepath.Join(g.dir, "notes"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		g.t.Error(err)
	}
	return string(raw)
}

// A container that is restored goes on as somebody else: with another name, other files and IDs, at another place of the host.
func TestThawedAsAnother(t *testing.T) {
	const oldID, newID = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	const bootID = "01234567-89ab-cdef-0123-456789abcdef"
	for name, readOnly := range map[string]bool{"root can be written": false, "root is read-only": true} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, func(dir string) {
				if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "etc/machine-id"), []byte(oldID+"\n"), 0o444); err != nil {
					t.Fatal(err)
				}
			})
			in := g.host(proto.InitProcess, proto.StreamStdin, proto.StreamStdout, proto.StreamStderr)
			text := func(s string) *string { return &s }
			ask := "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf /etc/machine-id /proc/sys/kernel/random/boot_id"
			p := g.start(testSpec("sh", "-c", ask+"; echo asked; read x; "+ask+"; exit 3"), func(s *proto.Start) {
				s.Hosts, s.ResolvConf, s.Hostname = text("old hosts\n"), text("old resolv.conf\n"), text("box\n")
				s.Root.ReadOnly = readOnly
			}, in.streams...)
			in.awaitText(proto.StreamStdout, "asked\n")
			for range 2 { // a snapshot of what was restored from one
				frozen := g.freeze(in)
				if len(frozen.Streams) != 3 || frozen.Streams[0] != (proto.StreamHeader{Process: proto.InitProcess, Stream: proto.StreamStderr}) {
					t.Errorf("streams %v", frozen.Streams)
				}
				g.lose()
				_, err := p.Wait(t.Context())
				if !errors.Is(err, proto.ErrClosed) {
					t.Errorf("the old connection waits: %v", err)
				}
				g.thaw(proto.Thaw{
					Entropy: []byte("seed"), MachineID: newID, BootID: bootID, Hostname: "other", Hosts: text("new hosts\n"),
					ResolvConf: text("new resolv.conf\n"), EndConnections: true,
					Interfaces: []proto.Readdress{{Was: "02:00:00:00:00:01", Interface: proto.Interface{MAC: "02:00:00:00:00:02"}}},
				})
				in.attach()
			}
			if _, err := io.WriteString(in.conns[proto.StreamStdin], "go\n"); err != nil {
				t.Fatal(err)
			}
			exit, err := g.client.Wait(t.Context(), proto.InitProcess)
			if err != nil || exit.Code() != 3 {
				t.Errorf("%+v, %v", exit, err)
			}
			in.letGo()
			old, fresh, _ := strings.Cut(in.out[proto.StreamStdout].String(), "asked\n")
			if !strings.HasPrefix(old, "box\nbox\nold hosts\nold resolv.conf\n"+oldID+"\n") || strings.Contains(old, bootID) {
				t.Errorf("before: %q", old)
			}
			if want := "other\nother\nnew hosts\nnew resolv.conf\n" + newID + "\n" + bootID + "\n"; fresh != want {
				t.Errorf("after: %q, want %q; stderr %q", fresh, want, in.out[proto.StreamStderr])
			}
			if want := `seed "c2VlZA=="
connections null
cards [{"was":"02:00:00:00:00:01","mac":"02:00:00:00:00:02"}]
`; g.notes() != want+want {
				t.Errorf("done: %q", g.notes())
			}
		})
	}
}

// A guest that waits for its container is frozen, loses its host, and serves the next one.
func TestThawedTemplate(t *testing.T) {
	g := newGuest(t, nil)
	if frozen := g.freeze(); len(frozen.Streams) != 0 {
		t.Errorf("streams %v", frozen.Streams)
	}
	_, err := g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: testSpec("true")})
	wantCode(t, "start while frozen", err, proto.CodeBusy)
	g.lose()
	wantCode(t, "a disk that is not there", g.client.Thaw(t.Context(), proto.Thaw{Disks: []proto.ChangedDisk{{Disk: "lost"}}}), proto.CodeIO)
	const bootID = "01234567-89ab-cdef-0123-456789abcdef"
	g.thaw(proto.Thaw{Entropy: []byte("seed"), BootID: bootID, Disks: []proto.ChangedDisk{{Disk: "vda", Size: 4096}}})
	r, err := g.run(&proto.Start{Spec: testSpec("cat", "/proc/sys/kernel/random/boot_id")}, "")
	if err != nil || r.exit.Code() != 0 || r.stdout != bootID+"\n" {
		t.Errorf("%+v, %v", r, err)
	}
	if got, want := g.notes(), "disk {\"disk\":\"vda\",\"size\":4096}\nseed \"c2VlZA==\"\n"; got != want {
		t.Errorf("done: %q, want %q", got, want)
	}
}

// A frozen guest whose host is gone, and that nobody else calls, ends: with a container and without.
func TestAbandoned(t *testing.T) {
	for name, contained := range map[string]bool{"container": true, "template": false} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envPatience, "100ms")
			g := newGuest(t, nil)
			if contained {
				g.start(testSpec("sleep", "100"), nil)
			}
			g.freeze()
			os.Remove(filepath.Join(g.dir, fmt.Sprint("host-", proto.PortControl)))
			g.client.Close()
			select {
			case <-g.ended:
			case <-time.After(patience):
				t.Fatal("it still waits")
			}
			if g.err != nil {
				t.Error(g.err)
			}
		})
	}
}

// A frozen guest waits for as long as it has a host.
func TestFrozenWithAHost(t *testing.T) {
	t.Setenv(envPatience, "1ms")
	g := newGuest(t, nil)
	g.freeze()
	select {
	case <-g.ended:
		t.Fatal("it has ended")
	case <-time.After(100 * time.Millisecond):
	}
	g.thaw(proto.Thaw{})
}

// While a container is frozen nothing of it runs, and whoever has it frozen may go away; afterwards it is as before.
func TestFrozen(t *testing.T) {
	g := newGuest(t, nil)
	g.start(testSpec("sh", "-c", "while :; do date +%N > /new; mv /new /now; done"), nil)
	read := func() string {
		r, err := g.exec("read"+fmt.Sprint(rand.Uint64()), testSpec("cat", "/now").Process, "")
		if err != nil {
			t.Fatal(err)
		}
		return r.stdout
	}
	for deadline := time.Now().Add(patience); read() == ""; {
		if time.Now().After(deadline) {
			t.Fatal("the container does nothing")
		}
	}
	g.freeze()
	raw := func() string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/state/upper/now", g.cmd.Process.Pid, g.dir))
		return string(b)
	}
	before := raw()
	_, err := g.client.Exec(t.Context(), "exec", testSpec("true").Process)
	wantCode(t, "exec while frozen", err, proto.CodeBusy)
	_, err = g.client.Freeze(t.Context(), proto.Freeze{})
	wantCode(t, "freeze again", err, proto.CodeInvalid)
	for name, bad := range map[string]proto.Thaw{
		"entropy":    {Entropy: make([]byte, maxSeed+1)},
		"machine ID": {MachineID: strings.Repeat("x", 32)},
		"short ID":   {MachineID: "abcd"},
		"boot ID":    {BootID: "01234567-89ab-cdef-0123456789abcdef"},
		"host name":  {Hostname: "a\nb"},
		"names":      {Hostname: strings.Repeat("a", 65)},
		"cards":      {Interfaces: make([]proto.Readdress, proto.MaxThawItems+1)},
		"processes":  {Forget: make([]string, proto.MaxThawItems+1)},
		"disks":      {Disks: []proto.ChangedDisk{{Disk: "vda", Size: -1}}},
		"used disks": {Disks: []proto.ChangedDisk{{Disk: "vda"}}},
	} {
		wantCode(t, name, g.client.Thaw(t.Context(), bad), proto.CodeInvalid)
	}
	g.lose()
	if after := raw(); before == "" || after != before {
		t.Errorf("the container has gone on: %q, then %q", before, after)
	}
	g.thaw(proto.Thaw{})
	wantCode(t, "thaw again", g.client.Thaw(t.Context(), proto.Thaw{}), proto.CodeInvalid)
	for deadline := time.Now().Add(patience); read() == before; {
		if time.Now().After(deadline) {
			t.Fatal("the container does not go on")
		}
	}
	// The connection that has thawed it is the one that counts.
	g.client.Close()
	<-g.ended
}

// A snapshot does not cut in two what the host has asked for.
func TestFreezeWhenBusy(t *testing.T) {
	g := newGuest(t, nil)
	g.start(testSpec("sleep", "100"), nil)
	conn, err := net.Dial("unix", filepath.Join(g.dir, fmt.Sprint("guest-", proto.PortControl)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	// The exec waits for its stream.
	exec := &proto.Exec{Process: "one", Spec: testSpec("true").Process, Streams: []string{proto.StreamStdout}}
	for id, m := range []proto.Message{1: {Type: proto.TypeExec, Exec: exec}, 2: {Type: proto.TypeFreeze, Freeze: &proto.Freeze{}}} {
		if m.ID = uint64(id); id > 0 {
			if err := proto.WriteFrame(conn, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	var m proto.Message
	for m.ID != 2 {
		m = proto.Message{}
		if err := proto.ReadFrame(conn, &m); err != nil {
			t.Fatal(err)
		}
	}
	if m.Error == nil || m.Error.Code != proto.CodeBusy {
		t.Errorf("freeze while an exec is started: %+v", m)
	}
	h := g.host("one", proto.StreamStdout)
	for m.Type != proto.TypeExited {
		if err := proto.ReadFrame(conn, &m); err != nil {
			t.Fatal(err)
		}
	}
	g.freeze(h)
}

// A process whose streams nobody attaches again finds its input at an end, and its output goes nowhere.
func TestForget(t *testing.T) {
	g := newGuest(t, nil)
	g.start(testSpec("sleep", "100"), nil)
	h := g.host("one", proto.StreamStdin, proto.StreamStdout)
	script := "read x; echo $x; cat; i=0; while [ $i -lt 20000 ]; do echo more than a pipe holds; i=$((i+1)); done; exit 4"
	p, err := g.client.Exec(t.Context(), "one", testSpec("sh", "-c", script).Process, h.streams...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(h.conns[proto.StreamStdin], "begin\n"); err != nil {
		t.Fatal(err)
	}
	h.awaitText(proto.StreamStdout, "begin\n")
	g.freeze(h)
	g.thaw(proto.Thaw{Forget: []string{"one", "nobody"}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if exit, err := p.Wait(ctx); err != nil || exit.Code() != 4 {
		t.Errorf("%+v, %v", exit, err)
	}
	// Who comes late for a stream that is at its end is not kept waiting.
	late := g.stream("one", proto.StreamStdout)
	defer late.Close()
	late.SetReadDeadline(time.Now().Add(unclaimedTimeout / 2))
	if b, err := io.ReadAll(late); len(b) > 0 || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

// Whatever a host says a guest should be is refused, or makes sense.
func FuzzThaw(f *testing.F) {
	f.Add([]byte(`{"machineId":"0123456789abcdef0123456789abcdef","bootId":"01234567-89ab-cdef-0123-456789abcdef","hostname":"box"}`))
	f.Add([]byte(`{"hostname":"a\u0000b","disks":[{"disk":"vda","size":-1}],"forget":["x"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var thaw proto.Thaw
		if json.Unmarshal(raw, &thaw) != nil || checkThaw(&thaw) != nil {
			return
		}
		if n := len(thaw.MachineID); n != 0 && n != machineID || strings.ContainsAny(thaw.MachineID+thaw.BootID+thaw.Hostname, "\x00\n/") {
			t.Errorf("%+v is taken", thaw)
		}
	})
}
