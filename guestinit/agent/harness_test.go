package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/guestinit/stage"
)

// The tests of this package run the agent as PID 1 of namespaces of its own,
// connected over Unix sockets. The container's root filesystem is an overlay over the machine's own.

const envAgent = "HULL_TEST_AGENT" // directory of the sockets

func TestMain(m *testing.M) {
	// With the race detector, os.Exit takes a second; syscall.Exit does not.
	if os.Args[0] == stage.Name {
		stage.Main()
		syscall.Exit(1)
	}
	if dir := os.Getenv(envAgent); dir != "" {
		if err := agentMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			syscall.Exit(1)
		}
		syscall.Exit(0)
	}
	os.Exit(m.Run())
}

// unixTransport has a socket for each port in a directory.
type unixTransport string

type unixListener struct{ net.Listener }

func (l unixListener) Accept() (Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

func (t unixTransport) Listen(port uint32) (Listener, error) {
	l, err := net.Listen("unix", filepath.Join(string(t), fmt.Sprint("guest-", port)))
	if err != nil {
		return nil, err
	}
	return unixListener{l}, nil
}

func (t unixTransport) Dial(port uint32) (Conn, error) {
	c, err := net.Dial("unix", filepath.Join(string(t), fmt.Sprint("host-", port)))
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// testRoot is an overlay over the machine's root directory.
type testRoot struct {
	dir, upper string
	layers     []string
}

func (r testRoot) Dir() string      { return r.dir }
func (r testRoot) Upper() string    { return r.upper }
func (r testRoot) Layers() []string { return r.layers }
func (r testRoot) Sync() error      { return nil }
func (r testRoot) Unmount() error   { return unix.Unmount(r.dir, unix.MNT_DETACH) }

func (r testRoot) Base() (string, error) {
	base := r.dir + "-base"
	if err := os.Mkdir(base, 0o755); err != nil {
		return base, nil // it is there from the last time
	}
	return base, unix.Mount("overlay", base, "overlay", unix.MS_RDONLY, "lowerdir="+r.layers[1]+":"+r.layers[0])
}

func agentMain(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, ""); err != nil {
		return err
	}
	// The test's additions to the image, on a file system that is not the root's. They are copied before
	// there is an agent: it would reap the child.
	layer := filepath.Join(dir, "layer")
	if err := os.Mkdir(layer, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", layer, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(dir, "image")+"/.", layer).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return New(Options{
		Transport: unixTransport(dir),
		Program:   "/proc/self/exe",
		Dir:       state,
		Dev:       "/dev",
		Kernel:    "test",
		Prepare:   func() string { return testCgroup(dir) },
		// A share is a directory of the test's.
		Share: func(tag, at string, readOnly bool) error {
			if err := unix.Mount(filepath.Join(dir, tag), at, "", unix.MS_BIND, ""); err != nil || !readOnly {
				return err
			}
			return unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		},
		// A volume is a directory of the test's as well.
		Volume: func(disk, at string, readOnly bool) error {
			return unix.Mount(filepath.Join(dir, disk), at, "", unix.MS_BIND, "")
		},
		Mount: func(cfg proto.RootFS, base, _ string) (Root, error) {
			upper := filepath.Join(base, "upper")
			for _, name := range []string{"upper", "work", "root"} {
				if err := os.MkdirAll(filepath.Join(base, name), 0o755); err != nil {
					return nil, err
				}
			}
			root := filepath.Join(base, "root")
			if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+layer+":/,upperdir="+upper+",workdir="+base+"/work"); err != nil {
				return nil, err
			}
			return testRoot{root, upper, []string{"/", layer}}, nil
		},
		// What would change the machine is noted.
		AdjustClock:    func(ns int64) error { return note(dir, "clock", ns) },
		Reseed:         func(seed []byte) error { return note(dir, "seed", seed) },
		Readdress:      func(list []proto.Readdress) error { return note(dir, "cards", list) },
		EndConnections: func() error { return note(dir, "connections", nil) },
		Reread: func(_ string, d proto.ChangedDisk) error {
			if d.Disk == "lost" {
				return errors.New("there is no such disk")
			}
			return note(dir, "disk", d)
		},
		Log:      func(line string) { fmt.Fprintln(os.Stderr, "agent:", line) },
		Patience: testPatience(),
	}).Run()
}

// envPatience is Options.Patience of agents under test.
const envPatience = "HULL_TEST_PATIENCE"

func testPatience() time.Duration {
	d, _ := time.ParseDuration(os.Getenv(envPatience)) // not set: the default
	return d
}

// note adds a line to the file of what the agent has done.
func note(dir, what string, v any) error {
	f, err := os.OpenFile(filepath.Join(dir, "notes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\n", what, raw)
	return err
}

// testCgroup makes a cgroup to work in, if the machine has version 2.
func testCgroup(dir string) string {
	at := filepath.Join(dir, "cgroup")
	if os.Mkdir(at, 0o700) != nil || unix.Mount("cgroup2", at, "cgroup2", 0, "") != nil {
		return ""
	}
	group := filepath.Join(at, "hull-test-"+filepath.Base(filepath.Dir(dir))+strconv.FormatInt(time.Now().UnixNano(), 36))
	if os.Mkdir(group, 0o755) != nil {
		return ""
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup-path"), []byte(filepath.Base(group)), 0o600); err != nil {
		return ""
	}
	return group
}

// guest is an agent under test, from the host's side.
type guest struct {
	t      *testing.T
	dir    string
	client *proto.Client
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the agent has ended
	err    error         // how
}

// newGuest starts an agent. image, if not nil, adds to the root filesystem.
func newGuest(t *testing.T, image func(dir string)) *guest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces and mounts")
	}
	dir := t.TempDir()
	g := &guest{t: t, dir: dir, ended: make(chan struct{})}
	if err := os.Mkdir(filepath.Join(dir, "image"), 0o755); err != nil {
		t.Fatal(err)
	}
	if image != nil {
		image(filepath.Join(dir, "image"))
	}
	l, err := net.Listen("unix", filepath.Join(dir, fmt.Sprint("host-", proto.PortControl)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.cmd = exec.Command("/proc/self/exe")
	g.cmd.Env = append(os.Environ(), envAgent+"="+dir)
	var stderr bytes.Buffer
	g.cmd.Stderr = &stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) {
			t.Skipf("this machine does not let root make namespaces: %v", err)
		}
		t.Fatal(err)
	}
	go func() {
		g.err = g.cmd.Wait()
		if g.err != nil {
			l.Close()
		}
		close(g.ended)
	}()
	t.Cleanup(func() {
		g.cmd.Process.Kill()
		<-g.ended
		if stderr.Len() > 0 {
			t.Logf("agent's console:\n%s", stderr.String())
		}
		removeCgroup(dir)
	})
	conn, err := l.Accept()
	if err != nil {
		t.Fatalf("the agent has not called: %v\n%s", err, stderr.String())
	}
	g.client, err = proto.Dial(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.client.Close() })
	return g
}

// removeCgroup removes what testCgroup has made.
func removeCgroup(dir string) {
	name, err := os.ReadFile(filepath.Join(dir, "cgroup-path"))
	if err != nil {
		return
	}
	at := filepath.Join(dir, "cgroup")
	if unix.Mount("cgroup2", at, "cgroup2", 0, "") != nil {
		return
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	group := filepath.Join(at, string(name))
	_ = os.WriteFile(filepath.Join(group, "container", "cgroup.kill"), []byte("1"), 0)
	for _, path := range []string{filepath.Join(group, "container"), group} {
		for range 1000 {
			if err := unix.Rmdir(path); err != unix.EBUSY {
				break
			}
			var ts = unix.NsecToTimespec(1e6)
			_ = unix.Nanosleep(&ts, nil) // the kernel frees it in its own time
		}
	}
}

// container is the usual specification of a container that runs a command.
func testSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Hostname: "box",
		Process: &specs.Process{
			Args: args, Cwd: "/",
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{},
	}
}

// stream opens a stream of a process.
func (g *guest) stream(process, name string) *net.UnixConn {
	g.t.Helper()
	c, err := net.Dial("unix", filepath.Join(g.dir, fmt.Sprint("guest-", proto.PortStream)))
	if err == nil {
		err = proto.OpenStream(c, process, name)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// result is what a process did.
type result struct {
	stdout, stderr string
	exit           proto.Exited
}

// run runs a container's main process to its end.
func (g *guest) run(start *proto.Start, stdin string) (result, error) {
	g.t.Helper()
	start.Process = proto.InitProcess
	return g.collect(proto.InitProcess, stdin, func(ctx context.Context, streams []string) (*proto.Process, error) {
		start.Streams = streams
		return g.client.Start(ctx, start)
	})
}

// exec runs a further process to its end.
func (g *guest) exec(name string, spec *specs.Process, stdin string) (result, error) {
	g.t.Helper()
	return g.collect(name, stdin, func(ctx context.Context, streams []string) (*proto.Process, error) {
		return g.client.Exec(ctx, name, spec, streams...)
	})
}

func (g *guest) collect(name, stdin string, start func(context.Context, []string) (*proto.Process, error)) (result, error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 30*time.Second)
	defer cancel()
	in, out, errs := g.stream(name, proto.StreamStdin), g.stream(name, proto.StreamStdout), g.stream(name, proto.StreamStderr)
	defer in.Close()
	defer out.Close()
	defer errs.Close()
	var r result
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.WriteString(in, stdin)
		_ = in.CloseWrite()
	})
	wg.Go(func() { b, _ := io.ReadAll(out); r.stdout = string(b) })
	wg.Go(func() { b, _ := io.ReadAll(errs); r.stderr = string(b) })
	p, err := start(ctx, []string{proto.StreamStdin, proto.StreamStdout, proto.StreamStderr})
	if err == nil {
		r.exit, err = p.Wait(ctx)
	} else {
		in.Close()
		out.Close()
		errs.Close()
	}
	wg.Wait()
	return r, err
}

// sh runs a shell script in a fresh container and returns what it prints; it must succeed.
func sh(t *testing.T, change func(*proto.Start), image func(dir string), script string) string {
	t.Helper()
	start := &proto.Start{Spec: testSpec("/bin/sh", "-c", script)}
	if change != nil {
		change(start)
	}
	r, err := newGuest(t, image).run(start, "")
	if err != nil {
		t.Errorf("%s: %v", script, err)
		return ""
	}
	if r.exit.Code() != 0 {
		t.Errorf("%s: %+v, stderr %q", script, r.exit, r.stderr)
	}
	return r.stdout
}

func wantCode(t *testing.T, name string, err error, want proto.Code) {
	t.Helper()
	var e *proto.Error
	if !errors.As(err, &e) || e.Code != want {
		raw, _ := json.Marshal(e)
		t.Errorf("%s: got %v (%s), want %s", name, err, raw, want)
	}
}

func trim(s string) string { return strings.TrimSpace(s) }
