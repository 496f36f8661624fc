package kvm

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrInterrupted is returned by Run when a signal or Kick made it come back
// without an exit of the guest. Any I/O of the previous exit is complete then.
var ErrInterrupted = errors.New("KVM_RUN was interrupted")

// VCPU is one virtual CPU.
type VCPU struct {
	fd   int
	page []byte
	run  *runData
	tid  atomic.Int32 // thread inside Run; 0 before the first Run
}

// kickSignal makes KVM_RUN return. Go's runtime has a handler for it, which
// takes a spurious one for a request to reschedule.
const kickSignal = unix.SIGURG

// BindThread tells the VCPU that the calling thread, to which the goroutine is
// locked, will run it: Kick sends its signal there.
func (v *VCPU) BindThread() { v.tid.Store(int32(unix.Gettid())) }

// Run enters the guest and returns nil at its next exit, ErrInterrupted after
// Kick or a signal, or the error of the ioctl.
//
// It uses a system call that the Go scheduler knows of: a bare one would leave
// the thread "running", and a guest that never exits would hold up garbage
// collection for ever.
func (v *VCPU) Run() error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(v.fd), KVM_RUN, 0)
	switch errno {
	case 0:
		return nil
	case unix.EINTR, unix.EAGAIN:
		return ErrInterrupted
	}
	return fmt.Errorf("KVM_RUN: %w", errno)
}

// Kick makes the current Run, or the next one if none is under way, return
// ErrInterrupted. It stays in force until ClearKick.
func (v *VCPU) Kick() {
	atomic.StoreUint32(&v.run.immediate, immediateExit)
	if tid := v.tid.Load(); tid != 0 {
		// An error means that the thread is gone: then there is no Run to end.
		_ = unix.Tgkill(unix.Getpid(), int(tid), kickSignal)
	}
}

// ClearKick takes the request of Kick back. The running thread calls it after
// ErrInterrupted and before it looks at why it was kicked: a Kick that comes
// later is then seen by the next Run.
func (v *VCPU) ClearKick() { atomic.StoreUint32(&v.run.immediate, 0) }

// Close unmaps the run page and closes the vCPU. Not while Run is under way.
func (v *VCPU) Close() error {
	v.run = nil
	return errors.Join(unix.Munmap(v.page), unix.Close(v.fd))
}

func vcpuPtr[T any](v *VCPU, name string, op uintptr, arg *T) error {
	if _, err := ioctlPtr(v.fd, op, arg); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Regs reads the general registers.
func (v *VCPU) Regs() (Regs, error) {
	var r Regs
	err := vcpuPtr(v, "KVM_GET_REGS", KVM_GET_REGS, &r)
	return r, err
}

// SetRegs writes the general registers.
func (v *VCPU) SetRegs(r *Regs) error { return vcpuPtr(v, "KVM_SET_REGS", KVM_SET_REGS, r) }

// Sregs reads segments, control registers and EFER.
func (v *VCPU) Sregs() (Sregs, error) {
	var s Sregs
	err := vcpuPtr(v, "KVM_GET_SREGS", KVM_GET_SREGS, &s)
	return s, err
}

// SetSregs writes segments, control registers and EFER.
func (v *VCPU) SetSregs(s *Sregs) error { return vcpuPtr(v, "KVM_SET_SREGS", KVM_SET_SREGS, s) }

// SetCPUID sets what the CPUID instruction answers. At most 256 entries.
func (v *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUIDEntries {
		return fmt.Errorf("KVM_SET_CPUID2: %d entries, at most %d", len(entries), maxCPUIDEntries)
	}
	c := &cpuid2{nent: uint32(len(entries))}
	copy(c.entries[:], entries)
	return vcpuPtr(v, "KVM_SET_CPUID2", KVM_SET_CPUID2, c)
}

// CPUID reads back what SetCPUID set.
func (v *VCPU) CPUID() ([]CPUIDEntry, error) {
	c := &cpuid2{nent: maxCPUIDEntries}
	if err := vcpuPtr(v, "KVM_GET_CPUID2", KVM_GET_CPUID2, c); err != nil {
		return nil, err
	}
	return c.entries[:min(c.nent, maxCPUIDEntries)], nil
}

// ReadMSRs fills in Data of the entries in order and returns of how many: it
// stops at the first that KVM does not know.
func (v *VCPU) ReadMSRs(entries []MSREntry) (int, error) {
	return v.msrs("KVM_GET_MSRS", KVM_GET_MSRS, entries)
}

// WriteMSRs writes the entries in order and returns how many: it stops at the
// first that KVM refuses.
func (v *VCPU) WriteMSRs(entries []MSREntry) (int, error) {
	return v.msrs("KVM_SET_MSRS", KVM_SET_MSRS, entries)
}

// SetMSRs writes the entries in order. It fails at the first that KVM refuses.
func (v *VCPU) SetMSRs(entries []MSREntry) error {
	n, err := v.WriteMSRs(entries)
	if err == nil && n < len(entries) {
		err = fmt.Errorf("KVM_SET_MSRS: MSR %#x: refused by KVM", entries[n].Index)
	}
	return err
}

func (v *VCPU) msrs(name string, op uintptr, entries []MSREntry) (all int, err error) {
	m := new(msrs)
	for all < len(entries) {
		n := copy(m.entries[:], entries[all:])
		m.nmsrs = uint32(n)
		done, err := ioctlPtr(v.fd, op, m)
		if err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
		copy(entries[all:], m.entries[:done])
		if all += done; done < n {
			break
		}
	}
	return all, nil
}

// LAPIC reads the local interrupt controller.
func (v *VCPU) LAPIC() (*LAPICState, error) {
	l := new(LAPICState)
	return l, vcpuPtr(v, "KVM_GET_LAPIC", KVM_GET_LAPIC, l)
}

// SetLAPIC writes the local interrupt controller.
func (v *VCPU) SetLAPIC(l *LAPICState) error { return vcpuPtr(v, "KVM_SET_LAPIC", KVM_SET_LAPIC, l) }

// MPState tells whether the vCPU runs, halts or waits for INIT.
func (v *VCPU) MPState() (uint32, error) {
	var m MPState
	err := vcpuPtr(v, "KVM_GET_MP_STATE", KVM_GET_MP_STATE, &m)
	return m.State, err
}

// SetMPState sets what MPState tells.
func (v *VCPU) SetMPState(state uint32) error {
	return vcpuPtr(v, "KVM_SET_MP_STATE", KVM_SET_MP_STATE, &MPState{State: state})
}

// Events reads pending exceptions, interrupts and NMIs.
func (v *VCPU) Events() (VCPUEvents, error) {
	var e VCPUEvents
	err := vcpuPtr(v, "KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS, &e)
	return e, err
}

// SetEvents writes what Events read.
func (v *VCPU) SetEvents(e *VCPUEvents) error {
	return vcpuPtr(v, "KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, e)
}

// DebugRegs reads DR0–DR3, DR6 and DR7.
func (v *VCPU) DebugRegs() (DebugRegs, error) {
	var d DebugRegs
	err := vcpuPtr(v, "KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS, &d)
	return d, err
}

// SetDebugRegs writes what DebugRegs read.
func (v *VCPU) SetDebugRegs(d *DebugRegs) error {
	return vcpuPtr(v, "KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS, d)
}

// XCRS reads the extended control registers.
func (v *VCPU) XCRS() (XCRS, error) {
	var x XCRS
	err := vcpuPtr(v, "KVM_GET_XCRS", KVM_GET_XCRS, &x)
	return x, err
}

// SetXCRS writes what XCRS read.
func (v *VCPU) SetXCRS(x *XCRS) error { return vcpuPtr(v, "KVM_SET_XCRS", KVM_SET_XCRS, x) }

// XSave reads FPU, SSE, AVX and all further state that XSAVE knows into area,
// which is as long as VM.XSaveSize says.
func (v *VCPU) XSave(area []byte) error {
	switch {
	case len(area) < xsaveSize:
		return fmt.Errorf("KVM_GET_XSAVE: an area of %d bytes, at least %d are needed", len(area), xsaveSize)
	case len(area) == xsaveSize:
		return v.xsaveCall("KVM_GET_XSAVE", KVM_GET_XSAVE, area)
	}
	return v.xsaveCall("KVM_GET_XSAVE2", KVM_GET_XSAVE2, area)
}

// SetXSave writes what XSave read. The area must be as long as VM.XSaveSize says.
func (v *VCPU) SetXSave(area []byte) error {
	if len(area) < xsaveSize {
		return fmt.Errorf("KVM_SET_XSAVE: an area of %d bytes, at least %d are needed", len(area), xsaveSize)
	}
	return v.xsaveCall("KVM_SET_XSAVE", KVM_SET_XSAVE, area)
}

// NestedState reads what KVM keeps of the virtual machines of the guest itself:
// nil when it has no such state, as on hosts where guests have no virtualization.
func (v *VCPU) NestedState() ([]byte, error) {
	n := new(nestedState)
	n.size = uint32(len(n.data)) + nestedHeader
	switch _, err := ioctlPtr(v.fd, KVM_GET_NESTED_STATE, n); {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("KVM_GET_NESTED_STATE: %w", err)
	case n.size < nestedHeader || n.size > uint32(len(n.data))+nestedHeader:
		return nil, fmt.Errorf("KVM_GET_NESTED_STATE: a state of %d bytes", n.size)
	}
	return Bytes(n)[:n.size], nil
}

// SetNestedState writes what NestedState read.
func (v *VCPU) SetNestedState(state []byte) error {
	if state == nil {
		return nil
	}
	n := new(nestedState)
	if len(state) < nestedHeader || len(state) > nestedHeader+len(n.data) {
		return fmt.Errorf("KVM_SET_NESTED_STATE: a state of %d bytes", len(state))
	}
	full := make([]byte, nestedHeader+len(n.data))
	copy(full, state)
	n, err := FromBytes[nestedState](full)
	if err != nil {
		return err
	}
	n.size = uint32(len(state))
	return vcpuPtr(v, "KVM_SET_NESTED_STATE", KVM_SET_NESTED_STATE, n)
}

// FPU reads x87 and SSE state.
func (v *VCPU) FPU() (FPU, error) {
	var f FPU
	err := vcpuPtr(v, "KVM_GET_FPU", KVM_GET_FPU, &f)
	return f, err
}

// SetFPU writes what FPU read.
func (v *VCPU) SetFPU(f *FPU) error { return vcpuPtr(v, "KVM_SET_FPU", KVM_SET_FPU, f) }

// Translate walks the guest's page tables as they are now. ok is false where
// nothing is mapped.
func (v *VCPU) Translate(linear uint64) (gpa uint64, ok bool, err error) {
	t := translation{linearAddress: linear}
	if err := vcpuPtr(v, "KVM_TRANSLATE", KVM_TRANSLATE, &t); err != nil {
		return 0, false, err
	}
	return t.physicalAddress, t.valid != 0, nil
}

// TSCKHz is the frequency of the guest's time stamp counter in kHz.
func (v *VCPU) TSCKHz() (int, error) {
	n, err := ioctl(v.fd, KVM_GET_TSC_KHZ, 0)
	if err != nil {
		return 0, fmt.Errorf("KVM_GET_TSC_KHZ: %w", err)
	}
	return n, nil
}

// SetTSCKHz sets the frequency of the guest's time stamp counter, for a guest that has measured it on another host. It
// fails where the processor cannot scale (KVM_CAP_TSC_CONTROL).
func (v *VCPU) SetTSCKHz(khz int) error {
	if _, err := ioctl(v.fd, KVM_SET_TSC_KHZ, uintptr(khz)); err != nil {
		return fmt.Errorf("KVM_SET_TSC_KHZ %d: %w", khz, err)
	}
	return nil
}

// KVMClockCtrl tells the guest that it was paused, so that its watchdogs do
// not take the gap for a lock-up. EINVAL means that the guest does not use the
// clock.
func (v *VCPU) KVMClockCtrl() error {
	if _, err := ioctl(v.fd, KVM_KVMCLOCK_CTRL, 0); err != nil {
		return fmt.Errorf("KVM_KVMCLOCK_CTRL: %w", err)
	}
	return nil
}
