// Command bootbench measures how fast monitors start a guest, side by side in
// one run, and prints medians and ratios. "make bench-boot" and "make bench-snapshot" run it:
//
//	bootbench host    on this machine's own KVM, with a bare-metal guest of a few
//	                  instructions: exec to the guest's first sign of life
//	bootbench linux   where Linux can boot, also in the lab's deterministic mode,
//	                  where a millisecond is a million instructions: exec to a
//	                  marker line of /init, and to the end of the process
//	bootbench warm    there as well: containers whose VM starts from a template, beside those whose
//	                  VM boots
//
// Rounds are interleaved, one run of each monitor a round, so that a machine
// whose speed drifts does so for all of them.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "bootbench: say host, linux or warm")
		os.Exit(2)
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	var o options
	flags.IntVar(&o.rounds, "n", 15, "rounds")
	flags.StringVar(&o.hull, "hull", "bin/hull", "the hull command")
	flags.StringVar(&o.vmm, "hull-vmm", "build/hull-vmm", "the VM process")
	flags.StringVar(&o.gokvm, "gokvm", "", "gokvm, to compare with; left out when empty")
	flags.StringVar(&o.qemu, "qemu", "qemu-system-x86_64", "QEMU, to compare with; left out when empty")
	flags.StringVar(&o.kernel, "kernel", "build/kernel/vmlinux", "linux: the kernel that all boot")
	flags.BoolVar(&o.run, "run", true, "linux: also measure \"hull run\"")
	_ = flags.Parse(os.Args[2:]) // ExitOnError
	var err error
	switch os.Args[1] {
	case "host":
		err = host(o)
	case "linux":
		err = linux(o)
	case "warm":
		err = warm(o)
	default:
		err = fmt.Errorf("%q: say host, linux or warm", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bootbench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds                 int
	hull, vmm, gokvm, qemu string
	kernel                 string
	run                    bool
}
