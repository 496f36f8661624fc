package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm/snapshot"
)

// Registers whose order matters. Intel SDM vol. 4.
const (
	msrTSC         = 0x10
	msrTSCDeadline = 0x6e0
)

// saveCPU reads all of a paused vCPU; leaves are those that it was given, since
// not every KVM reads back what was set. The state of multiprocessing comes first:
// reading it has KVM take pending INIT and SIPI into account.
func saveCPU(v *kvm.VCPU, leaves []kvm.CPUIDEntry, xsave int, indices []uint32) (c snapshot.CPU, err error) {
	if c.MPState, err = v.MPState(); err != nil {
		return c, err
	}
	for i := range leaves {
		c.CPUID = append(c.CPUID, kvm.Bytes(&leaves[i])...)
	}
	regs, err := v.Regs()
	if err != nil {
		return c, err
	}
	sregs, err := v.Sregs()
	if err != nil {
		return c, err
	}
	c.XSave = make([]byte, xsave)
	if err := v.XSave(c.XSave); err != nil {
		return c, err
	}
	xcrs, err := v.XCRS()
	if err != nil {
		return c, err
	}
	if xcrs.NrXRCS > 0 { // a processor without XSAVE has none
		c.XCRS = kvm.Bytes(&xcrs)
	}
	debug, err := v.DebugRegs()
	if err != nil {
		return c, err
	}
	lapic, err := v.LAPIC()
	if err != nil {
		return c, err
	}
	if c.Nested, err = v.NestedState(); err != nil {
		return c, err
	}
	if c.MSRs, err = readMSRs(v, indices); err != nil {
		return c, err
	}
	events, err := v.Events()
	if err != nil {
		return c, err
	}
	c.Regs, c.Sregs, c.DebugRegs = kvm.Bytes(&regs), kvm.Bytes(&sregs), kvm.Bytes(&debug)
	c.LAPIC, c.Events = kvm.Bytes(lapic), kvm.Bytes(&events)
	return c, nil
}

// readMSRs reads those of the listed registers that this vCPU has: the list is
// of all that KVM knows of.
func readMSRs(v *kvm.VCPU, indices []uint32) ([]snapshot.MSR, error) {
	entries := make([]kvm.MSREntry, len(indices))
	for i, index := range indices {
		entries[i].Index = index
	}
	out := make([]snapshot.MSR, 0, len(entries))
	for len(entries) > 0 {
		n, err := v.ReadMSRs(entries)
		if err != nil {
			return nil, err
		}
		for _, e := range entries[:n] {
			out = append(out, snapshot.MSR{Index: e.Index, Data: e.Data})
		}
		if entries = entries[n:]; len(entries) > 0 {
			entries = entries[1:] // the one at which KVM stopped
		}
	}
	return out, nil
}

// restoreCPU writes to a fresh vCPU, which has its CPUID, what saveCPU has read. KVM checks each
// structure; the order is that in which one depends on another: segments and
// EFER need CPUID, the timer of the local APIC needs the APIC's mode, and the
// deadline timer needs the time stamp counter.
func restoreCPU(v *kvm.VCPU, c *snapshot.CPU) error {
	regs, err1 := kvm.FromBytes[kvm.Regs](c.Regs)
	sregs, err2 := kvm.FromBytes[kvm.Sregs](c.Sregs)
	debug, err3 := kvm.FromBytes[kvm.DebugRegs](c.DebugRegs)
	lapic, err4 := kvm.FromBytes[kvm.LAPICState](c.LAPIC)
	events, err5 := kvm.FromBytes[kvm.VCPUEvents](c.Events)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	for _, set := range []func() error{
		func() error { return v.SetMPState(c.MPState) },
		func() error { return v.SetSregs(sregs) },
		func() error { return v.SetNestedState(c.Nested) },
		func() error { return v.SetRegs(regs) },
		func() error { return v.SetXSave(c.XSave) },
		func() error { return restoreXCRS(v, c.XCRS) },
		func() error { return v.SetDebugRegs(debug) },
		func() error { return v.SetLAPIC(lapic) },
		func() error { return writeMSRs(v, c.MSRs) },
		func() error { return v.SetEvents(events) },
	} {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

func restoreXCRS(v *kvm.VCPU, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	xcrs, err := kvm.FromBytes[kvm.XCRS](p)
	if err != nil {
		return err
	}
	return v.SetXCRS(xcrs)
}

// tscTolerance is how far a frequency may be from another before a guest must be told of it, in millionths: KVM's own limit.
const tscTolerance = 250

// restoreTSC has the time stamp counter run as fast as the guest has measured it.
func restoreTSC(v *kvm.VCPU, khz int) error {
	now, err := v.TSCKHz()
	if khz == 0 || err != nil {
		return nil // nobody knew, or knows
	}
	if diff := int64(now) - int64(khz); max(diff, -diff)*1_000_000 <= tscTolerance*int64(khz) {
		return nil
	}
	if err := v.SetTSCKHz(khz); err != nil {
		return fmt.Errorf("%w: its time stamp counter runs at %d kHz, this processor's at %d: %w", ErrMismatch, khz, now, err)
	}
	return nil
}

// cpuidLeaves reads entries of struct kvm_cpuid_entry2.
func cpuidLeaves(b []byte) ([]kvm.CPUIDEntry, error) {
	size := binary.Size(kvm.CPUIDEntry{})
	if len(b)%size != 0 {
		return nil, fmt.Errorf("CPUID of %d bytes", len(b))
	}
	out := make([]kvm.CPUIDEntry, 0, len(b)/size)
	for ; len(b) > 0; b = b[size:] {
		e, err := kvm.FromBytes[kvm.CPUIDEntry](b[:size])
		if err != nil {
			return nil, err
		}
		out = append(out, *e)
	}
	return out, nil
}

// writeMSRs sets registers, the time stamp counter first and the deadline that
// is counted in it last. One that KVM lists but does not let be set is as good
// as set when it has that value already.
func writeMSRs(v *kvm.VCPU, msrs []snapshot.MSR) error {
	entries := make([]kvm.MSREntry, 0, len(msrs))
	var deadline []kvm.MSREntry
	for _, m := range msrs {
		e := kvm.MSREntry{Index: m.Index, Data: m.Data}
		switch m.Index {
		case msrTSC:
			entries = append([]kvm.MSREntry{e}, entries...)
		case msrTSCDeadline:
			deadline = append(deadline, e)
		default:
			entries = append(entries, e)
		}
	}
	entries = append(entries, deadline...)
	for len(entries) > 0 {
		n, err := v.WriteMSRs(entries)
		if err != nil {
			return err
		}
		if entries = entries[n:]; len(entries) == 0 {
			return nil
		}
		refused := entries[0]
		now := []kvm.MSREntry{{Index: refused.Index}}
		if n, err := v.ReadMSRs(now); err != nil || n != 1 || now[0].Data != refused.Data {
			return fmt.Errorf("model-specific register %#x: this host's KVM does not take %#x", refused.Index, refused.Data)
		}
		entries = entries[1:]
	}
	return nil
}

// A guest that knows the paravirtual clock watches its time stamp counter by it, and takes neither for good again once they
// have moved apart by some hundred microseconds (Linux, kernel/time/clocksource.c). Each is saved and restored by a call of its own, so
// how far the counter has come meanwhile decides where the clock has to be.
const (
	clockReadings = 8              // that are taken, for one in which nothing came between the two
	clockWindow   = 20_000         // nanoseconds: a reading as exact as that will do
	clockSettings = 4              // tries to set the clock
	clockMost     = 60_000_000_000 // nanoseconds between saving or restoring the counter and the clock; more is nonsense
)

// clockSince reads the guest's clock, and how many nanoseconds the counter of the first vCPU has gone on since it stood at
// tsc. Without a counter, or its frequency in kHz, that is 0.
func (m *Machine) clockSince(tsc uint64, khz int) (clock kvm.ClockData, since uint64, err error) {
	err = m.cpus[0].Do(func(v *kvm.VCPU) error {
		var best uint64
		for i := range clockReadings {
			before, err1 := readTSC(v)
			now, err := m.vm.Clock()
			if err != nil {
				return err
			}
			after, err2 := readTSC(v)
			if khz <= 0 || err1 != nil || err2 != nil {
				clock = now
				return nil
			}
			if window := ticksToNanoseconds(after-before, khz); i == 0 || window < best {
				best, clock = window, now
				since = ticksToNanoseconds(before-tsc, khz) + window/2
			}
			if best <= clockWindow {
				break
			}
		}
		if since > clockMost {
			since = 0
		}
		return nil
	})
	return clock, since, err
}

// errNoTSC says that a vCPU has no time stamp counter that can be read.
var errNoTSC = errors.New("no time stamp counter")

func readTSC(v *kvm.VCPU) (uint64, error) {
	entry := []kvm.MSREntry{{Index: msrTSC}}
	n, err := v.ReadMSRs(entry)
	if err == nil && n != 1 {
		err = errNoTSC
	}
	return entry[0].Data, err
}

// ticksToNanoseconds converts ticks of a counter of khz kHz, at most to what 64 bits hold.
func ticksToNanoseconds(ticks uint64, khz int) uint64 {
	hi, lo := bits.Mul64(ticks, 1_000_000)
	if hi >= uint64(khz) {
		return math.MaxUint64
	}
	ns, _ := bits.Div64(hi, lo, uint64(khz))
	return ns
}

// savedTSC is where the time stamp counter of a saved vCPU stood.
func savedTSC(c *snapshot.CPU) (uint64, bool) {
	for _, m := range c.MSRs {
		if m.Index == msrTSC {
			return m.Data, true
		}
	}
	return 0, false
}

// saveChips reads what KVM keeps for all vCPUs together. first is the state of the first of them: the clock is put down as it was
// when its counter was read.
func (m *Machine) saveChips(first *snapshot.CPU, khz int) (c snapshot.Chips, err error) {
	tsc, ok := savedTSC(first)
	if !ok {
		khz = 0
	}
	clock, since, err := m.clockSince(tsc, khz)
	if err != nil {
		return c, err
	}
	clock.Clock -= min(since, clock.Clock)
	c.Clock = kvm.Bytes(&clock)
	for i, to := range []*[]byte{&c.PIC0, &c.PIC1, &c.IOAPIC} {
		chip, err := m.vm.IRQChip(uint32(i))
		if err != nil {
			return c, err
		}
		*to = kvm.Bytes(&chip)
	}
	if m.cfg.PIT {
		pit, err := m.vm.PIT2()
		if err != nil {
			return c, err
		}
		c.PIT = kvm.Bytes(&pit)
	}
	return c, nil
}

// restoreChips writes what saveChips has read, once all vCPUs have their local
// APICs: an interrupt that is pending in the I/O APIC goes there at once. The
// guest's clock goes on from where it stood, and by as much as its counter has
// gone on since that was set; the flags that came with it say how it was read,
// and are not for setting it.
func (m *Machine) restoreChips(c *snapshot.Chips) error {
	for i, from := range [][]byte{c.PIC0, c.PIC1, c.IOAPIC} {
		chip, err := kvm.FromBytes[kvm.IRQChip](from)
		if err != nil {
			return err
		}
		chip.ChipID = uint32(i)
		if err := m.vm.SetIRQChip(*chip); err != nil {
			return err
		}
	}
	if m.cfg.PIT {
		pit, err := kvm.FromBytes[kvm.PITState2](c.PIT)
		if err != nil {
			return err
		}
		if err := m.vm.SetPIT2(*pit); err != nil {
			return err
		}
	}
	clock, err := kvm.FromBytes[kvm.ClockData](c.Clock)
	if err != nil {
		return err
	}
	khz := m.saved.TSCKHz
	tsc, ok := savedTSC(&m.saved.CPUs[0])
	if !ok {
		khz = 0
	}
	return m.setClock(clock.Clock, tsc, khz)
}

// setClock has the guest's clock show what it did when the counter of the first vCPU stood at tsc, and as much more as that
// has gone on since. What passes between reading the counter and setting the clock is seen only afterwards, but is much the same the next time.
func (m *Machine) setClock(at, tsc uint64, khz int) error {
	var ahead int64
	for range clockSettings {
		err := m.cpus[0].Do(func(v *kvm.VCPU) error {
			var since uint64
			if now, err := readTSC(v); err == nil && khz > 0 {
				since = ticksToNanoseconds(now-tsc, khz)
			}
			if since > clockMost {
				since = 0
			}
			return m.vm.SetClock(kvm.ClockData{Clock: at + since + uint64(ahead)})
		})
		if err != nil || khz <= 0 {
			return err
		}
		clock, since, err := m.clockSince(tsc, khz)
		if err != nil {
			return err
		}
		off := int64(clock.Clock - (at + since))
		if max(off, -off) <= clockWindow/4 || max(off, -off) > clockMost {
			return nil
		}
		ahead -= off
	}
	return nil
}
