// Package testguest holds small bare-metal guests for tests and benchmarks of
// the monitor: ELF files of a few hundred bytes that drive one mechanism each
// and tell what they saw through an I/O port. They run on any KVM, also on one
// without hardware virtualization, where Linux cannot.
//
// Their sources are in src; "go generate" assembles them with binutils.
package testguest

import _ "embed"

//go:generate src/build.sh

// Where a guest looks for what the test gives it. The same numbers stand in
// src/guest.inc.
const (
	Port     = 0xf4        // 4-byte reports to the test
	MMIO     = 0xd800_0000 // a device of the test in memory
	Counter  = 0x20_0000   // what Spin counts in, 8 bytes
	IRQPin   = 5           // the I/O APIC pin that IRQ waits for
	Finished = 0xdead      // the last report of guests that end
)

// StateCounts is where State counts, 8 bytes each: loops, timer interrupts, disk
// requests, two of its own, and what it found wrong. Its disk has StateSectors
// sectors that begin and end with StateSalt plus their number, 4 bytes.
const (
	StateCounts  = 0x30_0000
	StateSectors = 64
	StateSalt    = 0x5eed_5eed
)

// Guests, as ELF64 files.
var (
	//go:embed hello.elf
	Hello []byte // writes to COM1 and resets the machine
	//go:embed pvh.elf
	PVH []byte // Hello as a PVH kernel
	//go:embed exits.elf
	Exits []byte // port and memory accesses of every width
	//go:embed irq.elf
	IRQ []byte // reports 1 when ready, 2 for each interrupt
	//go:embed smp.elf
	SMP []byte // starts all CPUs; each reports 0x100 plus a number
	//go:embed notify.elf
	Notify []byte // writes 0, 1, 2 to MMIO+0x50
	//go:embed spin.elf
	Spin []byte // counts in memory and never exits
	//go:embed idle.elf
	Idle []byte // reports 1 and halts for good
	//go:embed user.elf
	User []byte // reports a rising counter from privilege level 3
	//go:embed state.elf
	State []byte // checks registers, timer and the first virtio disk for ever; see StateCounts
	//go:embed fault.elf
	Fault []byte // reports 1, then a triple fault
)
