package outer

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a helper program that lives no longer than this one.
type process struct {
	cmd  *exec.Cmd
	tail *tail // the end of its stderr
	done chan struct{}
	err  error // of Wait, once done is closed
}

// spawn starts a program whose file descriptors from 3 on are files. The kernel
// kills it when this process dies, even by SIGKILL: that signal is tied to the
// thread that forked, so this thread is kept until the program has ended.
func spawn(name string, args []string, files []*os.File, attr *syscall.SysProcAttr) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), tail: new(tail), done: make(chan struct{})}
	p.cmd.Stderr = p.tail
	p.cmd.ExtraFiles = files
	// A group of its own: Ctrl-C is for the command in the machine.
	attr.Pdeathsig, attr.Setpgid = unix.SIGKILL, true
	p.cmd.SysProcAttr = attr
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("lab: starting %s: %w", name, err)
	}
	return p, nil
}

// kill ends the program and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// usage is what a program's threads have done so far, together.
type usage struct {
	ran    time.Duration // on a CPU
	queued time.Duration // ready to run, while others ran
}

// usage reads the scheduler's account of the program.
func (p *process) usage() usage {
	var u usage
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil {
			u.add(string(b))
		}
	}
	return u
}

// add adds one thread's schedstat: nanoseconds run, nanoseconds queued, times run.
func (u *usage) add(schedstat string) {
	fields := strings.Fields(schedstat)
	if len(fields) < 2 {
		return
	}
	ran, _ := strconv.ParseInt(fields[0], 10, 64)
	queued, _ := strconv.ParseInt(fields[1], 10, 64)
	u.ran += time.Duration(ran)
	u.queued += time.Duration(queued)
}

// tail keeps the last bytes that were written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailSize; over > 0 {
		t.b = bytes.Clone(t.b[over:])
	}
	return len(p), nil
}

// lines returns the last n lines.
func (t *tail) lines(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := strings.Split(strings.TrimRight(string(t.b), "\r\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// find looks for a program in PATH and in where Debian keeps what ordinary users
// do not call.
func find(debianPackage string, names ...string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/libexec", "/usr/lib/qemu"} {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("lab: %s: %w: apt-get install %s", names[0], ErrNotInstalled, debianPackage)
}

// socketPair returns two connected Unix stream sockets: one to keep, one to hand
// to a program.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("lab: making a socket pair: %w", err)
	}
	// Only non-blocking files can be closed under a reader.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("lab: making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
