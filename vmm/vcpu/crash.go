package vcpu

import (
	"fmt"
	"strings"

	"github.com/hullvm/hull/kvm"
)

// CrashError says why a guest cannot go on, with what its CPU held.
type CrashError struct {
	CPU     int
	Reason  kvm.ExitReason
	Message string // a sentence
	Dump    string // registers and the bytes at RIP, several lines
}

func (e *CrashError) Error() string { return fmt.Sprintf("vCPU %d: %s", e.CPU, e.Message) }

// TripleFault tells whether the guest shut its CPU down, which is also how
// some kernels reboot.
func (e *CrashError) TripleFault() bool { return e.Reason == kvm.KVM_EXIT_SHUTDOWN }

// crash reports that the guest cannot go on.
func (c *CPU) crash(message string) {
	if c.cfg.Crashed == nil {
		return
	}
	c.cfg.Crashed(&CrashError{CPU: c.cfg.ID, Reason: c.vcpu.Exit(), Message: message, Dump: c.dump()})
}

// codeBytes is how many bytes at RIP a dump shows: the longest instruction is
// 15 bytes.
const codeBytes = 16

// Where a CPU starts after a reset. Intel SDM vol. 3, 10.1.4.
const (
	resetRIP    = 0xfff0
	resetCSBase = 0xffff0000
)

func (c *CPU) dump() string {
	var b strings.Builder
	r, err := c.vcpu.Regs()
	if err != nil {
		return err.Error()
	}
	s, err := c.vcpu.Sregs()
	if err != nil {
		return err.Error()
	}
	if c.vcpu.Exit() == kvm.KVM_EXIT_SHUTDOWN && r.RIP == resetRIP && s.CS.Base == resetCSBase {
		// APM vol. 2, 15.14.3: what a shutdown leaves in the VMCB is undefined.
		b.WriteString("AMD-V keeps nothing of a CPU that shuts down: these registers are those after a reset\n")
	}
	fmt.Fprintf(&b, "RIP %016x  RFLAGS %08x  CS %04x base %x  CPL %d\n", r.RIP, r.RFLAGS, s.CS.Selector, s.CS.Base, s.SS.DPL)
	fmt.Fprintf(&b, "RAX %016x  RBX %016x  RCX %016x  RDX %016x\n", r.RAX, r.RBX, r.RCX, r.RDX)
	fmt.Fprintf(&b, "RSI %016x  RDI %016x  RSP %016x  RBP %016x\n", r.RSI, r.RDI, r.RSP, r.RBP)
	fmt.Fprintf(&b, "R8  %016x  R9  %016x  R10 %016x  R11 %016x\n", r.R8, r.R9, r.R10, r.R11)
	fmt.Fprintf(&b, "R12 %016x  R13 %016x  R14 %016x  R15 %016x\n", r.R12, r.R13, r.R14, r.R15)
	fmt.Fprintf(&b, "CR0 %x  CR2 %x  CR3 %x  CR4 %x  EFER %x\n", s.CR0, s.CR2, s.CR3, s.CR4, s.EFER)
	b.WriteString("bytes at RIP: " + c.codeAt(s.CS.Base+r.RIP))
	return b.String()
}

// codeAt shows what lies at a linear address, or why that cannot be seen.
func (c *CPU) codeAt(linear uint64) string {
	gpa, ok, err := c.vcpu.Translate(linear)
	switch {
	case err != nil:
		return err.Error()
	case !ok:
		return fmt.Sprintf("address %#x is not mapped", linear)
	case c.cfg.Memory == nil:
		return "no memory"
	}
	for n := codeBytes; n > 0; n /= 2 {
		if p, err := c.cfg.Memory.Slice(gpa, n); err == nil {
			return fmt.Sprintf("% x", p)
		}
	}
	return fmt.Sprintf("address %#x is not RAM", gpa)
}
