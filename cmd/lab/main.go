// Command lab runs commands in a virtual machine that has nested hardware
// virtualization, on hosts that have none themselves.
//
//	lab run -- hull run --rm uroot uname -a
//	lab shell
//	lab start; lab run …; lab run …; lab stop
//
// The same program is process 1 of that machine and the agent that runs the
// commands in it. docs/lab.md describes how it all works; the packages below
// internal are, in the order of a command's way: client, keeper (only for started
// machines), wire on mux, and inner; outer builds the machine.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/hullvm/hull/cmd/lab/internal/inner"
)

// status is an error that is nothing but an exit status: all has been said.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// failure is the exit status of the lab's own errors, as docker's.
const failure = 125

func main() {
	if os.Getpid() == 1 {
		fmt.Println(inner.Init())
		fmt.Println(inner.PowerOff())
		return
	}
	if len(os.Args) == 2 && os.Args[1] == inner.AgentCommand {
		if err := inner.Agent(); err != nil {
			fmt.Println(err)
		}
		return
	}
	err := newCommand().Execute()
	var s status
	switch {
	case err == nil:
	case errors.As(err, &s):
		os.Exit(int(s))
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(failure)
	}
}
