// Package vmm is the machine: it puts guest memory, vCPUs, interrupt
// controllers and devices together, boots a kernel in it and sees it to its
// end.
//
//	m, err := vmm.New(config)   // everything is in place, nothing runs
//	err = m.Start()             // the guest runs
//	m.Pause(), m.Resume()       // between instructions
//	result := m.Wait()          // until the guest ends, or Stop ends it
//	m.Close()                   // memory, KVM and files are given back
//
// New is read best in order: it is what happens between exec and the guest's
// first instruction. boot.Load writes what the guest finds in memory;
// devices.go attaches what it finds on its buses; setupCPU (registers.go) is
// how a processor wakes up.
//
// What a guest does never makes this package fail in a way of its own: a guest
// ends in one of the Reasons, each with a message and an exit status.
//
// # As a library
//
// This is the package that hull itself is made of, and a program of its own can be
// as well: there is nothing between it and /dev/kvm. A Config says what the
// machine is, Run is the whole life of one within a context, and the examples run
// as they stand wherever there is KVM. Any number of machines may be in one
// process; they share nothing. Each costs a thread for each vCPU, and one for each
// queue that is busy.
//
// Where a Config takes a File, a descriptor that is given belongs to the machine
// from then on. A device of the caller's own is put on a bus by WithPort and
// WithMMIO, whatever is to be between a network card and its host end by
// WithNetwork.
//
// A guest is hostile, and this process is what it would take over. What its
// devices may do is bounded (DiskLimits, NICLimits, PmemLimits, Rate); a program that gives
// guests to strangers should run each machine in a process of its own, as hull
// does (cmd/hull-vmm), or drive `hull vmm` over its API (package vmm/api).
package vmm
