package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// Attr says how to spawn a child.
type Attr struct {
	// Program is the path of the binary whose main function calls Main when argv[0] is Name.
	Program string
	// Stdio are the standard streams.
	Stdio [3]*os.File
	// CgroupFD is a directory of the cgroup2 hierarchy to start in, or -1.
	CgroupFD int
	// NewPID gives the child a PID namespace of its own.
	NewPID bool
	// JoinFD is a pidfd of the container's main process, for Config.Join.
	JoinFD int
}

// Child is a spawned child that has not executed its program yet.
type Child struct {
	PID int
	// PIDFD refers to the child even after its number has been given to another.
	// The caller closes it.
	PIDFD  *os.File
	report *os.File
}

// Spawn starts a child. The caller reaps it, and calls [Child.Wait].
func Spawn(cfg *Config, attr Attr) (_ *Child, err error) {
	config, err := configFile(cfg)
	if err != nil {
		return nil, err
	}
	defer config.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "report"), pair[1]
	defer unix.Close(theirs)
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()

	files := make([]uintptr, 0, fdJoin+1)
	for _, f := range attr.Stdio {
		// Programs do not expect the non-blocking pipes that the runtime makes.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			return nil, fmt.Errorf("standard stream: %w", err)
		}
		files = append(files, f.Fd())
	}
	files = append(files, config.Fd(), uintptr(theirs))
	if cfg.Join {
		files = append(files, uintptr(attr.JoinFD))
	}
	pidfd := -1
	sys := &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	if !cfg.Join {
		sys.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
		if attr.NewPID {
			sys.Cloneflags |= unix.CLONE_NEWPID
		}
	}
	if attr.CgroupFD >= 0 {
		sys.UseCgroupFD = true
		sys.CgroupFD = attr.CgroupFD
	}
	fork := func() (int, error) {
		return syscall.ForkExec(attr.Program, []string{Name}, &syscall.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: sys})
	}
	var pid int
	if cfg.Join && attr.NewPID {
		pid, err = forkInPIDNamespace(attr.JoinFD, fork)
	} else {
		pid, err = fork()
	}
	runtime.KeepAlive(attr.Stdio)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", attr.Program, err)
	}
	child := &Child{PID: pid, report: ours}
	if pidfd >= 0 {
		child.PIDFD = os.NewFile(uintptr(pidfd), "pidfd")
	}
	return child, nil
}

// forkInPIDNamespace forks a child into the PID namespace of another process. Unlike other
// namespaces this one is entered only by children. The thread that has changed is
// not used again: it ends with its goroutine.
func forkInPIDNamespace(pidfd int, fork func() (int, error)) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Setns(pidfd, unix.CLONE_NEWPID); err != nil {
			err = fmt.Errorf("entering the container's PID namespace: %w", err)
			return
		}
		pid, err = fork()
	}()
	<-done
	return pid, err
}

// configFile is an unnamed file with the configuration.
func configFile(cfg *Config) (*os.File, error) {
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	fd, err := unix.MemfdCreate("hull-stage", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "config")
	if _, err = f.Write(raw); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return f, nil
}

// Wait returns when the child has executed its program, with the master of its
// terminal if it has one, or has failed. In either case the child is still to be reaped.
func (c *Child) Wait() (terminal *os.File, err error) {
	defer c.report.Close()
	defer func() {
		if err != nil && terminal != nil {
			terminal.Close()
			terminal = nil
		}
	}()
	executing := false
	for {
		m, fd, err := c.receive()
		if err != nil {
			return terminal, fmt.Errorf("waiting for the child: %w", err)
		}
		if fd != nil {
			if terminal != nil {
				terminal.Close()
			}
			terminal = fd
		}
		switch {
		case m == nil && executing:
			return terminal, nil
		case m == nil:
			return terminal, errors.New("the child ended before it executed its program (out of memory?)")
		case m.Error != nil:
			return terminal, m.Error
		case m.Execute:
			executing = true
		}
	}
}

// receive reads one message; nil at the socket's end.
func (c *Child) receive() (*message, *os.File, error) {
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var err error
	for {
		n, oobn, _, _, err = unix.Recvmsg(int(c.report.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.ECONNRESET || (err == nil && n == 0) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var fd *os.File
	if cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range cmsgs {
			fds, err := unix.ParseUnixRights(&cmsgs[i])
			if err != nil {
				continue
			}
			for _, n := range fds {
				if fd != nil {
					fd.Close()
				}
				// Non-blocking, so that it may be closed under a reader.
				_ = unix.SetNonblock(n, true)
				fd = os.NewFile(uintptr(n), "terminal")
			}
		}
	}
	var m message
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		return nil, fd, &proto.Error{Code: proto.CodeIO, Message: "report of the child: " + err.Error()}
	}
	return &m, fd, nil
}
