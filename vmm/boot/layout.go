package boot

import (
	"fmt"

	"github.com/hullvm/hull/vmm/memory"
)

// The guest's physical address space:
//
//	        0x0 ‥ 0xffff       free for small test guests
//	    0x10000 ‥ 0x36fff      what the kernel is handed over, below
//	    0x37000 ‥ 0x9fbff      free for small test guests
//	    0x9fc00 ‥ 0xfffff      reserved in the memory map, as on a PC:
//	    0xe0000 ‥ 0xeffff        ACPI tables
//	    0xf0000 ‥ 0xfefff        MP table
//	    0xff000 ‥ 0xfffff        all there is of firmware
//	   0x100000 ‥ 0xbfffffff   kernel, from 16 MiB as a rule; initrd at the end
//	 0xc0000000 ‥ 0xffffffff   no RAM: devices
//	0x100000000 ‥              the rest of RAM
//
// A kernel copies what it is handed over before it uses that memory for other
// things, so none of it is reserved in the memory map.
const (
	// GDT is a page with the descriptor table that the first processor starts
	// with.
	GDT = 0x1_0000
	// ZeroPage is where struct boot_params is, one page (Documentation/arch/x86/zero-page.rst).
	ZeroPage = 0x1_1000
	// PVHStartInfo is a page for hvm_start_info, its module list and its
	// memory map.
	PVHStartInfo = 0x1_2000
	// SetupData is a page for the chain of struct setup_data.
	SetupData = 0x1_3000
	// CommandLine is where the kernel's command line is; CommandLineSize bytes
	// with the final NUL. Linux takes 2048 (COMMAND_LINE_SIZE), other guests
	// may take more.
	CommandLine     = 0x1_4000
	CommandLineSize = 0x1_0000
	// Stack is a page of stack for guests that need one before they have
	// their own; StackTop is where it starts.
	Stack    = 0x2_4000
	StackTop = 0x2_5000
	// PageTables is a PML4, a page directory pointer table and up to
	// MaxPageDirectories page directories, 1 GiB each.
	PageTables         = 0x2_5000
	MaxPageDirectories = 16

	// BaseMemoryEnd is the end of RAM below 640 KiB. The KiB above it is the
	// extended BIOS data area of a PC: kernels look for an MP table there
	// and never take it for RAM.
	BaseMemoryEnd = 0x9_fc00
	// ACPITables is where kernels look for an RSDP if nobody tells them
	// (ACPI 6.5, 5.2.5.1: 0xe0000 to 0xfffff on 16-byte boundaries). All
	// tables follow it.
	ACPITables    = 0xe_0000
	ACPITablesEnd = 0xf_0000
	// MPTable is where kernels look for an MP floating pointer (MP 1.4,
	// chapter 4: the BIOS ROM from 0xf0000 to 0xfffff). The configuration
	// table follows it.
	MPTable    = 0xf_0000
	MPTableEnd = 0xf_f000
	// Firmware is the last page below 1 MiB. All there is in it is
	// ResetVector, F000:FFF0, where real-mode code jumps that wants the machine
	// to start over.
	Firmware    = 0xf_f000
	ResetVector = 0xf_fff0
	// HighMemory is where RAM goes on after the hole that a PC has for
	// adapters and firmware. Kernels belong there.
	HighMemory = 0x10_0000
)

// Addresses above RAM and below 4 GiB.
const (
	// VirtioBase is where the registers of virtio-mmio devices start, one page
	// (VirtioSlotSize) each. Far from the end of RAM below and the interrupt
	// controllers above.
	VirtioBase     = 0xd000_0000
	VirtioSlotSize = 0x1000
	// DeviceEnd is the first address above VirtioBase that belongs to
	// something else.
	DeviceEnd = IOAPIC
	// IOAPIC and LocalAPIC are where KVM's in-kernel interrupt controllers
	// answer, as on every PC.
	IOAPIC    = 0xfec0_0000
	LocalAPIC = 0xfee0_0000
	// KVMIdentityMap (KVM_SET_IDENTITY_MAP_ADDR, one page) and KVMTSS
	// (KVM_SET_TSS_ADDR, three pages) are pages that KVM needs on Intel
	// processors without unrestricted guest mode; just below the usual place
	// of a firmware image, where no RAM is.
	KVMIdentityMap = 0xfffb_c000
	KVMTSS         = 0xfffb_d000
)

// I/O ports.
const (
	// COM1Port is the first serial port, eight registers (IBM PC/AT).
	COM1Port = 0x3f8
	// PVPanicPort is where QEMU has the device with the ACPI ID QEMU0001; one
	// byte.
	PVPanicPort = 0x505
	// KeyboardData and KeyboardCommand are the two ports of the keyboard
	// controller, as on every PC.
	KeyboardData    = 0x60
	KeyboardCommand = 0x64
	// ACPIPort is where the registers of a hardware-reduced ACPI machine are
	// that the FADT names (ACPI 6.5, 4.8.3.6 and 4.8.3.7), a byte each.
	ACPIPort              = 0x600
	ACPIPortSize          = 4
	ACPISleepControlPort  = ACPIPort + 0
	ACPISleepStatusPort   = ACPIPort + 1
	ACPIResetPort         = ACPIPort + 2
	ACPIResetValue        = 0x01 // written to ACPIResetPort resets the machine
	ACPISleepTypeSoftOff  = 5    // SLP_TYP of \_S5, the only sleeping state
	ACPISleepEnable       = 1 << 5
	ACPISleepTypeShift    = 2
	ACPISoftOffValue      = ACPISleepTypeSoftOff<<ACPISleepTypeShift | ACPISleepEnable
	ACPISleepStatusWakeUp = 1 << 7 // WAK_STS
)

// Interrupts: global system interrupts, which are inputs of the IOAPIC.
const (
	// KeyboardGSI is the keyboard controller's line on every PC.
	KeyboardGSI = 1
	// COM1GSI is COM1's line on every PC.
	COM1GSI = 4
	// VirtioGSI is the first virtio device's. The lines below it have meanings
	// on a PC.
	VirtioGSI = 5
	// IOAPICPins is the number of inputs of KVM's IOAPIC.
	IOAPICPins = 24
)

// Limits.
const (
	// MaxCPUs is the largest number of vCPUs.
	MaxCPUs = 64
	// MaxDevices is the largest number of virtio devices: each has an input of
	// the IOAPIC of its own.
	MaxDevices = IOAPICPins - VirtioGSI
	// minMemory is the least RAM in which all of the fixed structures have
	// their place.
	minMemory = HighMemory
	// defaultCmdlineMax is what a kernel takes that does not say: Linux's
	// COMMAND_LINE_SIZE less the final NUL.
	defaultCmdlineMax = 2047
)

// PmemStart returns where files that are mapped for a guest with ramEnd bytes of address space begin: a whole GiB,
// so that its page tables need few entries, and far from what has a fixed place.
func PmemStart(ramEnd uint64) uint64 {
	return (max(ramEnd, memory.HighStart) + 1<<30 - 1) &^ (1<<30 - 1)
}

// VirtioDevice returns where the virtio device of slot i (0 to MaxDevices-1)
// is.
func VirtioDevice(i int) Device {
	return Device{Base: VirtioBase + uint64(i)*VirtioSlotSize, Size: VirtioSlotSize, GSI: VirtioGSI + uint32(i)}
}

// claimFixed checks that RAM has the fixed places and takes them.
func (l *loader) claimFixed() error {
	if size := l.mem.Size(); size < minMemory {
		return fmt.Errorf("boot: %d KiB of guest memory: %w: the boot structures alone need %d KiB", size>>10, ErrNoRoom, minMemory>>10)
	}
	for _, c := range []struct {
		start, size uint64
		what        string
	}{
		{GDT, memory.PageSize, "the descriptor table"},
		{ZeroPage, memory.PageSize, "the zero page"},
		{PVHStartInfo, memory.PageSize, "the PVH start info"},
		{SetupData, memory.PageSize, "setup data"},
		{CommandLine, CommandLineSize, "the command line"},
		{Stack, StackTop - Stack, "the first stack"},
		{PageTables, (2 + MaxPageDirectories) * memory.PageSize, "the first page tables"},
		{ACPITables, ACPITablesEnd - ACPITables, "ACPI tables"},
		{MPTable, MPTableEnd - MPTable, "the MP table"},
		{Firmware, HighMemory - Firmware, "the firmware's reset vector"},
	} {
		if err := l.used.add(c.start, c.size, c.what); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
	}
	return nil
}
