package kvm

import gokvm "github.com/bobuhiro11/gokvm/kvm"

// Structures whose layout gokvm has right.
type (
	Regs       = gokvm.Regs
	Sregs      = gokvm.Sregs
	Segment    = gokvm.Segment
	Descriptor = gokvm.Descriptor
	MPState    = gokvm.MPState
	LAPICState = gokvm.LAPICState
	VCPUEvents = gokvm.VCPUEvents
	DebugRegs  = gokvm.DebugRegs
	XCRS       = gokvm.XCRS
	ClockData  = gokvm.ClockData
	IRQChip    = gokvm.IRQChip
	PITState2  = gokvm.PITState2
)

// States for MPState.
const (
	MPStateRunnable      = gokvm.MPStateRunnable
	MPStateUninitialized = gokvm.MPStateUninitialized
	MPStateHalted        = gokvm.MPStateHalted
)

// CPUIDEntry is struct kvm_cpuid_entry2.
type CPUIDEntry struct {
	Function, Index, Flags uint32
	EAX, EBX, ECX, EDX     uint32
	_                      [3]uint32
}

// KVM_CPUID_FLAG_SIGNIFCANT_INDEX (the kernel's spelling) in CPUIDEntry.Flags:
// the entry is for one value of ECX only.
const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1

// maxCPUIDEntries is KVM_MAX_CPUID_ENTRIES.
const maxCPUIDEntries = 256

// cpuid2 is struct kvm_cpuid2 with room for every entry there can be.
type cpuid2 struct {
	nent    uint32
	_       uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

// MSREntry is struct kvm_msr_entry.
type MSREntry struct {
	Index uint32
	_     uint32
	Data  uint64
}

const maxMSREntries = 256 // KVM_MAX_MSR_ENTRIES

type msrs struct {
	nmsrs   uint32
	_       uint32
	entries [maxMSREntries]MSREntry
}

type msrList struct {
	nmsrs   uint32
	indices [1024]uint32
}

type userspaceMemoryRegion struct {
	slot, flags   uint32
	guestPhysAddr uint64
	memorySize    uint64
	userspaceAddr uint64
}

// Flags of SetUserMemoryRegion.
const (
	KVM_MEM_LOG_DIRTY_PAGES = 1 << 0
	KVM_MEM_READONLY        = 1 << 1
)

type irqLevel struct{ irq, level uint32 }

type irqfd struct {
	fd, gsi, flags uint32
	_              uint32 // resamplefd
	_              [16]byte
}

const irqfdFlagDeassign = 1 << 0 // KVM_IRQFD_FLAG_DEASSIGN

type ioeventfd struct {
	datamatch, addr uint64
	len             uint32
	fd              int32
	flags           uint32
	_               [36]byte
}

const (
	ioeventfdFlagDatamatch = 1 << 0 // KVM_IOEVENTFD_FLAG_DATAMATCH
	ioeventfdFlagPIO       = 1 << 1 // KVM_IOEVENTFD_FLAG_PIO
	ioeventfdFlagDeassign  = 1 << 2 // KVM_IOEVENTFD_FLAG_DEASSIGN
)

type pitConfig struct {
	flags uint32
	_     [15]uint32
}

// KVM_PIT_SPEAKER_DUMMY: the PIT answers port 0x61 as well.
const pitSpeakerDummy = 1

type enableCap struct {
	cap  uint32
	_    uint32 // flags
	args [4]uint64
	_    [64]byte
}

// MSI is struct kvm_msi.
type MSI struct {
	AddressLo, AddressHi, Data, Flags, DevID uint32
	_                                        [12]byte
}

// FPU is struct kvm_fpu.
type FPU struct {
	FPR        [8][16]byte
	FCW, FSW   uint16
	FTWX       uint8
	_          uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]byte
	MXCSR      uint32
	_          uint32
}

// xsaveSize is how long struct kvm_xsave is at least, in bytes.
const xsaveSize = 4096

// nestedState is struct kvm_nested_state with room for what Intel's (two pages) and AMD's (one) need.
type nestedState struct {
	_, _ uint16 // flags, format
	size uint32
	_    [nestedHeader - 8]byte
	data [8192]byte
}

// nestedHeader is the size of struct kvm_nested_state in bytes.
const nestedHeader = 128

type dirtyLog struct {
	slot   uint32
	_      uint32
	bitmap *uint64
}

type clearDirtyLog struct {
	slot, numPages uint32
	firstPage      uint64
	bitmap         *uint64
}

// runData is the head of struct kvm_run. The mapping is KVM_GET_VCPU_MMAP_SIZE
// long; data of string I/O lies behind this struct.
type runData struct {
	// A word holds request_interrupt_window (byte 0, never set) and
	// immediate_exit (byte 1), so that it can be set by an atomic operation.
	immediate         uint32
	_                 uint32
	exitReason        uint32
	readyForInterrupt uint8
	ifFlag            uint8
	flags             uint16
	cr8               uint64
	apicBase          uint64
	union             [256]byte
}

// immediateExit is immediate_exit = 1 in runData.immediate.
const immediateExit = 1 << 8

// translation is struct kvm_translation.
type translation struct {
	linearAddress   uint64
	physicalAddress uint64
	valid           uint8
	_               [7]byte // writeable, usermode, padding
}
