// Command test evaluates a condition, as the shell's builtin of that name does.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	program, err := syntax.NewParser().Parse(strings.NewReader(`test "$@"`), "test")
	if err == nil {
		var r *interp.Runner
		r, err = interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.Params(append([]string{"--"}, args...)...))
		if err == nil {
			err = r.Run(context.Background(), program)
		}
	}
	if err == nil {
		return 0
	}
	if status, ok := interp.IsExitStatus(err); ok {
		return int(status)
	}
	fmt.Fprintln(os.Stderr, "test:", err)
	return 2
}
