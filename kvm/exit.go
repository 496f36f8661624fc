package kvm

import (
	"encoding/binary"
	"fmt"
)

// ExitReason is why Run returned.
type ExitReason uint32

// Exit reasons, by the kernel's names and numbers.
const (
	KVM_EXIT_UNKNOWN         ExitReason = 0
	KVM_EXIT_EXCEPTION       ExitReason = 1
	KVM_EXIT_IO              ExitReason = 2
	KVM_EXIT_HYPERCALL       ExitReason = 3
	KVM_EXIT_DEBUG           ExitReason = 4
	KVM_EXIT_HLT             ExitReason = 5
	KVM_EXIT_MMIO            ExitReason = 6
	KVM_EXIT_IRQ_WINDOW_OPEN ExitReason = 7
	KVM_EXIT_SHUTDOWN        ExitReason = 8
	KVM_EXIT_FAIL_ENTRY      ExitReason = 9
	KVM_EXIT_INTR            ExitReason = 10
	KVM_EXIT_SET_TPR         ExitReason = 11
	KVM_EXIT_TPR_ACCESS      ExitReason = 12
	KVM_EXIT_NMI             ExitReason = 16
	KVM_EXIT_INTERNAL_ERROR  ExitReason = 17
	KVM_EXIT_WATCHDOG        ExitReason = 21
	KVM_EXIT_SYSTEM_EVENT    ExitReason = 24
	KVM_EXIT_IOAPIC_EOI      ExitReason = 26
	KVM_EXIT_HYPERV          ExitReason = 27
	KVM_EXIT_X86_RDMSR       ExitReason = 29
	KVM_EXIT_X86_WRMSR       ExitReason = 30
	KVM_EXIT_DIRTY_RING_FULL ExitReason = 31
	KVM_EXIT_AP_RESET_HOLD   ExitReason = 32
	KVM_EXIT_X86_BUS_LOCK    ExitReason = 33
	KVM_EXIT_XEN             ExitReason = 34
	KVM_EXIT_NOTIFY          ExitReason = 37
	KVM_EXIT_MEMORY_FAULT    ExitReason = 39
	KVM_EXIT_TDX             ExitReason = 40
)

var exitNames = [...]string{
	"UNKNOWN", "EXCEPTION", "IO", "HYPERCALL", "DEBUG", "HLT", "MMIO", "IRQ_WINDOW_OPEN", "SHUTDOWN", "FAIL_ENTRY",
	"INTR", "SET_TPR", "TPR_ACCESS", "S390_SIEIC", "S390_RESET", "DCR", "NMI", "INTERNAL_ERROR", "OSI", "PAPR_HCALL",
	"S390_UCONTROL", "WATCHDOG", "S390_TSCH", "EPR", "SYSTEM_EVENT", "S390_STSI", "IOAPIC_EOI", "HYPERV", "ARM_NISV",
	"X86_RDMSR", "X86_WRMSR", "DIRTY_RING_FULL", "AP_RESET_HOLD", "X86_BUS_LOCK", "XEN", "RISCV_SBI", "RISCV_CSR",
	"NOTIFY", "LOONGARCH_IOCSR", "MEMORY_FAULT", "TDX",
}

// String is the kernel's name, such as KVM_EXIT_HLT.
func (r ExitReason) String() string {
	if int(r) < len(exitNames) {
		return "KVM_EXIT_" + exitNames[r]
	}
	return fmt.Sprintf("KVM_EXIT_%d", uint32(r))
}

// IO is an access to I/O ports: Count items of Size bytes each (string
// instructions have more than one), all at Port.
type IO struct {
	Out   bool
	Size  int // 1, 2 or 4
	Port  uint16
	Count int
	Data  []byte // Size×Count bytes of the run page; for a read, to be filled in
}

// MMIO is an access to memory that is not RAM.
type MMIO struct {
	Write bool
	Addr  uint64
	Data  []byte // 1 to 8 bytes of the run page; for a read, to be filled in
}

type ioExit struct {
	direction, size uint8
	port            uint16
	count           uint32
	dataOffset      uint64
}

type mmioExit struct {
	physAddr uint64
	data     [8]byte
	len      uint32
	isWrite  uint8
}

type failEntryExit struct {
	hardwareReason uint64
	cpu            uint32
}

type internalExit struct {
	suberror, ndata uint32
	data            [16]uint64
}

type systemEventExit struct{ typ uint32 }

type msrExit struct {
	error uint8
	_     [7]byte
	_     uint32 // reason
	index uint32
	data  uint64
}

// Exit tells why the last Run returned.
func (v *VCPU) Exit() ExitReason { return ExitReason(v.run.exitReason) }

// IO describes a KVM_EXIT_IO. ok is false when the run page makes no sense.
func (v *VCPU) IO() (io IO, ok bool) {
	e := view[ioExit](v.run)
	n := uint64(e.size) * uint64(e.count)
	if n == 0 || e.dataOffset > uint64(len(v.page)) || n > uint64(len(v.page))-e.dataOffset {
		return IO{}, false
	}
	return IO{
		Out: e.direction == 1, Size: int(e.size), Port: e.port, Count: int(e.count),
		Data: v.page[e.dataOffset : e.dataOffset+n : e.dataOffset+n],
	}, true
}

// MMIO describes a KVM_EXIT_MMIO. ok is false when the run page makes no sense.
func (v *VCPU) MMIO() (m MMIO, ok bool) {
	e := view[mmioExit](v.run)
	if e.len == 0 || int(e.len) > len(e.data) {
		return MMIO{}, false
	}
	return MMIO{Write: e.isWrite != 0, Addr: e.physAddr, Data: e.data[:e.len:e.len]}, true
}

// System events, by the kernel's names and numbers.
const (
	KVM_SYSTEM_EVENT_SHUTDOWN = 1
	KVM_SYSTEM_EVENT_RESET    = 2
	KVM_SYSTEM_EVENT_CRASH    = 3
)

// SystemEvent is the type of a KVM_EXIT_SYSTEM_EVENT.
func (v *VCPU) SystemEvent() uint32 { return view[systemEventExit](v.run).typ }

// RDMSR and WRMSR exits: Index is the register, Data what was written.
func (v *VCPU) MSRExit() (index uint32, data uint64) {
	e := view[msrExit](v.run)
	return e.index, e.data
}

// FailMSR makes the guest take a #GP for the MSR access of the last exit.
func (v *VCPU) FailMSR() { view[msrExit](v.run).error = 1 }

var internalSuberrors = map[uint32]string{
	1: "KVM could not emulate the instruction",
	2: "two exceptions arrived at once",
	3: "an event could not be delivered",
	4: "the hardware gave an exit that KVM does not know",
}

// Describe says in a sentence what the last exit means for the guest.
func (v *VCPU) Describe() string {
	switch r := v.Exit(); r {
	case KVM_EXIT_SHUTDOWN:
		return "the guest CPU shut down (a triple fault: an exception while it was handling a double fault)"
	case KVM_EXIT_FAIL_ENTRY:
		e := view[failEntryExit](v.run)
		return fmt.Sprintf("the hardware refused to enter the guest: reason %#x on host CPU %d (the vCPU's registers are not valid together)", e.hardwareReason, e.cpu)
	case KVM_EXIT_INTERNAL_ERROR:
		e := view[internalExit](v.run)
		what := internalSuberrors[e.suberror]
		if what == "" {
			what = fmt.Sprintf("suberror %d", e.suberror)
		}
		s := "KVM gave up on the guest: " + what
		// struct emulation_failure: flags bit 0 says that the bytes are there.
		if e.suberror == 1 && e.ndata >= 3 && e.data[0]&1 != 0 {
			var raw [16]byte
			binary.LittleEndian.PutUint64(raw[:], e.data[1])
			binary.LittleEndian.PutUint64(raw[8:], e.data[2])
			s += fmt.Sprintf(" % x", raw[1:1+min(int(raw[0]), 15)])
		}
		return s
	case KVM_EXIT_SYSTEM_EVENT:
		return fmt.Sprintf("the guest raised system event %d", v.SystemEvent())
	case KVM_EXIT_UNKNOWN:
		return fmt.Sprintf("the hardware gave exit reason %#x, which KVM does not know", view[failEntryExit](v.run).hardwareReason)
	default:
		return fmt.Sprintf("KVM returned %v, which this machine does not use", r)
	}
}
