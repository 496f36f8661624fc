// Command sh is the shell of the built-in image.
//
//	sh [-abefiunvx] [-c COMMAND | FILE | -s] [ARGUMENT...]
//
// Like u-root's gosh it is a thin shell around mvdan.cc/sh's interpreter, which knows POSIX and much of bash.
// What it does better is what containers need: positional parameters ("$0", "$@"), exit statuses 126 and
// 127 as POSIX has them, scripts without "#!", and a line editor without much
// weight. It has no job control: what it starts shares its process group, so that Ctrl-C reaches all of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// usageStatus is the exit status for wrong usage and for syntax errors.
const usageStatus = 2

// invocation is a parsed command line.
type invocation struct {
	command     *string  // -c
	stdin       bool     // -s
	interactive bool     // -i
	options     []string // for the interpreter's set
	args        []string // $0, if the command line gives it, and $1, $2, …
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	inv, err := parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sh:", err)
		return usageStatus
	}
	name := "sh"
	var script *os.File
	if inv.command != nil || inv.stdin {
		if inv.command != nil && len(inv.args) > 0 {
			name, inv.args = inv.args[0], inv.args[1:]
		}
	} else if len(inv.args) > 0 {
		name, inv.args = inv.args[0], inv.args[1:]
		if script, err = openScript(name); err != nil {
			fmt.Fprintf(os.Stderr, "sh: %v\n", err)
			return statusOf(err)
		}
		defer script.Close()
	}
	interactive := inv.command == nil && script == nil && (inv.interactive || term.IsTerminal(0))
	s, err := newShell(name, inv, interactive)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sh:", err)
		return usageStatus
	}
	switch {
	case inv.command != nil:
		return s.runAll(strings.NewReader(*inv.command), name)
	case script != nil:
		return s.runAll(script, name)
	case interactive && term.IsTerminal(0):
		return s.converse()
	default:
		return s.runStdin()
	}
}

// parse takes a command line apart. Options may be joined, as in -ec.
func parse(args []string) (*invocation, error) {
	inv := &invocation{}
	wantCommand := false
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		if arg == "-o" || arg == "+o" {
			if len(args) == 0 {
				return nil, errors.New("-o needs an argument")
			}
			inv.options = append(inv.options, arg, args[0])
			args = args[1:]
			continue
		}
		for _, c := range arg[1:] {
			switch c {
			case 'c':
				wantCommand = true
			case 's':
				inv.stdin = true
			case 'i':
				inv.interactive = true
			case 'l': // a login shell; there is no profile to read
			case 'a', 'e', 'f', 'n', 'u', 'x':
				inv.options = append(inv.options, arg[:1]+string(c))
			case 'b', 'h', 'm', 'v': // accepted, without effect
			default:
				return nil, fmt.Errorf("unknown option -%c", c)
			}
		}
	}
	if wantCommand {
		if len(args) == 0 {
			return nil, errors.New("-c needs an argument")
		}
		inv.command = &args[0]
		args = args[1:]
	}
	inv.args = args
	return inv, nil
}

func openScript(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("is a directory")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// shell is an interpreter with what sh adds to it.
type shell struct {
	runner *interp.Runner
	parser *syntax.Parser
	status int
}

func newShell(name string, inv *invocation, interactive bool) (*shell, error) {
	params := append(append([]string{}, inv.options...), "--")
	r, err := interp.New(
		interp.StdIO(os.Stdin, os.Stdout, os.Stderr),
		interp.Interactive(interactive),
		interp.Params(append(params, inv.args...)...),
		interp.CallHandler(replaceBuiltins),
		interp.ExecHandlers(execute),
	)
	if err != nil {
		return nil, err
	}
	return &shell{runner: r, parser: syntax.NewParser(syntax.Variant(syntax.LangBash), syntax.KeepComments(false))}, nil
}

// runAll runs a whole program and returns its exit status.
func (s *shell) runAll(r io.Reader, name string) int {
	program, err := s.parser.Parse(r, name)
	if err != nil {
		return s.syntaxError(err, name)
	}
	s.note(s.runner.Run(context.Background(), program), name)
	return s.status
}

// runStdin runs standard input, each statement as soon as it has come.
func (s *shell) runStdin() int {
	const name = "sh"
	err := s.parser.Stmts(os.Stdin, func(stmt *syntax.Stmt) bool {
		return s.runStmt(stmt, name)
	})
	if err != nil {
		return s.syntaxError(err, name)
	}
	if !s.runner.Exited() {
		// The end of an empty program runs what "trap … EXIT" asks for.
		_ = s.runner.Run(context.Background(), &syntax.File{Name: name})
	}
	return s.status
}

func (s *shell) syntaxError(err error, name string) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	return usageStatus
}

// runStmt runs one statement; false means that the shell is to exit.
func (s *shell) runStmt(stmt *syntax.Stmt, name string) bool {
	err := s.runner.Run(context.Background(), stmt)
	s.note(err, name)
	return !s.runner.Exited()
}

func (s *shell) note(err error, name string) {
	s.status = 0
	if err == nil {
		return
	}
	if code, ok := interp.IsExitStatus(err); ok {
		s.status = int(code)
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	s.status = 1
}
