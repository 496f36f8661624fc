package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
)

// The tests run this binary, under the name of hull-vmm, as a VM process: it
// keeps to the protocols of the real one and of the guest's agent, but runs
// the workload as a child on this host. "fake=…" on the kernel command line
// makes it misbehave.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) { // os.Exit takes a second under the race detector
	case "hull-vmm":
		syscall.Exit(fakeVM())
	case "hull-cli":
		syscall.Exit(fakeCLI())
	}
	goleak.VerifyTestMain(m)
}

type fake struct {
	config  vmm.Config
	control *os.File
	behave  string           // value of fake=
	resized chan vmm.Command // new sizes of the console

	mu      sync.Mutex
	streams map[string]net.Conn
	came    *sync.Cond
	process *os.Process
	tty     *os.File
}

func fakeVM() int {
	f := &fake{control: os.NewFile(4, "control"), streams: map[string]net.Conn{}, resized: make(chan vmm.Command, 16)}
	f.came = sync.NewCond(&f.mu)
	for fd := 3; fd < 32; fd++ {
		syscall.CloseOnExec(fd) // the workload is a child here, and must not keep them
	}
	data, err := io.ReadAll(os.NewFile(3, "config"))
	if err == nil {
		err = json.Unmarshal(data, &f.config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for word := range strings.FieldsSeq(f.config.CommandLine) {
		if value, ok := strings.CutPrefix(word, "fake="); ok {
			f.behave = value
		}
	}
	go f.commands()
	for _, stage := range []string{vmm.StageProcess, vmm.StageKVM, vmm.StageMemory, vmm.StageDevices, vmm.StageRun, vmm.StageEntry} {
		f.event(vmm.Event{Event: "stage", Name: stage})
	}
	switch f.behave {
	case "error":
		f.event(vmm.Event{Event: "error", Message: "loading the kernel: not a kernel"})
		return 125
	case "crash":
		fmt.Fprintln(os.Stderr, "panic: oh no")
		return 2
	case "panic":
		f.event(vmm.Event{Event: "exit", Reason: vmm.ReasonPanic, Status: vmm.StatusPanic,
			Message: "the guest kernel panicked", Console: "line 1\r\nKernel panic - not syncing: VFS\r\n"})
		return vmm.StatusPanic
	case "silent":
		select {}
	case "serial":
		return f.serial()
	}
	if err := f.guest(); err != nil {
		fmt.Fprintln(os.Stderr, "fake guest:", err)
		return 1
	}
	select {}
}

// serial is a bare VM: it greets, echoes a line, says what it was given, and
// switches itself off. If it has a virtio console, that is where; the serial port
// then has the kernel's first message.
func (f *fake) serial() int {
	input, output := f.config.Serial.Input, f.config.Serial.Output
	if c := f.config.Console; c != nil {
		early, err := output.Open(os.O_WRONLY)
		if err != nil || input != nil {
			return 1
		}
		fmt.Fprintf(early, "early\r\n")
		input, output = c.Input, c.Output
	}
	out, err := output.Open(os.O_WRONLY)
	if err != nil {
		return 1
	}
	if c := f.config.Console; c != nil {
		fmt.Fprintf(out, "terminal of %dx%d\r\n", c.Rows, c.Cols)
	}
	fmt.Fprintf(out, "booted %d disks, %q\r\n", len(f.config.Disks), f.config.CommandLine)
	if f.config.Console != nil {
		size := <-f.resized
		for size.Rows == f.config.Console.Rows {
			size = <-f.resized
		}
		fmt.Fprintf(out, "now of %dx%d\r\n", size.Rows, size.Cols)
	}
	if input != nil {
		in, err := input.Open(os.O_RDONLY)
		if err != nil {
			return 1
		}
		line, err := bufio.NewReader(in).ReadString('\r')
		if err != nil {
			select {}
		}
		fmt.Fprintf(out, "got %q\r\n", line)
	}
	f.event(vmm.Event{Event: "exit", Reason: vmm.ReasonReboot, Status: vmm.StatusReboot, Message: "the guest asked for a reset"})
	return vmm.StatusReboot
}

func (f *fake) event(e vmm.Event) {
	e.Time = monotonic()
	line, _ := json.Marshal(e)
	f.control.Write(append(line, '\n'))
}

// commands obeys the control stream, and goes with it.
func (f *fake) commands() {
	lines := bufio.NewScanner(f.control)
	for lines.Scan() {
		var c vmm.Command
		if json.Unmarshal(lines.Bytes(), &c) != nil {
			continue
		}
		switch c.Command {
		case vmm.CommandResize:
			f.resized <- c
		case vmm.CommandMetrics:
			f.event(vmm.Event{Event: "ok", Name: c.Command, Metrics: &vmm.Metrics{RNGBytes: 42}})
		case vmm.CommandPause, vmm.CommandResume, vmm.CommandBalloon:
			f.event(f.freeze(c))
		}
		if bytes.Contains(lines.Bytes(), []byte(`"stop"`)) && f.behave != "stubborn" {
			f.event(vmm.Event{Event: "exit", Reason: vmm.ReasonStopped, Message: "stopped by the host", Console: "console of a stopped VM"})
			f.killWorkload()
			syscall.Exit(vmm.StatusStopped)
		}
	}
	if f.behave == "stubborn" {
		select {}
	}
	for _, path := range f.config.OrphanRemove {
		os.RemoveAll(path)
	}
	f.killWorkload()
	syscall.Exit(0)
}

// freeze stops the workload or lets it go on. It notes what the balloon was asked for.
func (f *fake) freeze(c vmm.Command) vmm.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	signal := map[string]syscall.Signal{vmm.CommandPause: syscall.SIGSTOP, vmm.CommandResume: syscall.SIGCONT}[c.Command]
	if signal != 0 {
		syscall.Kill(-f.process.Pid, signal)
	} else if err := os.WriteFile(filepath.Join(filepath.Dir(f.config.Vsock.Path), "balloon"), fmt.Append(nil, c.Bytes), 0o600); err != nil {
		return vmm.Event{Event: "error", Name: c.Command, Message: err.Error()}
	}
	return vmm.Event{Event: "ok", Name: c.Command}
}

func (f *fake) killWorkload() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.process != nil {
		syscall.Kill(-f.process.Pid, syscall.SIGKILL)
	}
}

func (f *fake) guest() error {
	l, err := net.Listen("unix", f.config.Vsock.Path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go f.accept(conn)
		}
	}()
	conn, err := net.Dial("unix", hostSocket(f.config.Vsock.Path, proto.PortControl))
	if err != nil {
		return err
	}
	go f.agent(conn)
	return nil
}

func (f *fake) accept(conn net.Conn) {
	var port int
	if _, err := fmt.Fscanf(conn, "CONNECT %d\n", &port); err != nil {
		conn.Close()
		return
	}
	fmt.Fprintf(conn, "OK 1073741824\n")
	if port == proto.PortControl {
		f.agent(conn)
		return
	}
	var head proto.StreamHeader
	if err := proto.ReadFrame(conn, &head); err != nil {
		conn.Close()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams[head.Process+"/"+head.Stream] = conn
	f.came.Broadcast()
}

func (f *fake) agent(conn net.Conn) {
	defer conn.Close()
	boot := clock(unix.CLOCK_BOOTTIME)
	proto.WriteFrame(conn, proto.Message{Type: proto.TypeHello, Hello: &proto.Hello{
		Version: proto.Version, MinVersion: proto.MinVersion, Kernel: "6.12.0-fake", Features: f.features(),
		Stages: map[string]int64{"init": boot - 2e6, "agent": boot - 1e6}, Now: boot,
	}})
	var mu sync.Mutex
	answer := func(m proto.Message) {
		mu.Lock()
		defer mu.Unlock()
		proto.WriteFrame(conn, m)
	}
	for {
		var m proto.Message
		if err := proto.ReadFrame(conn, &m); err != nil {
			return
		}
		ok := proto.Message{Type: proto.TypeOK, ID: m.ID}
		switch m.Type {
		case proto.TypeStart:
			go f.start(m, answer)
		case proto.TypeSignal:
			if f.behave == "deaf" {
				continue
			}
			f.mu.Lock()
			syscall.Kill(f.process.Pid, syscall.Signal(m.Signal.Signal))
			f.mu.Unlock()
			answer(ok)
		case proto.TypeResize:
			f.mu.Lock()
			pty.Setsize(f.tty, &pty.Winsize{Rows: m.Resize.Rows, Cols: m.Resize.Cols})
			f.mu.Unlock()
			answer(ok)
		default:
			go f.inside(m, answer)
		}
	}
}

// start runs the workload, here and not in a guest.
func (f *fake) start(m proto.Message, answer func(proto.Message)) {
	refuse := func(code proto.Code, err error) {
		answer(proto.Message{Type: proto.TypeError, ID: m.ID, Error: &proto.Error{Code: code, Message: err.Error()}})
	}
	spec := m.Start.Spec.Process
	for _, env := range spec.Env {
		if path, ok := strings.CutPrefix(env, "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}
	f.mu.Lock()
	for _, name := range m.Start.Streams {
		for f.streams[m.Start.Process+"/"+name] == nil {
			f.came.Wait()
		}
	}
	stream := func(name string) net.Conn { return f.streams[m.Start.Process+"/"+name] }
	cmd := exec.Command(spec.Args[0], spec.Args[1:]...)
	cmd.Env = spec.Env
	var copies sync.WaitGroup
	var theirs []*os.File
	if spec.Terminal {
		tty, child, err := pty.Open()
		if err != nil {
			f.mu.Unlock()
			refuse(proto.CodeIO, err)
			return
		}
		if size := spec.ConsoleSize; size != nil {
			pty.Setsize(tty, &pty.Winsize{Rows: uint16(size.Height), Cols: uint16(size.Width)})
		}
		conn := stream(proto.StreamTerminal)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = child, child, child
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		f.tty = tty
		theirs = append(theirs, child)
		go io.Copy(tty, conn)
		copies.Go(func() {
			io.Copy(conn, tty)
			conn.Close()
		})
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if conn := stream(proto.StreamStdin); conn != nil {
			r, w, _ := os.Pipe()
			cmd.Stdin = r
			theirs = append(theirs, r)
			go func() {
				io.Copy(w, conn)
				w.Close()
			}()
		}
		output := func(name string) *os.File {
			conn := stream(name)
			r, w, _ := os.Pipe()
			theirs = append(theirs, w)
			copies.Go(func() {
				if conn == nil { // nobody listens
					io.Copy(io.Discard, r)
					return
				}
				if _, err := io.Copy(conn, r); err != nil {
					r.Close() // the workload gets a SIGPIPE
				}
				conn.Close()
			})
			return w
		}
		cmd.Stdout, cmd.Stderr = output(proto.StreamStdout), output(proto.StreamStderr)
	}
	err := cmd.Start()
	for _, t := range theirs {
		t.Close()
	}
	if err != nil {
		f.mu.Unlock()
		code := proto.CodeNotExecutable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			code = proto.CodeNotFound
		}
		refuse(code, err)
		return
	}
	if m.Start.Process == proto.InitProcess {
		f.process = cmd.Process
	}
	f.mu.Unlock()
	answer(proto.Message{Type: proto.TypeStarted, ID: m.ID, Started: &proto.Started{
		Process: m.Start.Process, PID: cmd.Process.Pid, Time: clock(unix.CLOCK_BOOTTIME),
	}})
	state, _ := cmd.Process.Wait()
	status := state.Sys().(syscall.WaitStatus)
	exit := proto.Exited{Process: m.Start.Process, Status: status.ExitStatus(), Time: clock(unix.CLOCK_BOOTTIME)}
	if status.Signaled() {
		exit.Status, exit.Signal = 0, int(status.Signal())
	}
	answer(proto.Message{Type: proto.TypeExited, ID: m.ID, Exited: &exit})
	copies.Wait()
}
