// Package jailer puts a monitor that serves an API into a directory of its own before it starts, as Firecracker's jailer
// does: with a root directory that has nothing but what it needs, as an ordinary user, in cgroups, a network namespace and limits
// that whoever starts it chooses. The monitor then confines itself further (package jail).
package jailer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultBase is where the directories of jails are if nothing else is said.
const DefaultBase = "/srv/jailer"

// defaultFiles is how many descriptors a monitor may have if nothing else is said.
const defaultFiles = 2048

// Options describe a jail and what runs in it.
type Options struct {
	ID       string // of the VM, which the caller has checked: it becomes a directory
	ExecFile string // the monitor: a static program
	UID, GID int    // that it runs as
	Base     string // its root directory is Base/NAME/ID/root, NAME being that of ExecFile
	NetNS    string // path of a network namespace; "": this process's
	// Cgroup lists KEY=VALUE, files of a cgroup of version 2 and what is written to them. Without any, and without a parent, the
	// monitor stays in this process's.
	Cgroup []string
	Parent string   // cgroup in which the VM's own is, by its path below the hierarchy; "": NAME
	Limits []string // fsize=BYTES, no-file=NUMBER
	NewPID bool     // the monitor is the first process of a PID namespace
	Detach bool     // it has a session of its own, and no standard streams
	// Args follow the name of the program.
	Args []string
	// Again are the arguments with which this program calls Run once more, in the process that becomes the monitor.
	Again []string
}

// stage is set in the environment of the process that Run has started.
const stage = "HULL_JAILER_STAGE"

// Run starts the monitor. It returns only if there is an error, or if the monitor has a process other than this one: its ID is then
// in the file NAME.pid in its root directory.
func Run(o *Options) error {
	if err := o.check(); err != nil {
		return err
	}
	// Namespaces and users are a thread's. Those of the one that calls execve become the program's.
	runtime.LockOSThread()
	if os.Getenv(stage) == "" {
		if err := o.prepare(); err != nil {
			return err
		}
		if o.NewPID || o.Detach {
			return o.start()
		}
	}
	return o.become()
}

func (o *Options) name() string { return filepath.Base(o.ExecFile) }

func (o *Options) root() string { return filepath.Join(o.Base, o.name(), o.ID, "root") }

func (o *Options) check() error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("only root can make a jail")
	case o.UID < 0 || o.GID < 0 || int64(o.UID) >= 1<<32-1 || int64(o.GID) >= 1<<32-1:
		return fmt.Errorf("user %d, group %d: must be 0 to %d", o.UID, o.GID, int64(1<<32-2))
	case !filepath.IsAbs(o.Base):
		return fmt.Errorf("base directory %s: must be an absolute path", o.Base)
	}
	st, err := os.Stat(o.ExecFile)
	switch {
	case err != nil:
		return fmt.Errorf("the monitor: %w", err)
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return fmt.Errorf("the monitor: %s is not a program", o.ExecFile)
	}
	for _, c := range o.Cgroup {
		if _, _, _, err := splitCgroup(c); err != nil {
			return err
		}
	}
	if o.Parent != "" && !filepath.IsLocal(o.Parent) {
		return fmt.Errorf("parent cgroup %q: must be a path below the hierarchy", o.Parent)
	}
	_, err = o.limits()
	return err
}

// limits are those of the monitor, by their numbers.
func (o *Options) limits() (map[int]uint64, error) {
	limits := map[int]uint64{unix.RLIMIT_NOFILE: defaultFiles}
	numbers := map[string]int{"fsize": unix.RLIMIT_FSIZE, "no-file": unix.RLIMIT_NOFILE}
	for _, l := range o.Limits {
		name, value, _ := strings.Cut(l, "=")
		number, ok := numbers[name]
		n, err := strconv.ParseUint(value, 10, 63)
		if !ok || err != nil {
			return nil, fmt.Errorf("resource limit %q: must be fsize=BYTES or no-file=NUMBER", l)
		}
		limits[number] = n
	}
	return limits, nil
}

// prepare does what the monitor inherits from this process, and makes its root directory.
func (o *Options) prepare() error {
	if err := os.MkdirAll(o.root(), 0o755); err != nil {
		return fmt.Errorf("making the root directory: %w", err)
	}
	if err := o.joinCgroup(); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if o.NetNS != "" {
		f, err := os.Open(o.NetNS)
		if err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("joining the network namespace %s: %w", o.NetNS, err)
		}
	}
	limits, err := o.limits()
	if err != nil {
		return err
	}
	for number, n := range limits {
		if err := unix.Setrlimit(number, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return fmt.Errorf("resource limit of %d: %w", n, err)
		}
	}
	return nil
}

// start calls Run again, in a process of its own.
func (o *Options) start() error {
	cmd := exec.Command("/proc/self/exe", o.Again...)
	cmd.Env = append(os.Environ(), stage+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: o.Detach}
	if o.NewPID {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID
	}
	if !o.Detach {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the monitor: %w", err)
	}
	root, err := os.OpenRoot(o.root())
	if err == nil {
		defer root.Close()
		err = writeNew(root, o.name()+".pid", []byte(strconv.Itoa(cmd.Process.Pid)))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the monitor's process ID: %w", err), cmd.Process.Kill())
	}
	return nil
}

// writeNew makes a file where a user who is not trusted may have made another thing.
func writeNew(root *os.Root, name string, data []byte) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// become makes this process the monitor.
func (o *Options) become() error {
	if err := o.enterRoot(); err != nil {
		return fmt.Errorf("changing the root directory to %s: %w", o.root(), err)
	}
	if err := o.furnish(); err != nil {
		return fmt.Errorf("furnishing %s: %w", o.root(), err)
	}
	// What the caller has open besides the standard streams is not for the monitor.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("closing files: %w", err)
	}
	if err := errors.Join(unix.Setgroups(nil), unix.Setresgid(o.GID, o.GID, o.GID), unix.Setresuid(o.UID, o.UID, o.UID)); err != nil {
		return fmt.Errorf("becoming user %d, group %d: %w", o.UID, o.GID, err)
	}
	err := unix.Exec("/"+o.name(), append([]string{o.name()}, o.Args...), nil)
	return fmt.Errorf("starting %s: %w: it must be a static program", o.ExecFile, err)
}

// enterRoot makes the jail's directory the root of this thread, in a mount namespace of its own in which there is nothing else but the
// monitor's program.
func (o *Options) enterRoot() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("making namespaces: %w", err)
	}
	program, err := unix.Open(o.ExecFile, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: o.ExecFile, Err: err}
	}
	defer unix.Close(program)
	root := o.root()
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("separating mounts from the host's: %w", err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting it: %w", err)
	}
	if err := o.mountProgram(program); err != nil {
		return fmt.Errorf("mounting %s: %w", o.ExecFile, err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the host's: %w", err)
	}
	return unix.Chdir("/")
}

// mountProgram puts the monitor's program into its root directory, which takes no copy of it.
func (o *Options) mountProgram(program int) error {
	root, err := os.OpenRoot(o.root())
	if err != nil {
		return err
	}
	defer root.Close()
	if err := writeNew(root, o.name(), nil); err != nil {
		return err
	}
	f, err := root.Open(o.name())
	if err != nil {
		return err
	}
	defer f.Close()
	at := procFD(int(f.Fd()))
	if err := unix.Mount(procFD(program), at, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	mounted, err := root.Open(o.name())
	if err != nil {
		return err
	}
	defer mounted.Close()
	return unix.Mount("", procFD(int(mounted.Fd())), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// devices are those that a monitor opens.
var devices = []struct {
	path         string
	major, minor uint32
}{{"/dev/kvm", 10, 232}, {"/dev/net/tun", 10, 200}, {"/dev/urandom", 1, 9}}

// furnish makes what the monitor needs in its root directory, which is this thread's now: no link in it leads out of it.
func (o *Options) furnish() error {
	for _, d := range []string{"/", "/dev", "/dev/net", "/run", "/proc"} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if d == "/proc" {
			break
		}
		if err := errors.Join(os.Chmod(d, 0o700), os.Lchown(d, o.UID, o.GID)); err != nil {
			return err
		}
	}
	for _, d := range devices {
		if err := os.Remove(d.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := unix.Mknod(d.path, unix.S_IFCHR|0o600, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return &os.PathError{Op: "mknod", Path: d.path, Err: err}
		}
		if err := os.Lchown(d.path, o.UID, o.GID); err != nil {
			return err
		}
	}
	// Of its own processes, and of no others: to save its memory the monitor asks which pages it has.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	err := unix.Mount("proc", "/proc", "proc", flags, "hidepid=2,subset=pid")
	if errors.Is(err, unix.EINVAL) { // Linux 5.7 and earlier
		err = unix.Mount("proc", "/proc", "proc", flags, "hidepid=2")
	}
	if err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return nil
}
