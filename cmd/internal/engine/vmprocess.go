package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
	"github.com/hullvm/hull/vmm/snapshot"
)

// vmSpec says how to start the process of one VM.
type vmSpec struct {
	program string          // path of hull-vmm
	name    string          // shown by ps(1)
	config  vmm.Config      // with descriptors given out by files
	files   *fileTable      // closed by startVM, however it ends
	cpus    []int           // of the host, that it may run on; empty: any
	group   *cgroup.Group   // that it is in, and that goes with it; nil: none of its own
	onEvent func(vmm.Event) // called in order on one goroutine; may be nil
}

// fileTable numbers the files that a VM process inherits. Descriptors 0 to 2 are
// its standard streams, 3 its configuration, 4 the control stream.
type fileTable struct {
	files []*os.File
	owned []bool
}

const (
	fdConfig  = 3
	fdControl = 4
	fdFiles   = 5 // the first one that a fileTable gives out
)

// open adds the file at path and returns how the VM process knows it.
func (t *fileTable) open(path string, flag int) (vmm.File, error) {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return vmm.File{}, err
	}
	return t.add(f), nil
}

// add adds a file that the table closes.
func (t *fileTable) add(f *os.File) vmm.File { return t.put(f, true) }

// lend adds a file that stays the caller's.
func (t *fileTable) lend(f *os.File) vmm.File { return t.put(f, false) }

func (t *fileTable) put(f *os.File, owned bool) vmm.File {
	t.files = append(t.files, f)
	t.owned = append(t.owned, owned)
	return vmm.File{FD: fdFiles + len(t.files) - 1, Path: f.Name()}
}

func (t *fileTable) close() {
	for i, f := range t.files {
		if t.owned[i] {
			f.Close()
		}
	}
	t.files, t.owned = nil, nil
}

// vmProcess is a process that runs one VM. It lives until the guest ends, stop
// or kill is called, or this process is gone: the control stream tells it.
type vmProcess struct {
	process *os.Process
	control *os.File
	stderr  *tail
	group   *cgroup.Group // nil: it has none of its own
	spawned int64         // when it was forked, CLOCK_MONOTONIC in ns

	done chan struct{} // closed when the process is reaped and all it said was read

	asking sync.Mutex // held from a command to its answer

	mu    sync.Mutex
	asked string         // the command whose answer is awaited
	reply chan vmm.Event // takes it; nil: nobody waits
	last  vmm.Event      // latest event
	end   *vmm.Event     // the exit or error event, if there was one
	state *os.ProcessState
	oom   bool // this host's kernel killed it for its memory
}

// startVM starts a VM process. Its configuration is on its way when startVM
// returns, whether it is any good comes as events.
func startVM(spec vmSpec) (_ *vmProcess, err error) {
	defer spec.files.close()
	defer func() {
		if err != nil {
			_ = spec.group.Remove() // the first error is the one to tell
		}
	}()
	config, err := json.Marshal(spec.config)
	if err != nil {
		return nil, fmt.Errorf("encoding the VM's configuration: %w", err)
	}
	configFile, err := memoryFile("hull-config", config)
	if err != nil {
		return nil, err
	}
	defer configFile.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()

	p := &vmProcess{control: ours, stderr: &tail{limit: stderrTail}, group: spec.group, done: make(chan struct{})}
	command := func() *exec.Cmd {
		cmd := exec.Command(spec.program, spec.name)
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		if mode, ok := os.LookupEnv(jail.Env); ok {
			cmd.Env = append(cmd.Env, jail.Env+"="+mode)
		}
		cmd.Stderr = p.stderr
		cmd.ExtraFiles = append([]*os.File{configFile, theirs}, spec.files.files...)
		// A session of its own: the terminal's signals are for the workload, and
		// reach it through this process.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd
	}
	// Not each host, and not each container, lets processes be started in namespaces, or in cgroups (those of Linux 5.7 and later do).
	var cmd *exec.Cmd
	for _, how := range []struct{ isolated, grouped bool }{{true, true}, {false, true}, {true, false}, {false, false}} {
		if how.grouped && spec.group == nil {
			continue
		}
		cmd = command()
		if how.isolated && !jail.Isolate(cmd, &spec.config) {
			continue
		}
		if how.grouped {
			spec.group.Enter(cmd.SysProcAttr)
		} else if p.group != nil {
			_ = p.group.Remove()
			p.group = nil
		}
		p.spawned = monotonic()
		if err = startOn(cmd, spec.cpus); err == nil {
			break
		}
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("starting the VM process: %w", err)
	}
	p.process = cmd.Process
	go p.watch(cmd, spec.onEvent)
	return p, nil
}

// startOn starts a command whose process may run on these CPUs only: it has that from the thread that forks.
func startOn(cmd *exec.Cmd, cpus []int) error {
	if len(cpus) == 0 {
		return cmd.Start()
	}
	var wanted, before unix.CPUSet
	for _, cpu := range cpus {
		wanted.Set(cpu)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("asking for the CPUs of this process: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &wanted); err != nil {
		return fmt.Errorf("running on CPUs %v: %w", cpus, err)
	}
	defer unix.SchedSetaffinity(0, &before)
	return cmd.Start()
}

// stderrTail is how much of a VM process's standard error is kept, in bytes: a
// Go program that fails says why at the beginning, one that crashes too.
const stderrTail = 8 << 10

// watch reads the events of the process to their end and reaps it.
func (p *vmProcess) watch(cmd *exec.Cmd, onEvent func(vmm.Event)) {
	defer close(p.done)
	lines := bufio.NewScanner(p.control)
	lines.Buffer(nil, 8*vmm.ConsoleTail) // JSON may take six bytes for one
	for lines.Scan() {
		var event vmm.Event
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			continue // what cannot be read cannot be acted upon; the process's end can
		}
		p.mu.Lock()
		p.last = event
		if event.Event == "exit" || event.Event == "error" && event.Name == "" {
			p.end = &event
		}
		if p.reply != nil && event.Name == p.asked && (event.Event == "ok" || event.Event == "error") {
			p.reply <- event
			p.reply = nil
		}
		p.mu.Unlock()
		if onEvent != nil {
			onEvent(event)
		}
	}
	if lines.Err() != nil {
		p.process.Kill() // it does not speak as it should
	}
	_ = cmd.Wait() // how it ended is in ProcessState
	p.control.Close()
	oom := false
	if p.group != nil {
		u, err := p.group.Usage()
		oom = err == nil && u.OOMKills > 0
		_ = p.group.Remove() // what cannot be removed now is swept
	}
	p.mu.Lock()
	p.state, p.oom = cmd.ProcessState, oom
	p.mu.Unlock()
}

// stopPatience is how long a VM process may take to end when asked to.
const stopPatience = 2 * time.Second

// stop ends the VM, by force if need be, and returns when the process is gone.
func (p *vmProcess) stop() {
	p.command(vmm.Command{Command: vmm.CommandStop})
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.kill()
	}
}

// kill ends the process at once and returns when it is gone.
func (p *vmProcess) kill() {
	_ = p.process.Kill() // fails only if it has ended
	<-p.done
}

// command writes a command. There is nobody to tell of a failure: the process
// has then ended, which done says.
func (p *vmProcess) command(c vmm.Command, files ...*os.File) { _ = c.Send(p.control, files...) }

// ask writes a command, with the files that it is about, and waits until it has been carried out.
func (p *vmProcess) ask(ctx context.Context, c vmm.Command, files ...*os.File) (vmm.Event, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	reply := make(chan vmm.Event, 1)
	p.mu.Lock()
	p.asked, p.reply = c.Command, reply
	p.mu.Unlock()
	p.command(c, files...)
	select {
	case event := <-reply:
		if event.Event == "error" {
			return event, fmt.Errorf("the VM process: %s: %s", c.Command, event.Message)
		}
		return event, nil
	case <-p.done:
		return vmm.Event{}, errVMGone
	case <-ctx.Done():
		return vmm.Event{}, fmt.Errorf("the VM process: %s: %w", c.Command, ctx.Err())
	}
}

// snapshot has the process save its VM, which is paused, to the directory dir, as vmm.Machine's Snapshot does. The process
// cannot make files itself.
func (p *vmProcess) snapshot(ctx context.Context, dir string) error {
	out, err := snapshot.Create(dir)
	if err != nil {
		return err
	}
	state, memory, err := out.Files()
	if err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", dir, err), out.Abort())
	}
	_, err = p.ask(ctx, vmm.Command{Command: vmm.CommandSnapshot}, state, memory)
	if err = errors.Join(err, state.Close(), memory.Close()); err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", dir, err), out.Abort())
	}
	return out.Commit()
}

// lastEvent is what the process reported last.
func (p *vmProcess) lastEvent() vmm.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// result tells how the process ended. It must have.
func (p *vmProcess) result() vmEnd {
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	end := vmEnd{stderr: strings.TrimSpace(p.stderr.String()), oom: p.oom}
	if p.end != nil {
		end.event = *p.end
	}
	if status, ok := p.state.Sys().(syscall.WaitStatus); ok {
		end.wait = status
		if status.Signaled() && status.Signal() == unix.SIGSYS {
			end.denied = jail.Denied(p.process.Pid)
		}
	}
	return end
}

// vmEnd is how a VM process ended.
type vmEnd struct {
	event  vmm.Event // the exit or error event; zero if it could not send one
	wait   syscall.WaitStatus
	stderr string
	oom    bool   // this host's kernel killed it for its memory
	denied string // the system call that it was killed for, in words
}

// VMError tells that a VM ended otherwise than it should have.
type VMError struct {
	What    string      // in a sentence
	Console string      // the last of the guest's serial output
	Signal  unix.Signal // that killed the VM process, or 0
}

// consoleLines is how much of the console an error message shows.
const consoleLines = 30

func (e *VMError) Error() string {
	console := strings.TrimRight(e.Console, "\r\n\x00 ")
	if console == "" {
		return e.What
	}
	lines := strings.Split(strings.ReplaceAll(console, "\r", ""), "\n")
	if len(lines) > consoleLines {
		lines = lines[len(lines)-consoleLines:]
	}
	return e.What + "; the last of its console:\n  | " + strings.Join(lines, "\n  | ")
}

// err says in words how the VM ended.
func (e vmEnd) err() *VMError {
	switch {
	case e.event.Event == "error", e.event.Event == "exit" && e.event.Reason == "":
		return &VMError{What: e.event.Message, Console: e.event.Console}
	case e.event.Event == "exit":
		what := e.event.Message
		if what == "" {
			what = e.event.Reason
		}
		return &VMError{What: "the VM ended: " + what, Console: e.event.Console}
	}
	var what string
	switch {
	case e.wait.Signaled() && e.oom:
		what = "its process took more of this host's memory than its cgroup allows, and was killed"
	case e.wait.Signaled() && e.wait.Signal() == unix.SIGSYS:
		what = "its process was killed by its seccomp filter: " + e.denied
	case e.wait.Signaled():
		what = fmt.Sprintf("killed by signal %d (%s)", int(e.wait.Signal()), unix.SignalName(e.wait.Signal()))
	default:
		what = fmt.Sprintf("its process exited with status %d and without a word", e.wait.ExitStatus())
	}
	if e.stderr != "" {
		what += ": " + e.stderr
	}
	ended := &VMError{What: "the VM ended: " + what}
	if e.wait.Signaled() {
		ended.Signal = e.wait.Signal()
	}
	return ended
}

// memoryFile returns an anonymous file with the data, read from its start.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("filling a file in memory: %w", err)
	}
	return f, nil
}

// socketPair returns the two ends of a stream. The first is for this process
// and known to the runtime's poller, so that closing it ends a read.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("creating the control stream: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("creating the control stream: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// tail keeps the first and so the telling part of what is written to it.
type tail struct {
	limit int
	mu    sync.Mutex
	buf   bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p[:min(len(p), t.limit-t.buf.Len())])
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// errBootTimeout is wrapped by errors of guests whose agent never spoke.
var errBootTimeout = errors.New("the guest's agent did not answer in time")

// waitDone waits for the process's end, or that of ctx.
func (p *vmProcess) waitDone(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
