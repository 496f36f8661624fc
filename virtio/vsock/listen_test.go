package vsock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestBadConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(dir, "precious.lock")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  Config
		want error
	}{
		{"CID 0", Config{0, path}, nil},
		{"CID 1", Config{1, path}, nil},
		{"CID of the host", Config{2, path}, nil},
		{"CID 2^32-1", Config{1<<32 - 1, path}, nil},
		{"no path", Config{3, ""}, ErrPath},
		{"long path", Config{3, filepath.Join(dir, strings.Repeat("x", 108))}, ErrPath},
		{"path with a zero", Config{3, path + "\x00"}, ErrPath},
		{"no such directory", Config{3, filepath.Join(dir, "no", "v")}, os.ErrNotExist},
		{"a file in the way", Config{3, file}, ErrInTheWay},
		{"a directory in the way", Config{3, dir}, ErrInTheWay},
		{"a symlink in the way", Config{3, link}, ErrInTheWay},
		{"a file where the lock would be", Config{3, strings.TrimSuffix(precious, ".lock")}, ErrInTheWay},
	} {
		fds := countFDs(t)
		dev, err := New(c.cfg)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
		if err == nil {
			dev.Close()
		}
		if n := countFDs(t); n != fds {
			t.Errorf("%s: %d file descriptors, %d before", c.name, n, fds)
		}
	}
	for _, file := range []string{file, precious} {
		if b, _ := os.ReadFile(file); string(b) != "precious" {
			t.Errorf("%s was changed", file)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 3 {
		t.Errorf("left behind: %q", left)
	}
}

// countFDs returns the number of open file descriptors.
func countFDs(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestSocketPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	cfg := Config{3, path}
	dev, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket has mode %v, %v", st.Mode(), err)
	}
	// Somebody is there.
	if dev, err := New(cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("second device: %v, want %v", err, ErrInUse)
		dev.Close()
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first device has suffered: %v", err)
	} else {
		c.Close()
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if err := dev.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}

	// A socket that was left behind is replaced.
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if dev, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	// Someone else's socket of the same name is not removed.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if l, err = net.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("Close has removed another's socket: %v", err)
	}
	l.Close()
}

// TestConcurrentNew: of many devices for one path, over a dead socket, one gets it.
func TestConcurrentNew(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "v")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		const n = 8
		devs := make(chan *Device, n)
		for range n {
			go func() {
				dev, err := New(Config{3, path})
				if err != nil && !errors.Is(err, ErrInUse) {
					t.Error(err)
				}
				devs <- dev
			}()
		}
		var won []*Device
		for range n {
			if dev := <-devs; dev != nil {
				won = append(won, dev)
			}
		}
		if len(won) != 1 {
			t.Errorf("%d devices have got the path", len(won))
		}
		if c, err := net.Dial("unix", path); err != nil {
			t.Errorf("nobody listens: %v", err)
		} else {
			c.Close()
		}
		for _, dev := range won {
			dev.Close()
		}
		if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

func TestAbstractLookingPath(t *testing.T) {
	t.Chdir(t.TempDir())
	dev, err := New(Config{3, "@v"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat("@v"); err != nil {
		t.Error(err)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}

func TestParseConnect(t *testing.T) {
	for line, want := range map[string]int64{
		"CONNECT 1024\n":                   1024,
		"connect 0\r\n":                    0,
		"  Connect\t4294967295  \n":        1<<32 - 1,
		"CONNECT 4294967296\n":             -1,
		"CONNECT -1\n":                     -1,
		"CONNECT +1\n":                     -1,
		"CONNECT 0x10\n":                   -1,
		"CONNECT\n":                        -1,
		"CONNECT 1 2\n":                    -1,
		"CONNECTED 1\n":                    -1,
		"1024\n":                           -1,
		"\n":                               -1,
		"\x00\n":                           -1,
		"CONNECT 1\x00\n":                  -1,
		"CONNECT 99999999999999999999\n":   -1,
		"CONNECT \xd9\xa1\xd9\xa2\n":       -1,
		"CONNECT 0000000000000000000007\n": 7,
	} {
		port, ok := parseConnect([]byte(line))
		if ok != (want >= 0) || ok && int64(port) != want {
			t.Errorf("%q: %d, %v, want %d", line, port, ok, want)
		}
	}
}

// TestHandshake: what a host program may write first.
func TestHandshake(t *testing.T) {
	g := newDriver(t, options{})
	// In pieces, with data behind, half-closed.
	c := g.dialHost()
	for _, b := range []byte("CONNECT 77\nda") {
		c.Write([]byte{b})
	}
	req := g.receive()
	if req.op != opRequest || req.dstPort != 77 || req.srcPort < firstHostPort || req.srcCID != hostCID {
		t.Errorf("received %v", req)
	}
	c.Write([]byte("ta"))
	c.CloseWrite()
	g.send(packet{header: header{srcPort: 77, dstPort: req.srcPort, op: opResponse, bufAlloc: plenty}})
	if got, want := readLine(t, c), fmt.Sprintf("OK %d", req.srcPort); got != want {
		t.Errorf("host reads %q, want %q", got, want)
	}
	if got := g.gather(req.srcPort, 77, 4); string(got) != "data" {
		t.Errorf("received %q", got)
	}
	if p := g.expect(opShutdown, req.srcPort, 77); p.flags != shutdownSend {
		t.Errorf("received %v", p)
	}
	// Bad ones are closed without a word, and the guest hears nothing.
	for _, first := range []string{
		"\n", "HELLO\n", "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", strings.Repeat("C", 32), strings.Repeat(" ", 1000), "CONNECT 1" + strings.Repeat(" ", 30) + "\n",
	} {
		c := g.dialHost()
		c.Write([]byte(first))
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: host reads %q, %v", first, b, err)
		}
	}
	// The end before the line.
	c = g.dialHost()
	c.Write([]byte("CONNECT 5"))
	c.CloseWrite()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("host reads %q, %v", b, err)
	}
	g.nothing()
	g.awaitConns(1)
}

// TestPatience: who says nothing is not waited for.
func TestPatience(t *testing.T) {
	g := newDriver(t, options{})
	shorten := func(d time.Duration) {
		if err := g.dev.do(func(m *mux) { m.patience.after = d }); err != nil {
			t.Fatal(err)
		}
	}
	shorten(time.Millisecond)
	c := g.dialHost()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("silent program: reads %q, %v", b, err)
	}
	c = g.dialHost()
	c.Write([]byte("CONN"))
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("slow program: reads %q, %v", b, err)
	}
	shorten(time.Hour)
	// A guest that does not answer REQUEST.
	c = g.dialHost()
	c.Write([]byte("CONNECT 5\n"))
	p := g.receive()
	g.expire(p.srcPort, 5)
	g.dev.do(func(m *mux) {}) // and a round of the loop
	g.expect(opRST, p.srcPort, 5)
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("unanswered program: reads %q, %v", b, err)
	}
	// A late answer.
	g.send(packet{header: header{srcPort: 5, dstPort: p.srcPort, op: opResponse, bufAlloc: plenty}})
	g.expect(opRST, p.srcPort, 5)
	g.awaitConns(0)
}

// TestPatienceAfterAPause: when nobody has run for longer than the device is patient, what was said in the meantime counts.
func TestPatienceAfterAPause(t *testing.T) {
	g := newDriver(t, options{queue: 64})
	said, silent := g.dialHost(), g.dialHost()
	said.Write([]byte("CONNECT 5\n"))
	p := g.receive()
	silent.Write([]byte("CONNECT 6\n"))
	q := g.receive()
	if err := g.dev.do(func(m *mux) {
		for range 2 * txBudget { // there is more than one round's work
			g.send(packet{header: header{srcPort: 9, dstPort: 9, op: opRST}})
		}
		g.send(packet{header: header{srcPort: 5, dstPort: p.srcPort, op: opResponse, bufAlloc: plenty}})
		for _, c := range m.slots {
			if c != nil {
				c.due = m.now()
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := readLine(t, said), fmt.Sprintf("OK %d", p.srcPort); got != want {
		t.Errorf("who was answered reads %q, want %q", got, want)
	}
	g.expect(opRST, q.srcPort, 6)
	if b, err := io.ReadAll(silent); len(b) > 0 || err != nil {
		t.Errorf("who was not answered reads %q, %v", b, err)
	}
}

// TestBusyListener: a guest waits for a program whose backlog is full, and is refused when it goes.
func TestBusyListener(t *testing.T) {
	g := newDriver(t, options{})
	listen := func(port int) int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("%s_%d", g.path, port)}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(fd, 0); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	fd := listen(7)
	const n = 10
	for i := range uint32(n) {
		g.send(packet{header: header{srcPort: i, dstPort: 7, op: opRequest, bufAlloc: plenty}})
	}
	for range n {
		c, _, err := unix.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(c)
	}
	for range n {
		if p := g.receive(); p.op != opResponse || p.srcPort != 7 {
			t.Errorf("received %v", p)
		}
	}
	unix.Close(fd)
	fd = listen(8)
	for i := range uint32(n) {
		g.send(packet{header: header{srcPort: i, dstPort: 8, op: opRequest, bufAlloc: plenty}})
	}
	// The guest gives up on one itself.
	g.send(packet{header: header{srcPort: n - 1, dstPort: 8, op: opRST}})
	g.Rings[txQueue].Quiesce()
	unix.Close(fd)
	left := map[uint32]bool{}
	for i := range uint32(n - 1) {
		left[i] = true
	}
	for len(left) > 0 {
		switch p := g.receive(); p.op {
		case opRST:
			delete(left, p.dstPort)
		case opShutdown: // it was in the backlog that has gone
			g.send(packet{header: header{srcPort: p.dstPort, dstPort: 8, op: opRST}})
			delete(left, p.dstPort)
		case opResponse:
		default:
			t.Fatalf("received %v", p)
		}
	}
	g.awaitConns(n) // those to port 7
}
