// Package boot puts a kernel and everything it expects to find into guest
// memory, and says in what state the first processor must start.
//
// A monitor that boots a kernel directly stands in for firmware and boot
// loader. [Load] does all of it, in this order:
//
//  1. the kernel, by one of four protocols, found out by looking at the file
//     (detect.go): an ELF image at its 64-bit entry point (elf.go), the same
//     through PVH (pvh.go), a bzImage at its 64-bit entry point (bzimage.go),
//     or, asked for by name, a flat binary (flat.go);
//  2. the initial RAM disk (initrd.go) and the command line (cmdline.go);
//  3. the description of the machine: ACPI tables (acpi.go, dsdt.go), or an
//     Intel MP table and kernel parameters (mptable.go), and the few bytes of
//     firmware that a guest may still run (firmware.go);
//  4. what the protocol hands over: the zero page with the memory map and a
//     random seed (bootparams.go), or PVH's start info;
//  5. page tables and descriptors (paging.go, segments.go), and the registers
//     that go with them, returned as a [State].
//
// Every address is in layout.go with its reason. Files are read into guest
// memory; very large ones are mapped (see [memory.Memory.LoadFile]), so that they
// cost a few system calls, whatever their size. Everything in a file is taken for hostile:
// it is checked once, with arithmetic that cannot wrap, and what does not fit
// is an error that says so.
package boot

import (
	"fmt"

	"github.com/hullvm/hull/vmm/memory"
)

// Protocol is a way to hand a machine over to a kernel.
type Protocol string

const (
	// ProtocolAuto looks at the kernel's file: ProtocolELF, ProtocolPVH or
	// ProtocolBzImage.
	ProtocolAuto Protocol = ""
	// ProtocolELF starts an ELF64 image at its entry point in 64-bit mode,
	// with RSI pointing to a Linux zero page. For vmlinux and for bare-metal
	// guests.
	ProtocolELF Protocol = "elf"
	// ProtocolPVH starts an ELF64 image at the entry point of its
	// XEN_ELFNOTE_PHYS32_ENTRY note in 32-bit protected mode without paging,
	// with EBX pointing to an hvm_start_info.
	ProtocolPVH Protocol = "pvh"
	// ProtocolBzImage starts a Linux bzImage at its 64-bit entry point.
	ProtocolBzImage Protocol = "bzimage"
	// ProtocolFlat64, ProtocolFlat32 and ProtocolFlat16 copy the file to
	// Params.FlatAddress and start its first byte in 64-bit, 32-bit protected
	// or real mode. They are never detected. For tests.
	ProtocolFlat64 Protocol = "flat64"
	ProtocolFlat32 Protocol = "flat32"
	ProtocolFlat16 Protocol = "flat16"
)

// Platform says how the guest learns of its processors and devices.
type Platform string

const (
	// PlatformACPI is ACPI tables, for any kernel. The empty Platform is the
	// same.
	PlatformACPI Platform = "acpi"
	// PlatformMPTable is an Intel MP table for processors, and
	// virtio_mmio.device= words on the command line for devices.
	PlatformMPTable Platform = "mptable"
	// PlatformNone is nothing at all: for bare-metal guests.
	PlatformNone Platform = "none"
)

// Device is a virtio-mmio device as the guest is told of it.
type Device struct {
	Base uint64 // guest physical address of its registers, page-aligned
	Size uint64 // bytes of its registers
	GSI  uint32 // its edge-triggered interrupt, an input of the IOAPIC (0 to 23)
}

// Params says what to boot, and on what machine.
type Params struct {
	Kernel      Image
	Protocol    Protocol
	FlatAddress uint64 // of a flat binary, below 4 GiB

	// Initrd are archives that the kernel sees as one initial RAM disk.
	Initrd      []Image
	CommandLine string

	// APICIDs are the local APIC IDs of the vCPUs, at most MaxCPUs of them,
	// each below 255. The first is the boot processor's. None stands for one
	// vCPU with ID 0.
	APICIDs  []uint32
	Devices  []Device // at most MaxDevices
	Serial   bool     // COM1 exists
	Keyboard bool     // there is a keyboard controller, with a keyboard
	PVPanic  bool     // the pvpanic device exists at PVPanicPort
	Platform Platform

	// RandomSeed is 32 to 64 bytes for the guest's random number generator,
	// or empty. A guest booted through PVH cannot be given it.
	RandomSeed []byte

	// CopyFiles reads all files instead of mapping them: for files that
	// somebody may write to while the VM runs (see memory.MapFile).
	CopyFiles bool
}

// Load puts everything into mem, which must be new, that is all zero, and
// returns the state that the boot processor starts with. The other processors
// wait for their start-up interrupt, as after a reset.
//
// Errors wrap one of this package's Err variables. After an error mem holds
// leftovers and must be closed.
func Load(mem *memory.Memory, p Params) (*State, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	l := &loader{mem: mem, p: p}
	if err := l.load(); err != nil {
		return nil, err
	}
	return &l.state, nil
}

// loader is the work of one Load: what is where so far.
type loader struct {
	mem   *memory.Memory
	p     Params
	used  claims
	state State

	cmdline       string // as the guest sees it, without the final NUL
	cmdlineMax    uint64 // most bytes the kernel takes, without the final NUL
	initrdAddrMax uint64 // highest address of an initrd's last byte
	initrd        span   // where the initrd is, empty without one
	header        []byte // bzImage: the setup header from the file
}

func (l *loader) load() error {
	protocol, err := l.protocol()
	if err != nil {
		return err
	}
	l.state.Protocol = protocol
	l.cmdline = l.p.CommandLine
	l.cmdlineMax = defaultCmdlineMax
	l.initrdAddrMax = memory.LowEnd - 1

	if protocol == ProtocolFlat16 {
		return l.loadFlat()
	}
	if err := l.claimFixed(); err != nil {
		return err
	}
	switch protocol {
	case ProtocolELF, ProtocolPVH:
		err = l.loadELF()
	case ProtocolBzImage:
		err = l.loadBzImage()
	default:
		err = l.loadFlat()
	}
	if err != nil {
		return err
	}
	if err := l.loadInitrd(); err != nil {
		return err
	}
	if err := l.writeFirmware(); err != nil {
		return err
	}
	rsdp, err := l.writePlatform()
	if err != nil {
		return err
	}
	if err := l.writeCommandLine(); err != nil {
		return err
	}
	if protocol == ProtocolPVH {
		return l.startPVH(rsdp)
	}
	if err := l.writeBootParams(rsdp); err != nil {
		return err
	}
	if protocol == ProtocolFlat32 {
		return l.startProtected32(ZeroPage)
	}
	return l.startLong64(ZeroPage)
}

// writePlatform describes the machine. It returns the address of the ACPI
// RSDP, or 0, and may add words to the command line.
func (l *loader) writePlatform() (rsdp uint64, err error) {
	switch l.p.Platform {
	case PlatformNone:
		return 0, nil
	case PlatformMPTable:
		l.cmdline = addDeviceWords(l.cmdline, l.p.Devices)
		return 0, l.writeMPTable()
	}
	return l.writeACPI()
}

// check refuses parameters that no file can make right.
func (p *Params) check() error {
	if len(p.APICIDs) == 0 {
		p.APICIDs = []uint32{0}
	}
	if len(p.APICIDs) > MaxCPUs {
		return fmt.Errorf("boot: %d vCPUs: %w: at most %d", len(p.APICIDs), ErrParams, MaxCPUs)
	}
	var seen [255]bool
	for i, id := range p.APICIDs {
		if id >= uint32(len(seen)) || seen[id] {
			return fmt.Errorf("boot: vCPU %d: %w: APIC ID %d must be below 255 and its own", i, ErrParams, id)
		}
		seen[id] = true
	}
	if len(p.Devices) > MaxDevices {
		return fmt.Errorf("boot: %d virtio devices: %w: at most %d", len(p.Devices), ErrParams, MaxDevices)
	}
	for i, d := range p.Devices {
		if d.Size == 0 || d.Base%memory.PageSize != 0 || d.Base < memory.LowEnd || d.Base > DeviceEnd || d.Size > DeviceEnd-d.Base {
			return fmt.Errorf("boot: virtio device %d: %w: registers at %#x+%#x must be whole pages between %#x and %#x", i, ErrParams, d.Base, d.Size, uint64(memory.LowEnd), uint64(DeviceEnd))
		}
		if d.GSI >= IOAPICPins {
			return fmt.Errorf("boot: virtio device %d: %w: GSI %d: the IOAPIC has inputs 0 to %d", i, ErrParams, d.GSI, IOAPICPins-1)
		}
	}
	if n := len(p.RandomSeed); n != 0 && (n < 32 || n > 64) {
		return fmt.Errorf("boot: random seed of %d bytes: %w: must be 32 to 64, or none", n, ErrParams)
	}
	switch p.Platform {
	case "", PlatformACPI, PlatformMPTable, PlatformNone:
	default:
		return fmt.Errorf("boot: platform %q: %w: must be acpi, mptable or none", p.Platform, ErrParams)
	}
	return nil
}
