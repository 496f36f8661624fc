package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/proto"
)

func TestExitStatus(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 7"}, 7},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
		{[]string{"sh", "-c", "kill $$"}, 143},
		{[]string{"sh", "-c", "sleep 100 & exit 3"}, 3}, // what is left behind does not delay the end
	} {
		r, err := newGuest(t, nil).run(&proto.Start{Spec: testSpec(tt.args...)}, "")
		if err != nil || r.exit.Code() != tt.want {
			t.Errorf("%q: %+v, %v; want %d", tt.args, r.exit, err, tt.want)
		}
	}
}

func TestCannotStart(t *testing.T) {
	image := func(dir string) {
		for name, content := range map[string]string{"text": "text", "lost": "#!/no/such/interpreter\n", "noexec": "\x00\x01"} {
			mode := os.FileMode(0o755)
			if name == "text" {
				mode = 0o644
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		want   proto.Code
	}{
		{"not in PATH", func(s *specs.Spec) { s.Process.Args = []string{"no-such-program"} }, proto.CodeNotFound},
		{"no PATH", func(s *specs.Spec) { s.Process.Env = nil }, proto.CodeNotFound},
		{"no such file", func(s *specs.Spec) { s.Process.Args = []string{"/no/such/file"} }, proto.CodeNotFound},
		{"below a file", func(s *specs.Spec) { s.Process.Args = []string{"/text/x"} }, proto.CodeNotFound},
		{"not executable", func(s *specs.Spec) { s.Process.Args = []string{"/text"} }, proto.CodeNotExecutable},
		{"directory", func(s *specs.Spec) { s.Process.Args = []string{"/etc"} }, proto.CodeNotExecutable},
		{"no interpreter", func(s *specs.Spec) { s.Process.Args = []string{"/lost"} }, proto.CodeNotFound},
		{"no program", func(s *specs.Spec) { s.Process.Args = []string{"/noexec"} }, proto.CodeNotExecutable},
		{"cwd is a file", func(s *specs.Spec) { s.Process.Cwd = "/text" }, proto.CodeIO},
		{"unknown user", func(s *specs.Spec) { s.Process.User.Username = "nemo" }, proto.CodeInvalid},
		{"unknown group", func(s *specs.Spec) { s.Process.User.Username = "root:nemo" }, proto.CodeInvalid},
		{"user out of range", func(s *specs.Spec) { s.Process.User.UID = 1<<32 - 1 }, proto.CodeInvalid},
		{"unknown capability", func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_FLY"}}
		}, proto.CodeInvalid},
		{"unknown limit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} }, proto.CodeInvalid},
		{"mount over the root", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x/..", Type: "tmpfs", Source: "tmpfs"})
		}, proto.CodeInvalid},
		{"relative mount", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "x", Type: "tmpfs", Source: "tmpfs"})
		}, proto.CodeInvalid},
		{"sysctl that leads elsewhere", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"..//../etc/passwd": "x"}
		}, proto.CodeInvalid},
		{"unknown sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.no_such": "1"} }, proto.CodeInvalid},
		{"unknown filesystem", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nofs", Source: "x"})
		}, proto.CodeIO},
		{"device number", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1 << 20}}
		}, proto.CodeInvalid},
		{"terminal without devpts", func(s *specs.Spec) {
			s.Process.Terminal, s.Mounts = true, s.Mounts[:2]
		}, proto.CodeInvalid}, // stdin, stdout and stderr are no streams of a terminal
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := &proto.Start{Spec: testSpec("true")}
			tt.change(start.Spec)
			g := newGuest(t, image)
			_, err := g.run(start, "")
			wantCode(t, tt.name, err, tt.want)
			if err := g.client.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown after a failed start: %v", err)
			}
			<-g.ended
		})
	}
}

func TestStreams(t *testing.T) {
	big := make([]byte, 20<<20)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	r, err := newGuest(t, nil).run(&proto.Start{Spec: testSpec("sh", "-c", "cat; echo done >&2")}, string(big))
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256([]byte(r.stdout)) != sha256.Sum256(big) {
		t.Errorf("%d bytes came back of %d, or others", len(r.stdout), len(big))
	}
	if r.stderr != "done\n" {
		t.Errorf("stderr %q", r.stderr)
	}
}

// A program that does not read its input ends all the same.
func TestInputNotWanted(t *testing.T) {
	r, err := newGuest(t, nil).run(&proto.Start{Spec: testSpec("echo", "hi")}, strings.Repeat("x", 1<<20))
	if err != nil || r.stdout != "hi\n" {
		t.Errorf("%+v, %v", r, err)
	}
}

// Streams that nobody has asked for are /dev/null, and what is not a pipe can be opened again.
func TestNoStreams(t *testing.T) {
	g := newGuest(t, nil)
	p, err := g.client.Start(t.Context(), &proto.Start{Process: "main", Spec: testSpec("sh", "-c", "cat && echo out && echo err >&2 && exit 5")})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code() != 5 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// /dev/stdout and /dev/stderr work for users other than root, as log files of servers do.
func TestStdoutReopened(t *testing.T) {
	out := sh(t, func(s *proto.Start) { s.Spec.Process.User = specs.User{UID: 1000, GID: 1000} }, nil, "echo hello > /dev/stdout; cat /proc/self/fd/0")
	if out != "hello\n" {
		t.Errorf("got %q", out)
	}
}

func TestHello(t *testing.T) {
	g := newGuest(t, nil)
	h := g.client.Hello()
	if h.Version != proto.Version || h.Kernel != "test" || h.Stages["agent"] == 0 || h.Now < h.Stages["agent"] || !h.Has(proto.FeatureExec) {
		t.Errorf("%+v", h)
	}
}

func TestSecondConnection(t *testing.T) {
	g := newGuest(t, nil)
	dial := func() *proto.Client {
		conn, err := net.Dial("unix", filepath.Join(g.dir, fmt.Sprint("guest-", proto.PortControl)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := proto.Dial(t.Context(), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	other := dial()
	defer other.Close()
	if _, err := other.Wait(t.Context(), proto.InitProcess); err == nil {
		t.Error("waited for a process that is not there")
	}
	p, err := g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: testSpec("sleep", "100")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Start(t.Context(), &proto.Start{Process: "again", Spec: testSpec("true")})
	wantCode(t, "second start", err, proto.CodeInvalid)
	dial().Close() // a connection that ends is no reason to power off

	waited := make(chan error, 1)
	go func() {
		exit, err := other.Wait(t.Context(), proto.InitProcess)
		if err == nil && exit.Code() != 130 {
			err = fmt.Errorf("%+v", exit)
		}
		waited <- err
	}()
	third := dial()
	defer third.Close()
	if err := third.Signal(t.Context(), proto.InitProcess, 2); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code() != 130 {
		t.Errorf("%+v, %v", exit, err)
	}
	err = third.Signal(t.Context(), proto.InitProcess, 2)
	wantCode(t, "signal to the dead", err, proto.CodeNoProcess)
	wantCode(t, "no such signal", other.Signal(t.Context(), proto.InitProcess, 65), proto.CodeInvalid)
	wantCode(t, "no such process", other.Signal(t.Context(), "nobody", 9), proto.CodeNoProcess)
	wantCode(t, "no terminal", other.Resize(t.Context(), proto.InitProcess, 1, 1), proto.CodeInvalid)
	_, err = other.Exec(t.Context(), "x", testSpec("true").Process)
	wantCode(t, "exec after the end", err, proto.CodeNoProcess)
}

func TestUnknownRequest(t *testing.T) {
	g := newGuest(t, nil)
	conn, err := net.Dial("unix", filepath.Join(g.dir, fmt.Sprint("guest-", proto.PortControl)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var m proto.Message
	for _, bad := range []proto.Message{{Type: "teleport", ID: 5}, {Type: proto.TypeSignal, ID: 6}} {
		if err := proto.WriteFrame(conn, bad); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []uint64{0, 5, 6} {
		if err := proto.ReadFrame(conn, &m); err != nil {
			t.Fatal(err)
		}
		if m.ID != id || (id != 0 && (m.Error == nil || m.Error.Code != proto.CodeUnsupported)) {
			t.Errorf("answer %d: %+v", id, m)
		}
		m = proto.Message{}
	}
	if _, err := conn.Write([]byte{255, 255, 255, 255}); err != nil {
		t.Fatal(err)
	}
	if err := proto.ReadFrame(conn, &m); !errors.Is(err, io.EOF) {
		t.Errorf("after a frame that is too large: %v", err)
	}
}

func TestShutdown(t *testing.T) {
	g := newGuest(t, nil)
	bye := make(chan struct{})
	conn, err := net.Dial("unix", filepath.Join(g.dir, fmt.Sprint("guest-", proto.PortControl)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := proto.Dial(t.Context(), conn, func(m proto.Message) {
		if m.Type == proto.TypeBye {
			close(bye)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: testSpec("sleep", "100")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-bye
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code() != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
	<-g.ended
	if g.err != nil {
		t.Error(g.err)
	}
}

// The guest ends when the one who started the container is gone.
func TestOrphaned(t *testing.T) {
	g := newGuest(t, nil)
	if _, err := g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: testSpec("sleep", "100")}); err != nil {
		t.Fatal(err)
	}
	g.client.Close()
	<-g.ended
	if g.err != nil {
		t.Error(g.err)
	}
}

// Orphans are adopted and reaped.
func TestZombies(t *testing.T) {
	out := sh(t, nil, nil, `
		for i in 1 2 3 4 5; do sh -c 'sh -c "exit 0" & exit 0'; done
		for i in $(seq 100); do
			zombies=$(cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.*Z')
			[ "$zombies" = 0 ] && break
			sleep 0.02
		done
		echo $zombies`)
	if trim(out) != "0" {
		t.Errorf("zombies: %s", out)
	}
}

func TestExec(t *testing.T) {
	for name, namespaces := range map[string][]specs.LinuxNamespace{
		"guest's processes": nil, "own processes": {{Type: specs.PIDNamespace}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, nil)
			spec := testSpec("sh", "-c", "echo secret > /tmp/secret; mount -t tmpfs tmpfs /mnt; touch /mnt/here; while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 6")
			spec.Linux.Namespaces = namespaces
			main, err := g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			process := testSpec("sh", "-c", "cat; hostname; while [ ! -e /mnt/here ]; do sleep 0.02; done; cat /tmp/secret; cat /proc/1/comm; exit 4").Process
			r, err := g.exec("one", process, "in\n")
			if err != nil {
				t.Fatal(err)
			}
			pid1 := "agent.test"
			if namespaces != nil {
				pid1 = "sh"
			}
			if want := "in\nbox\nsecret\n" + pid1 + "\n"; r.stdout != want && !strings.HasPrefix(r.stdout, "in\nbox\nsecret\n") || r.exit.Code() != 4 {
				t.Errorf("%+v, want stdout %q", r, want)
			} else if namespaces != nil && r.stdout != want {
				t.Errorf("got %q, want %q", r.stdout, want)
			}
			_, err = g.exec("one", process, "")
			wantCode(t, "name taken", err, proto.CodeInvalid)
			_, err = g.exec("two", testSpec("no-such-program").Process, "")
			wantCode(t, "not found", err, proto.CodeNotFound)
			// The end of the main process, which this brings about, may come before its own.
			if r, err = g.exec("two", testSpec("touch", "/tmp/go").Process, ""); err != nil || (r.exit.Code() != 0 && r.exit.Code() != 137) {
				t.Errorf("%+v, %v", r, err)
			}
			if exit, err := main.Wait(t.Context()); err != nil || exit.Code() != 6 {
				t.Errorf("main process: %+v, %v", exit, err)
			}
			if exit, err := g.client.Wait(t.Context(), "one"); err != nil || exit.Code() != 4 {
				t.Errorf("an exec's end is not remembered: %+v, %v", exit, err)
			}
		})
	}
}

// What the main process has left behind is gone when its end is told.
func TestLeftovers(t *testing.T) {
	const marker = "31415926"
	g := newGuest(t, nil)
	r, err := g.run(&proto.Start{Spec: testSpec("sh", "-c", "for i in 1 2 3; do setsid sleep "+marker+" >/dev/null 2>&1 </dev/null & done; cat /proc/self/cgroup")}, "")
	if err != nil || r.exit.Code() != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "cgroup-path")); err != nil {
		t.Skip("this machine has no cgroup2")
	}
	if !strings.Contains(r.stdout, "0::/\n") {
		t.Errorf("the container sees cgroups %q", r.stdout)
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if raw, err := os.ReadFile(file); err == nil && strings.HasSuffix(string(raw), "\x00"+marker+"\x00") {
			t.Errorf("%s is left: %q", file, raw)
		}
	}
}
