package kvm

import (
	"testing"
	"unsafe"
)

// The size field of an ioctl number (bits 16–29) must be the size of the
// struct that is handed over; for structs with a flexible array, of their head.
func TestStructSizesMatchIoctlNumbers(t *testing.T) {
	const idSize = unsafe.Sizeof(uint64(0))
	for _, c := range []struct {
		name string
		op   uintptr
		size uintptr
	}{
		{"KVM_GET_SUPPORTED_CPUID", KVM_GET_SUPPORTED_CPUID, unsafe.Offsetof(cpuid2{}.entries)},
		{"KVM_SET_CPUID2", KVM_SET_CPUID2, unsafe.Offsetof(cpuid2{}.entries)},
		{"KVM_GET_CPUID2", KVM_GET_CPUID2, unsafe.Offsetof(cpuid2{}.entries)},
		{"KVM_GET_MSR_INDEX_LIST", KVM_GET_MSR_INDEX_LIST, unsafe.Offsetof(msrList{}.indices)},
		{"KVM_GET_MSRS", KVM_GET_MSRS, unsafe.Offsetof(msrs{}.entries)},
		{"KVM_SET_MSRS", KVM_SET_MSRS, unsafe.Offsetof(msrs{}.entries)},
		{"KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION, unsafe.Sizeof(userspaceMemoryRegion{})},
		{"KVM_SET_IDENTITY_MAP_ADDR", KVM_SET_IDENTITY_MAP_ADDR, idSize},
		{"KVM_GET_DIRTY_LOG", KVM_GET_DIRTY_LOG, unsafe.Sizeof(dirtyLog{})},
		{"KVM_CLEAR_DIRTY_LOG", KVM_CLEAR_DIRTY_LOG, unsafe.Sizeof(clearDirtyLog{})},
		{"KVM_IRQ_LINE", KVM_IRQ_LINE, unsafe.Sizeof(irqLevel{})},
		{"KVM_GET_IRQCHIP", KVM_GET_IRQCHIP, unsafe.Sizeof(IRQChip{})},
		{"KVM_SET_IRQCHIP", KVM_SET_IRQCHIP, unsafe.Sizeof(IRQChip{})},
		{"KVM_IRQFD", KVM_IRQFD, unsafe.Sizeof(irqfd{})},
		{"KVM_IOEVENTFD", KVM_IOEVENTFD, unsafe.Sizeof(ioeventfd{})},
		{"KVM_CREATE_PIT2", KVM_CREATE_PIT2, unsafe.Sizeof(pitConfig{})},
		{"KVM_GET_PIT2", KVM_GET_PIT2, unsafe.Sizeof(PITState2{})},
		{"KVM_SET_PIT2", KVM_SET_PIT2, unsafe.Sizeof(PITState2{})},
		{"KVM_GET_CLOCK", KVM_GET_CLOCK, unsafe.Sizeof(ClockData{})},
		{"KVM_SET_CLOCK", KVM_SET_CLOCK, unsafe.Sizeof(ClockData{})},
		{"KVM_ENABLE_CAP", KVM_ENABLE_CAP, unsafe.Sizeof(enableCap{})},
		{"KVM_SIGNAL_MSI", KVM_SIGNAL_MSI, unsafe.Sizeof(MSI{})},
		{"KVM_GET_REGS", KVM_GET_REGS, unsafe.Sizeof(Regs{})},
		{"KVM_SET_REGS", KVM_SET_REGS, unsafe.Sizeof(Regs{})},
		{"KVM_GET_SREGS", KVM_GET_SREGS, unsafe.Sizeof(Sregs{})},
		{"KVM_SET_SREGS", KVM_SET_SREGS, unsafe.Sizeof(Sregs{})},
		{"KVM_TRANSLATE", KVM_TRANSLATE, unsafe.Sizeof(translation{})},
		{"KVM_GET_FPU", KVM_GET_FPU, unsafe.Sizeof(FPU{})},
		{"KVM_SET_FPU", KVM_SET_FPU, unsafe.Sizeof(FPU{})},
		{"KVM_GET_LAPIC", KVM_GET_LAPIC, unsafe.Sizeof(LAPICState{})},
		{"KVM_SET_LAPIC", KVM_SET_LAPIC, unsafe.Sizeof(LAPICState{})},
		{"KVM_GET_MP_STATE", KVM_GET_MP_STATE, unsafe.Sizeof(MPState{})},
		{"KVM_SET_MP_STATE", KVM_SET_MP_STATE, unsafe.Sizeof(MPState{})},
		{"KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS, unsafe.Sizeof(VCPUEvents{})},
		{"KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, unsafe.Sizeof(VCPUEvents{})},
		{"KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS, unsafe.Sizeof(DebugRegs{})},
		{"KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS, unsafe.Sizeof(DebugRegs{})},
		{"KVM_GET_XSAVE", KVM_GET_XSAVE, xsaveSize},
		{"KVM_SET_XSAVE", KVM_SET_XSAVE, xsaveSize},
		{"KVM_GET_XCRS", KVM_GET_XCRS, unsafe.Sizeof(XCRS{})},
		{"KVM_SET_XCRS", KVM_SET_XCRS, unsafe.Sizeof(XCRS{})},
	} {
		if want := c.op >> 16 & 0x3fff; c.size != want {
			t.Errorf("%s: the struct has %d bytes, the ioctl number says %d", c.name, c.size, want)
		}
	}
	if got := unsafe.Offsetof(runData{}.union); got != 32 {
		t.Errorf("exit union at offset %d of the run page, want 32", got)
	}
	if got := unsafe.Sizeof(CPUIDEntry{}); got != 40 {
		t.Errorf("CPUIDEntry has %d bytes, want 40", got)
	}
}
