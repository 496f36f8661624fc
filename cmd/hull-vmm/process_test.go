package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
	"github.com/hullvm/hull/vmm/testguest"
)

var program string // the built hull-vmm

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hull-vmm-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "hull-vmm")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released: static
	build.Stderr = os.Stderr
	status := 1
	if build.Run() == nil {
		status = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

func needKVM(t testing.TB) {
	t.Helper()
	s, err := kvm.Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs KVM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// process is a running hull-vmm with the engine's end of its streams.
type process struct {
	cmd     *exec.Cmd
	control net.Conn
	events  chan vmm.Event
}

// launch starts hull-vmm with config on descriptor 3 and a control stream on 4.
func launch(t testing.TB, config string) *process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "theirs")
	conn, err := net.FileConn(mine)
	if err != nil {
		t.Fatal(err)
	}
	mine.Close()
	p := &process{cmd: exec.Command(program), control: conn, events: make(chan vmm.Event, 64)}
	p.cmd.ExtraFiles = []*os.File{r, theirs}
	p.cmd.Stderr = os.Stderr
	p.cmd.Env = os.Environ()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{}
	var c vmm.Config
	if json.Unmarshal([]byte(config), &c) == nil {
		jail.Isolate(p.cmd, &c)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	theirs.Close()
	if _, err := w.WriteString(config); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(p.events)
		for s := bufio.NewScanner(conn); s.Scan(); {
			var e vmm.Event
			if json.Unmarshal(s.Bytes(), &e) == nil {
				p.events <- e
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

const patience = 20 * time.Second

// until returns the first event that fits.
func (p *process) until(t testing.TB, event, name string) vmm.Event {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, ok := <-p.events:
			if !ok {
				t.Fatalf("the control stream ended before event %s %s", event, name)
			}
			if e.Event == event && (name == "" || e.Name == name) {
				return e
			}
		case <-timeout:
			t.Fatalf("no event %s %s", event, name)
		}
	}
}

// status waits for the process to end.
func (p *process) status(t testing.TB) int {
	t.Helper()
	done := make(chan struct{})
	go func() { p.cmd.Wait(); close(done) }()
	select {
	case <-done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("hull-vmm does not end")
		return 0
	}
}

// config is a machine that runs a bare-metal guest.
func config(t testing.TB, guest []byte, change func(*vmm.Config)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest.elf")
	if err := os.WriteFile(path, guest, 0o600); err != nil {
		t.Fatal(err)
	}
	c := vmm.Config{CPUs: 1, Memory: 16 << 20, Kernel: vmm.File{Path: path}, Platform: vmm.PlatformNone}
	if change != nil {
		change(&c)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestStagesComeInOrderAndResetEndsTheVM(t *testing.T) {
	needKVM(t)
	p := launch(t, config(t, testguest.Hello, nil))
	var last int64
	for _, stage := range []string{vmm.StageProcess, vmm.StageKVM, vmm.StageDevices, vmm.StageMemory, vmm.StageRun, vmm.StageEntry} {
		e := p.until(t, "stage", stage)
		if e.Time < last {
			t.Errorf("stage %s at %d, before the one it follows at %d", stage, e.Time, last)
		}
		last = e.Time
	}
	if e := p.until(t, "exit", ""); e.Reason != vmm.ReasonReboot || e.Status != vmm.StatusReboot {
		t.Errorf("ended as %+v", e)
	}
	if got := p.status(t); got != vmm.StatusReboot {
		t.Errorf("exit status %d, want %d", got, vmm.StatusReboot)
	}
}

func TestTripleFaultIsReported(t *testing.T) {
	needKVM(t)
	p := launch(t, config(t, testguest.Fault, nil))
	e := p.until(t, "exit", "")
	if e.Reason != vmm.ReasonTripleFault || e.Status != vmm.StatusTripleFault || !strings.Contains(e.Message, "bytes at RIP: 0f 0b") {
		t.Errorf("ended as %+v", e)
	}
}

func TestAnOrphanEndsAndTidiesUp(t *testing.T) {
	needKVM(t)
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	var user uint32 // of its own, if this user may do that
	if jail.Host().Users == nil {
		user = jail.FirstUser
		if err := errors.Join(jail.Open(filepath.Dir(dir)), jail.Give(user, dir)); err != nil {
			t.Fatal(err)
		}
	}
	p := launch(t, config(t, testguest.Spin, func(c *vmm.Config) { c.OrphanRemove, c.User = []string{dir}, user }))
	p.until(t, "stage", vmm.StageRun)
	p.control.Close()
	if got := p.status(t); got != vmm.StatusStopped {
		t.Errorf("exit status %d", got)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestSignalEndsInOrder(t *testing.T) {
	needKVM(t)
	p := launch(t, config(t, testguest.Spin, nil))
	p.until(t, "stage", vmm.StageRun)
	p.cmd.Process.Signal(unix.SIGTERM)
	if e := p.until(t, "exit", ""); e.Reason != vmm.ReasonStopped || !strings.Contains(e.Message, "terminated") {
		t.Errorf("ended as %+v", e)
	}
}

func TestCommands(t *testing.T) {
	needKVM(t)
	p := launch(t, config(t, testguest.Spin, nil))
	p.until(t, "stage", vmm.StageRun)
	for _, c := range []struct{ command, event string }{
		{"pause", "ok"}, {"pause", "error"}, {"resume", "ok"}, {"resume", "error"}, {"dance", "error"}, {"stop", "ok"},
	} {
		if err := json.NewEncoder(p.control).Encode(vmm.Command{Command: c.command}); err != nil {
			t.Fatal(err)
		}
		p.until(t, c.event, c.command)
	}
	p.until(t, "exit", "")
}

// TestSnapshotsAndRestores: a process that can make no files is given them.
func TestSnapshotsAndRestores(t *testing.T) {
	needKVM(t)
	dir := t.TempDir()
	create := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	p := launch(t, config(t, testguest.Spin, nil))
	p.until(t, "stage", vmm.StageRun)
	send := func(p *process, command string, files ...*os.File) {
		t.Helper()
		if err := (vmm.Command{Command: command}).Send(p.control.(*net.UnixConn), files...); err != nil {
			t.Fatal(err)
		}
	}
	send(p, vmm.CommandSnapshot)
	if e := p.until(t, "error", vmm.CommandSnapshot); !strings.Contains(e.Message, "2 files") {
		t.Errorf("a snapshot without files: %+v", e)
	}
	state, memory := create("state"), create("memory")
	send(p, vmm.CommandSnapshot, state, memory)
	p.until(t, "error", vmm.CommandSnapshot) // it runs
	send(p, vmm.CommandPause)
	p.until(t, "ok", vmm.CommandPause)
	send(p, vmm.CommandSnapshot, state, memory)
	p.until(t, "ok", vmm.CommandSnapshot)
	send(p, vmm.CommandResume)
	p.until(t, "ok", vmm.CommandResume)

	p = launch(t, config(t, testguest.Spin, func(c *vmm.Config) {
		c.Kernel, c.Restore = vmm.File{}, &vmm.Snapshot{State: vmm.File{Path: state.Name()}, Memory: vmm.File{Path: memory.Name()}}
	}))
	p.until(t, "stage", vmm.StageRun)
	send(p, vmm.CommandStop)
	p.until(t, "exit", "")
}

// TestTerminalAndBalloonCommands: a guest without drivers is told of a size and of a target, and reports nothing.
func TestTerminalAndBalloonCommands(t *testing.T) {
	needKVM(t)
	send := func(p *process, c vmm.Command) {
		t.Helper()
		if err := json.NewEncoder(p.control).Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	p := launch(t, config(t, testguest.Spin, func(c *vmm.Config) {
		c.Console, c.Balloon = &vmm.Console{Rows: 25, Cols: 80}, true
	}))
	p.until(t, "stage", vmm.StageRun)
	send(p, vmm.Command{Command: vmm.CommandResize, Rows: 50, Cols: 132})
	p.until(t, "ok", vmm.CommandResize)
	send(p, vmm.Command{Command: vmm.CommandBalloon, Bytes: 8 << 20})
	p.until(t, "ok", vmm.CommandBalloon)
	send(p, vmm.Command{Command: vmm.CommandBalloonStats})
	e := p.until(t, "ok", vmm.CommandBalloonStats)
	if e.Balloon == nil || e.Balloon.Target != 8<<20 || e.Balloon.Actual != 0 || len(e.Balloon.Guest) != 0 {
		t.Errorf("statistics %+v", e.Balloon)
	}
	send(p, vmm.Command{Command: vmm.CommandBalloon, Bytes: 1 << 40})
	p.until(t, "error", vmm.CommandBalloon)

	p = launch(t, config(t, testguest.Spin, nil))
	p.until(t, "stage", vmm.StageRun)
	for _, command := range []string{vmm.CommandResize, vmm.CommandBalloon, vmm.CommandBalloonStats} {
		send(p, vmm.Command{Command: command})
		p.until(t, "error", command)
	}
}

func TestBadConfiguration(t *testing.T) {
	needKVM(t)
	for name, c := range map[string]struct{ config, want string }{
		"not JSON":     {"{", "configuration"},
		"too long":     {`{"id":"` + strings.Repeat("x", maxConfig) + `"}`, "longer"},
		"no vCPUs":     {`{"memory":16777216,"kernel":{"path":"/dev/null"}}`, "vCPUs"},
		"no memory":    {`{"cpus":1,"kernel":{"path":"/dev/null"},"platform":"none"}`, "memory"},
		"no kernel":    {`{"cpus":1,"memory":16777216,"platform":"none"}`, "kernel"},
		"not a kernel": {config(t, []byte("hello, world"), nil), "not a kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, c.config)
			if e := p.until(t, "exit", ""); e.Status != vmm.StatusHull || !strings.Contains(e.Message, c.want) {
				t.Errorf("got %+v, want status %d and %q", e, vmm.StatusHull, c.want)
			}
		})
	}
}

func TestStartedByHand(t *testing.T) {
	out, err := exec.Command(program).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != vmm.StatusHull || !strings.Contains(string(out), "by hull") {
		t.Errorf("%v: %s", err, out)
	}
}
