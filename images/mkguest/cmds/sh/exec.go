package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
)

// Exit statuses of the shell for commands that cannot be run (POSIX, 2.8.2).
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

func statusOf(err error) int {
	if errors.Is(err, fs.ErrNotExist) {
		return statusNotFound
	}
	return statusNotExecutable
}

// execute runs the commands that are no builtins. It stands in for the
// interpreter's own handler, which takes a file that cannot be executed as its own failure.
func execute(interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		path, err := look(hc.Dir, hc.Env.Get("PATH").String(), args[0])
		if err != nil {
			fmt.Fprintf(hc.Stderr, "sh: %s: %s\n", args[0], reason(err))
			return interp.NewExitStatus(uint8(statusOf(err)))
		}
		cmd := &exec.Cmd{
			Path: path, Args: args, Env: environ(hc.Env), Dir: hc.Dir,
			Stdin: hc.Stdin, Stdout: hc.Stdout, Stderr: hc.Stderr,
		}
		err = cmd.Start()
		if errors.Is(err, syscall.ENOEXEC) {
			// A script that does not say of what: it is for the shell.
			cmd = &exec.Cmd{
				Path: "/proc/self/exe", Args: append([]string{"sh", path}, args[1:]...), Env: cmd.Env, Dir: hc.Dir,
				Stdin: hc.Stdin, Stdout: hc.Stdout, Stderr: hc.Stderr,
			}
			err = cmd.Start()
		}
		if err != nil {
			fmt.Fprintf(hc.Stderr, "sh: %s: %s\n", args[0], reason(err))
			return interp.NewExitStatus(uint8(statusOf(err)))
		}
		err = cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return err
		}
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return interp.NewExitStatus(uint8(128 + int(ws.Signal())))
		}
		return interp.NewExitStatus(uint8(exit.ExitCode()))
	}
}

// replaceBuiltins carries out the builtins that the interpreter knows but does not have.
func replaceBuiltins(ctx context.Context, args []string) ([]string, error) {
	if args[0] != "umask" {
		return args, nil
	}
	if len(args) == 1 {
		old := syscall.Umask(0)
		syscall.Umask(old)
		return []string{"printf", "%s\n", fmt.Sprintf("%04o", old)}, nil
	}
	mask, err := strconv.ParseUint(args[1], 8, 9)
	if err != nil {
		fmt.Fprintf(interp.HandlerCtx(ctx).Stderr, "sh: umask: not an octal mask: %s\n", args[1])
		return []string{"false"}, nil
	}
	syscall.Umask(int(mask))
	return []string{"true"}, nil
}

// reason is an error without the operation and the path, which are said elsewhere.
func reason(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "not found"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// look finds a command: by its path if it has a slash, else in PATH. A file
// that is there but cannot be executed counts only if no other can.
func look(dir, path, name string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	failure := error(fs.ErrNotExist)
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		file := filepath.Join(d, name)
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, syscall.EISDIR) {
			failure = err
		}
	}
	return "", failure
}

func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return syscall.EISDIR
	case st.Mode()&0o111 == 0:
		return syscall.EACCES
	}
	return nil
}

// environ lists the exported variables.
func environ(env expand.Environ) []string {
	var list []string
	env.Each(func(name string, v expand.Variable) bool {
		if v.IsSet() && v.Exported && v.Kind == expand.String {
			list = append(list, name+"="+v.Str)
		}
		return true
	})
	return list
}
