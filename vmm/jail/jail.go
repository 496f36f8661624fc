package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
)

// Env is the environment variable that makes the jail of a VM process another: for debugging.
const Env = "HULL_JAIL"

// Values of Env.
const (
	// Off leaves the process as it is.
	Off = "off"
	// Trap makes a crash of the Go runtime, with a stack, of what would end the process without a word.
	Trap = "trap"
)

// Jail is a confinement that is prepared: what it needs a path for is open.
type Jail struct {
	mode  string
	calls []call
	caps  uint64   // to be kept, a bit for each
	rules ruleset  // of Landlock
	root  bool     // a root directory of its own is to be made
	keep  []string // directories that it has
	user  uint32   // who the process becomes, if it has such a root directory; 0: nobody else
}

// ForVM prepares the jail of a process that runs the VM c and nothing else, and gets all it needs later by descriptors.
// The files of c must be as vmm.New will find them. mode is the value of Env; isolated says that Isolate has started the process.
func ForVM(c *vmm.Config, mode string, isolated bool) (*Jail, error) {
	j, err := prepare(mode)
	if err != nil || mode == Off {
		return j, err
	}
	j.root, j.user = isolated, c.User
	if j.user != 0 && len(c.Shares) > 0 {
		return nil, fmt.Errorf("jail: user %d: shared directories have files of others, which takes root", j.user)
	}
	j.calls = append(j.calls, vmCalls()...)
	if c.Vsock != nil {
		j.calls = append(j.calls, connectCalls()...)
		j.keep = []string{filepath.Dir(c.Vsock.Path)} // guests connect to the sockets beside that one
	}
	if len(c.Shares) > 0 {
		j.calls = append(j.calls, fileCalls()...)
		j.caps = shareCaps
	} else if len(c.OrphanRemove) > 0 {
		j.calls = append(j.calls, removeCalls()...)
	}
	if err := j.rules.forVM(c); err != nil {
		j.rules.close()
		return nil, fmt.Errorf("jail: Landlock: %w", err)
	}
	return j, nil
}

// ForServer prepares the jail of a process that runs a VM and serves an API which names files by their paths.
func ForServer(mode string) (*Jail, error) {
	j, err := prepare(mode)
	if err != nil || mode == Off {
		return j, err
	}
	for _, calls := range [][]call{vmCalls(), connectCalls(), fileCalls(), serverCalls()} {
		j.calls = append(j.calls, calls...)
	}
	j.caps = 1 << unix.CAP_DAC_OVERRIDE
	if err := j.rules.forServer(); err != nil {
		j.rules.close()
		return nil, fmt.Errorf("jail: Landlock: %w", err)
	}
	return j, nil
}

func prepare(mode string) (*Jail, error) {
	switch mode {
	case "", Off, Trap:
		return &Jail{mode: mode, rules: noRules}, nil
	}
	return nil, fmt.Errorf("jail: %s=%q: must be %s or %s, or not set", Env, mode, Off, Trap)
}

// WithoutSeccomp leaves system calls as they are.
func (j *Jail) WithoutSeccomp() { j.calls = nil }

// Enter confines this process for good, on all its threads. It must be called once. After an error the process may be
// half confined, and should end.
func (j *Jail) Enter() error {
	if j.mode == Off {
		return nil
	}
	defer j.rules.close()
	runtime.LockOSThread() // no_new_privs and the filter are from one thread
	defer runtime.UnlockOSThread()
	if err := lowerLimits(); err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	if j.root {
		switch err := newRoot(j.keep); {
		case errors.Is(err, ErrNoMounts):
			j.root = false
		case err != nil:
			return fmt.Errorf("jail: %w", err)
		}
	}
	if err := j.onAllThreads(); err != nil {
		return err
	}
	if len(j.calls) == 0 {
		return nil
	}
	deny := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	if j.mode == Trap {
		deny = unix.SECCOMP_RET_TRAP
	}
	if err := install(assemble(append(j.calls, softly()...), deny)); err != nil {
		return fmt.Errorf("jail: seccomp: %w", err)
	}
	return nil
}

// onAllThreads does what the kernel does for one thread at a time.
func (j *Jail) onAllThreads() error {
	// Landlock asks for no_new_privs on each thread; the filter would spread it by itself.
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	switch {
	case errno == unix.ENOTSUP:
		// A program that is linked with C has threads that Go's runtime knows nothing of: those that are built for a
		// release are not. It has its filter, from this thread.
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("jail: no new privileges: %w", err)
		}
		return nil
	case errno != 0:
		return fmt.Errorf("jail: no new privileges: %w", errno)
	}
	if err := j.rules.enter(); err != nil {
		return fmt.Errorf("jail: Landlock: %w", err)
	}
	// Outside of that root directory, somebody else may not get at its sockets.
	if j.user != 0 && j.root {
		if err := become(j.user); err != nil {
			return fmt.Errorf("jail: %w", err)
		}
	}
	if err := dropCaps(j.caps); err != nil {
		return fmt.Errorf("jail: capabilities: %w", err)
	}
	return nil
}

// lowerLimits has the process leave no core, in which the guest's memory would be, and get no more descriptors than it
// may have now.
func lowerLimits() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit of core dumps: %w", err)
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit of descriptors: %w", err)
	}
	files.Max = files.Cur
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit of descriptors: %w", err)
	}
	return nil
}

// Removal is a number of paths that a confined process can remove.
type Removal struct {
	roots []*os.Root
	names []string
}

// NewRemoval opens what it takes to remove the paths later. One whose directory is not there is left out.
func NewRemoval(paths []string) *Removal {
	r := &Removal{}
	for _, p := range paths {
		dir, name := filepath.Split(filepath.Clean(p))
		if root, err := os.OpenRoot(dir); err == nil {
			r.roots, r.names = append(r.roots, root), append(r.names, name)
		}
	}
	return r
}

// Remove removes all that it can, in order.
func (r *Removal) Remove() error {
	var errs []error
	for i, root := range r.roots {
		errs = append(errs, root.RemoveAll(r.names[i]))
	}
	return errors.Join(errs...)
}
