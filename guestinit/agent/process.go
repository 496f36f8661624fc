package agent

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/guestinit/stage"
)

// process is a process that the host has asked for.
type process struct {
	name     string
	pid      int
	pidfd    *os.File
	terminal *os.File // master; nil without one

	reaped chan struct{}   // closed when status is set
	status unix.WaitStatus // of wait4

	stages map[string]int64 // as of proto.Started

	done chan struct{} // closed when exited is set
	exit proto.Exited
}

// stdio are the standard streams of a process: what it gets, and our ends.
type stdio struct {
	child [3]*os.File
	ours  [3]*os.File // nil where there is no stream
}

// openStdio makes pipes for the streams that are wanted; the others are /dev/null.
func openStdio(want map[string]Conn) (_ *stdio, err error) {
	s := &stdio{}
	defer func() {
		if err != nil {
			s.closeChild()
			s.closeOurs()
		}
	}()
	for i, name := range []string{proto.StreamStdin, proto.StreamStdout, proto.StreamStderr} {
		if want[name] == nil {
			if s.child[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return nil, err
			}
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("pipe: %w", err)
		}
		if i == 0 {
			s.child[i], s.ours[i] = r, w
		} else {
			s.child[i], s.ours[i] = w, r
		}
	}
	return s, nil
}

func (s *stdio) closeChild() { closeFiles(s.child[:]) }
func (s *stdio) closeOurs()  { closeFiles(s.ours[:]) }

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// table are the processes there are. Its lock is held from before a fork until the child is listed, and taken by
// the reaper before it looks for one.
type table struct {
	mu     sync.Mutex
	byPID  map[int]*process
	byName map[string]*process
	ended  []string      // names of execs that have ended, the oldest first
	forked chan struct{} // cap 1: there may be a child to wait for
}

// maxEnded is how many execs that have ended are remembered.
const maxEnded = 128

func newTable() *table {
	return &table{byPID: make(map[int]*process), byName: make(map[string]*process), forked: make(chan struct{}, 1)}
}

func (t *table) get(name string) *process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byName[name]
}

// spawn starts a child and lists it.
func (t *table) spawn(name string, cfg *stage.Config, attr stage.Attr) (*process, *stage.Child, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName[name] != nil {
		return nil, nil, errTaken(name)
	}
	child, err := stage.Spawn(cfg, attr)
	if err != nil {
		return nil, nil, err
	}
	p := &process{name: name, pid: child.PID, pidfd: child.PIDFD, reaped: make(chan struct{}), done: make(chan struct{})}
	t.byPID[p.pid] = p
	t.byName[name] = p
	select {
	case t.forked <- struct{}{}:
	default:
	}
	return p, child, nil
}

func errTaken(name string) error {
	return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("there is a process %q already", name)}
}

// remove forgets a process that has never become one.
func (t *table) remove(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byName, p.name)
	p.pidfd.Close()
}

// end notes that an exec has ended, and forgets the oldest one.
func (t *table) end(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = append(t.ended, p.name)
	if len(t.ended) > maxEnded {
		t.byName[t.ended[0]].pidfd.Close()
		delete(t.byName, t.ended[0])
		t.ended = t.ended[1:]
	}
}

// killAll kills all listed processes that run.
func (t *table) killAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.byPID {
		_ = p.signal(int(unix.SIGKILL))
	}
}

// reap waits for children for ever: our own, and as PID 1 everybody's orphans.
func (t *table) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil: // ECHILD: none, and thus no orphans, until the next fork
			<-t.forked
			continue
		}
		t.mu.Lock()
		p := t.byPID[pid]
		delete(t.byPID, pid)
		t.mu.Unlock()
		if p != nil {
			p.status = status
			close(p.reaped)
		}
	}
}

// signal sends a signal to the process.
func (p *process) signal(n int) error {
	if n < 1 || n > 64 {
		return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("there is no signal %d", n)}
	}
	err := error(unix.ESRCH)
	select {
	case <-p.reaped:
	default:
		err = unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.Signal(n), nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return &proto.Error{Code: proto.CodeNoProcess, Message: fmt.Sprintf("process %q has ended", p.name)}
	}
	if err != nil {
		return fmt.Errorf("signal %d to process %q: %w", n, p.name, err)
	}
	return nil
}

// resize sets the size of the process's terminal.
func (p *process) resize(rows, cols uint16) error {
	if p.terminal == nil {
		return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("process %q: %v", p.name, errNoTerminal)}
	}
	raw, err := p.terminal.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
		})
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return fmt.Errorf("resizing the terminal of process %q: %w", p.name, err)
	}
	return nil
}

// exitOf words the end of a process.
func (p *process) exitOf() proto.Exited {
	e := proto.Exited{Process: p.name, Time: boottime()}
	if p.status.Signaled() {
		e.Signal = int(p.status.Signal())
	} else {
		e.Status = p.status.ExitStatus()
	}
	return e
}

// boottime is CLOCK_BOOTTIME in ns.
func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
