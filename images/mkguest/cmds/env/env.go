// Command env runs a program in a changed environment, or prints the environment.
//
//	env [-i] [-0] [-u NAME]... [NAME=VALUE]... [COMMAND [ARGUMENT]...]
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

const (
	statusUsage         = 125 // env itself failed
	statusNotExecutable = 126
	statusNotFound      = 127
)

func main() { os.Exit(run(os.Args[1:], os.Environ())) }

func run(args, environ []string) int {
	end := "\n"
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
		case arg == "-" || arg == "-i" || arg == "--ignore-environment":
			environ = nil
			continue
		case arg == "-0" || arg == "--null":
			end = "\x00"
			continue
		case arg == "-u" && len(args) > 0:
			environ = without(environ, args[0])
			args = args[1:]
			continue
		case strings.HasPrefix(arg, "--unset="):
			environ = without(environ, strings.TrimPrefix(arg, "--unset="))
			continue
		default:
			fmt.Fprintf(os.Stderr, "env: unknown option or missing argument: %s\n", arg)
			return statusUsage
		}
		break
	}
	for len(args) > 0 && strings.Contains(args[0], "=") {
		name, _, _ := strings.Cut(args[0], "=")
		environ = append(without(environ, name), args[0])
		args = args[1:]
	}
	if len(args) == 0 {
		for _, v := range environ {
			fmt.Print(v, end)
		}
		return 0
	}
	// The program is looked for in the PATH it is to have.
	os.Setenv("PATH", lookup(environ, "PATH"))
	path, err := exec.LookPath(args[0])
	if err == nil || errors.Is(err, exec.ErrDot) {
		err = syscall.Exec(path, args, environ)
	}
	fmt.Fprintf(os.Stderr, "env: %s: %v\n", args[0], errors.Unwrap(err))
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return statusNotFound
	}
	return statusNotExecutable
}

func without(environ []string, name string) []string {
	var left []string
	for _, v := range environ {
		if !strings.HasPrefix(v, name+"=") {
			left = append(left, v)
		}
	}
	return left
}

func lookup(environ []string, name string) string {
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}
