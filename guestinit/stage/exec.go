package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// defaultNoFile is the limit of open files of a process for which none is given.
// That, and no limit of processes, is what docker gives.
const defaultNoFile = 1 << 20

// execute gives the process its identity and limits, and executes its program.
// It returns only if that fails.
func execute(p *specs.Process) error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return &proto.Error{Code: proto.CodeInvalid, Message: "no command given"}
	}
	passwd, group, err := readUsers()
	if err != nil {
		return err
	}
	id, err := lookupUser(p.User, passwd, group)
	if err != nil {
		return err
	}
	if err := setLimits(p.Rlimits); err != nil {
		return err
	}
	if err := ownStdio(id); err != nil {
		return err
	}
	cwd := p.Cwd
	if cwd == "" {
		cwd = "/"
	}
	if err := unix.Chdir(cwd); err != nil {
		return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("working directory %s: %v", cwd, err)}
	}
	if err := become(id, p); err != nil {
		return err
	}
	env := withDefault(p.Env, "HOME", id.home)
	path, err := look(p.Args[0], lookupEnv(env, "PATH"))
	if err != nil {
		return err
	}
	if err := send(message{Execute: true}, -1); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	heedSignals()
	return executeError(p.Args[0], path, syscall.Exec(path, p.Args, env))
}

// executeError classes a failure of execve.
func executeError(name, path string, err error) error {
	code, reason := proto.CodeIO, err.Error()
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		code = proto.CodeNotFound
		if _, serr := os.Stat(path); serr == nil {
			reason = "its interpreter or dynamic loader does not exist in the image"
		}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ETXTBSY):
		code = proto.CodeNotExecutable
	case errors.Is(err, unix.ENOEXEC):
		code, reason = proto.CodeNotExecutable, "exec format error: not a program for this machine, nor a script that begins with #!"
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		code = proto.CodeInvalid
	}
	return &proto.Error{Code: code, Message: fmt.Sprintf("exec %q: %s", name, reason)}
}

// become takes on an identity, and the capabilities that go with it.
func become(id *identity, p *specs.Process) error {
	var caps *capabilitySets
	if p.Capabilities != nil {
		sets, err := parseCapabilities(p.Capabilities)
		if err != nil {
			return err
		}
		caps = &sets
		if err := caps.dropBounding(); err != nil {
			return err
		}
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("keeping capabilities: %w", err)
		}
	}
	// These must be this thread's alone and at once: what the syscall package has would
	// go through all threads of the runtime.
	if err := rawSetgroups(id.groups); err != nil {
		return fmt.Errorf("setting the groups %v: %w", id.groups, err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(id.gid), uintptr(id.gid), uintptr(id.gid)); errno != 0 {
		return fmt.Errorf("becoming group %d: %w", id.gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(id.uid), uintptr(id.uid), uintptr(id.uid)); errno != 0 {
		return fmt.Errorf("becoming user %d: %w", id.uid, errno)
	}
	if caps != nil {
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("keeping capabilities: %w", err)
		}
		if err := caps.apply(); err != nil {
			return err
		}
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("setting no_new_privs: %w", err)
		}
	}
	umask := 0o022
	if p.User.Umask != nil {
		umask = int(*p.User.Umask & 0o777)
	}
	unix.Umask(umask)
	return nil
}

// ownStdio gives pipes that are the standard streams to the user, who may want to
// open them again as /dev/stdout.
func ownStdio(id *identity) error {
	if id.uid == 0 {
		return nil
	}
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("standard stream %d: %w", fd, err)
		}
		pipe := st.Mode&unix.S_IFMT == unix.S_IFIFO
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if !pipe && err != nil {
			continue // /dev/null, which is everybody's
		}
		if err := unix.Fchown(fd, id.uid, int(st.Gid)); err != nil {
			return fmt.Errorf("giving standard stream %d to user %d: %w", fd, id.uid, err)
		}
	}
	return nil
}

// rlimitNumber finds a limit by its name.
func rlimitNumber(name string) (int, bool) {
	n, ok := map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	}[name]
	return n, ok
}

func setLimits(limits []specs.POSIXRlimit) error {
	given := make(map[int]bool)
	for _, l := range limits {
		n, ok := rlimitNumber(l.Type)
		if !ok {
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("unknown limit %q", l.Type)}
		}
		if err := unix.Setrlimit(n, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return fmt.Errorf("setting %s to %d (at most %d): %w", l.Type, l.Soft, l.Hard, err)
		}
		given[n] = true
	}
	for n, limit := range map[int]uint64{unix.RLIMIT_NOFILE: defaultNoFile, unix.RLIMIT_NPROC: unix.RLIM_INFINITY} {
		if !given[n] {
			// A wish, not a demand: it is fine if this kernel allows less.
			_ = unix.Setrlimit(n, &unix.Rlimit{Cur: limit, Max: limit})
		}
	}
	return nil
}

// withDefault adds a variable that the environment does not have.
func withDefault(env []string, name, value string) []string {
	for _, v := range env {
		if strings.HasPrefix(v, name+"=") {
			return env
		}
	}
	return append(env[:len(env):len(env)], name+"="+value)
}

// lookupEnv finds a variable; the last of its name counts.
func lookupEnv(env []string, name string) string {
	value := ""
	for _, v := range env {
		if s, ok := strings.CutPrefix(v, name+"="); ok {
			value = s
		}
	}
	return value
}

// look finds the program: a name with a slash is its path, another is looked for
// in PATH. It runs as the container's user, so that what that user may not execute
// is passed over.
func look(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		err := executable(name)
		switch {
		case err == nil:
			return name, nil
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			return "", &proto.Error{Code: proto.CodeNotFound, Message: fmt.Sprintf("exec %q: no such file or directory", name)}
		}
		return "", &proto.Error{Code: proto.CodeNotExecutable, Message: fmt.Sprintf("exec %q: %s", name, cause(err))}
	}
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "." // POSIX, 8.3
		}
		// Like docker, and unlike a shell: what cannot be executed is passed over.
		if file := dir + "/" + name; executable(file) == nil {
			return file, nil
		}
	}
	return "", &proto.Error{Code: proto.CodeNotFound, Message: fmt.Sprintf("exec %q: executable file not found in $PATH", name)}
}

// executable tells whether the thread's user may execute a file.
func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return unix.EISDIR
	}
	if st.Mode()&0o111 == 0 {
		return unix.EACCES
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}

// cause is the system's part of an error.
func cause(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}
