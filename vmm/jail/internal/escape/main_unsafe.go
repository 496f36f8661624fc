// Command escape is a process that confines itself as that of a VM does, and then tries to get out, one way at a time: the
// tests of package jail run it.
//
//	escape CONFIGURATION ATTEMPT
//
// CONFIGURATION is a vmm.Config. It prints how the attempt went: "done", or "refused" and the error. What ends it prints
// nothing.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
)

var removal *jail.Removal

func main() {
	config := os.Args[1]
	attempt, path, _ := strings.Cut(os.Args[2], " ")
	var c vmm.Config
	fail(json.Unmarshal([]byte(config), &c))
	j, err := jail.ForVM(&c, os.Getenv(jail.Env), os.Getenv(jail.EnvIsolated) != "")
	fail(err)
	// Threads that were there before, one of them in a system call that lasts.
	r, _, err := os.Pipe()
	fail(err)
	go unix.Read(int(r.Fd()), make([]byte, 1))
	removal = jail.NewRemoval(c.OrphanRemove)
	work, result := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread()
		for f := range work {
			result <- f()
		}
	}()
	began := time.Now()
	fail(j.Enter())
	if attempt == "enter" {
		fmt.Println(time.Since(began).Nanoseconds())
		return
	}
	f, ok := attempts[attempt]
	if !ok {
		fail(fmt.Errorf("no attempt %q", attempt))
	}
	work <- func() error { return f(path) }
	if err := <-result; err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println("done")
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "escape:", err)
		os.Exit(2)
	}
}

// raw makes a system call.
func raw(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	fail(err)
	return uintptr(unsafe.Pointer(p))
}

func socket(domain, kind int) func(string) error {
	return func(string) error {
		_, err := unix.Socket(domain, kind, 0)
		return err
	}
}

func call(nr uintptr, args ...uintptr) func(string) error {
	return func(string) error { return raw(nr, args...) }
}

var attempts = map[string]func(path string) error{
	"nothing":     func(string) error { return nil },
	"read":        func(path string) error { return open(path, unix.O_RDONLY) },
	"write":       func(path string) error { return open(path, unix.O_WRONLY) },
	"create":      func(path string) error { return open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL) },
	"remove":      func(path string) error { return unix.Unlinkat(unix.AT_FDCWD, path, 0) },
	"rename":      func(path string) error { return unix.Renameat(unix.AT_FDCWD, path, unix.AT_FDCWD, path+".new") },
	"list":        func(path string) error { return open(path, unix.O_RDONLY|unix.O_DIRECTORY) },
	"exec":        func(path string) error { return unix.Exec(path, []string{path}, nil) },
	"execveat":    func(path string) error { return raw(unix.SYS_EXECVEAT, ^uintptr(99), text(path), 0, 0, 0) },
	"fork":        call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)),
	"vfork":       call(unix.SYS_VFORK),
	"namespace":   call(unix.SYS_CLONE, uintptr(unix.CLONE_VM|unix.CLONE_THREAD|unix.CLONE_SIGHAND|unix.CLONE_NEWUTS)),
	"clone3":      call(unix.SYS_CLONE3),
	"unshare":     call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
	"setns":       call(unix.SYS_SETNS, 0, 0),
	"ptrace":      func(string) error { return raw(unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(os.Getppid())) },
	"vmread":      func(string) error { return raw(unix.SYS_PROCESS_VM_READV, uintptr(os.Getppid())) },
	"kill":        func(string) error { return unix.Kill(os.Getppid(), 0) },
	"tgkill":      func(string) error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
	"pidfd":       func(string) error { return raw(unix.SYS_PIDFD_OPEN, uintptr(os.Getppid())) },
	"mount":       func(path string) error { return raw(unix.SYS_MOUNT, text("none"), text(path), text("tmpfs"), 0, 0) },
	"umount":      func(path string) error { return raw(unix.SYS_UMOUNT2, text(path), 0) },
	"pivot":       func(path string) error { return raw(unix.SYS_PIVOT_ROOT, text(path), text(path)) },
	"chroot":      func(path string) error { return raw(unix.SYS_CHROOT, text(path)) },
	"chdir":       func(path string) error { return raw(unix.SYS_CHDIR, text(path)) },
	"setuid":      call(unix.SYS_SETUID, 0),
	"setresuid":   call(unix.SYS_SETRESUID, 0, 0, 0),
	"capset":      call(unix.SYS_CAPSET),
	"bpf":         call(unix.SYS_BPF),
	"keyctl":      call(unix.SYS_KEYCTL),
	"io_uring":    call(unix.SYS_IO_URING_SETUP, 8),
	"perf":        call(unix.SYS_PERF_EVENT_OPEN),
	"userfaultfd": call(unix.SYS_USERFAULTFD),
	"memfd":       func(string) error { return raw(unix.SYS_MEMFD_CREATE, text("x"), 0) },
	"module":      call(unix.SYS_FINIT_MODULE),
	"reboot":      call(unix.SYS_REBOOT),
	"kexec":       call(unix.SYS_KEXEC_LOAD),
	"settime":     call(unix.SYS_CLOCK_SETTIME),
	"hostname":    call(unix.SYS_SETHOSTNAME),
	"handle":      call(unix.SYS_OPEN_BY_HANDLE_AT),
	"fanotify":    call(unix.SYS_FANOTIFY_INIT),
	"inotify":     call(unix.SYS_INOTIFY_INIT1),
	"syslog":      call(unix.SYS_SYSLOG, 3),
	"swapon":      call(unix.SYS_SWAPON),
	"iopl":        call(unix.SYS_IOPL, 3),
	"seccomp":     call(unix.SYS_SECCOMP, 1),
	"x32":         call(0x40000000 | unix.SYS_GETPID),
	"inet":        socket(unix.AF_INET, unix.SOCK_STREAM),
	"inet6":       socket(unix.AF_INET6, unix.SOCK_DGRAM),
	"netlink":     socket(unix.AF_NETLINK, unix.SOCK_RAW),
	"packet":      socket(unix.AF_PACKET, unix.SOCK_RAW),
	"vsock":       socket(unix.AF_VSOCK, unix.SOCK_STREAM),
	"unix":        socket(unix.AF_UNIX, unix.SOCK_STREAM),
	"limit": func(string) error {
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 19, Max: 1 << 19})
	},
	"core":      func(string) error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) },
	"dumpable":  func(string) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	"privilege": func(string) error { return unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0) },
	"code": func(string) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		return err
	},
	"protect": func(string) error {
		m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		fail(err)
		return unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC)
	},
	"ioctl": func(string) error { // puts a character into a terminal's input
		c := byte('x')
		return raw(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
	},
	"connect": func(path string) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	},
	"work":   work,
	"orphan": func(string) error { return removal.Remove() },
	"wait": func(string) error {
		fmt.Println("ready")
		_, err := os.Stdin.Read(make([]byte, 1))
		return err
	},
}

// work is what a Go program does under load: memory, collections, threads, timers, signals.
func work(string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			runtime.LockOSThread() // its thread ends with it
			time.Sleep(time.Millisecond)
			kept := make([][]byte, 0, 100)
			for range 100 {
				kept = append(kept, make([]byte, 64<<10))
			}
			runtime.KeepAlive(kept)
		})
	}
	all.Wait()
	runtime.GC()
	if err := syscall.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
		return err
	}
	<-signals
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	go func() { w.Write([]byte("x")); w.Close() }()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		return err
	}
	return r.Close()
}
