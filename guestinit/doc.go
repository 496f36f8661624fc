// Package guestinit is PID 1 of a hull guest.
//
// [Main] is what the kernel executes as /init. It has two modes, chosen on the kernel command line (see
// [ParseCommandLine]): with hull.mode=run it serves the host as the agent of
// a container (package agent), without it gives whoever sits at the console a
// shell on the disk that is there (console.go).
//
// It is a program in a hurry: all that happens before the agent answers is on
// the way of every container's start. So it imports little, mounts with a table
// of its own (mounts.go), and leaves to the background what is needed only later.
//
// The same binary is also the stage between the agent and a program; package stage tells why.
package guestinit
