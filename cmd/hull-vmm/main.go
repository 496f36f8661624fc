// Command hull-vmm is the process of one VM. The engine starts it; people do
// not. It is kept apart from the hull command because Go runs the
// initialisation of every linked package before main: here that is the
// machine and nothing else, so that a VM starts fast and weighs little.
//
// Descriptor 3 gives the configuration (vmm.Config as JSON, to end of file).
// Descriptor 4 is a stream socket: events (vmm.Event) go out, commands
// (vmm.Command) come in, a line of JSON each. When that stream ends, whoever
// started the VM is gone, and the VM goes too.
//
// The exit status is the guest's, one of the vmm.Status constants.
package main

import (
	"os"
	"runtime/debug"
)

func main() {
	// A machine allocates little after its start: a small heap is collected
	// rarely all the same.
	debug.SetGCPercent(50)
	os.Exit(run(configFD, controlFD))
}
