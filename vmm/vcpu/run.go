package vcpu

import (
	"errors"
	"runtime"
	"time"

	"github.com/hullvm/hull/devices"
	"github.com/hullvm/hull/kvm"
)

// turn is how long a thread whose guest exits again and again goes on before it goes through the Go scheduler, which
// would take its place away every 20 µs otherwise (virtio.Turns, docs/decisions/0012). A guest that has not exited for as
// long has lost it once, and gains nothing.
const turn = 5 * time.Millisecond

// loop runs the guest until the CPU is asked to finish or the guest cannot go
// on. Between entry and exit it takes no lock and allocates nothing.
func (c *CPU) loop() {
	if !c.park() {
		return
	}
	if c.cfg.FirstRun != nil {
		c.cfg.FirstRun()
	}
	firstExit := c.cfg.FirstExit
	chosen := time.Now()
	for {
		err := c.vcpu.Run()
		if err == nil {
			if firstExit != nil {
				firstExit()
				firstExit = nil
			}
			if State(c.want.Load()) == Finished {
				return // what it asks for may be made of memory that is lost
			}
			if !c.exit() {
				return
			}
			if d := time.Since(chosen); d > turn {
				if d < 2*turn {
					runtime.Gosched()
				}
				chosen = time.Now()
			}
			continue
		}
		if !errors.Is(err, kvm.ErrInterrupted) {
			c.crash(err.Error())
			return
		}
		c.vcpu.ClearKick()
		if State(c.want.Load()) != Running && !c.park() {
			return
		}
	}
}

// exit deals with one exit and tells whether the guest can go on.
func (c *CPU) exit() bool {
	reason := c.vcpu.Exit()
	if reason < maxReason {
		n := &c.exits[reason]
		n.Store(n.Load() + 1) // this thread is the only writer
	}
	switch reason {
	case kvm.KVM_EXIT_IO:
		return c.portIO()
	case kvm.KVM_EXIT_MMIO:
		m, ok := c.vcpu.MMIO()
		if !ok {
			c.crash("KVM reported a memory access that makes no sense")
			return false
		}
		if m.Write {
			c.cfg.MMIO.Write(m.Addr, m.Data)
		} else {
			c.cfg.MMIO.Read(m.Addr, m.Data)
		}
		return true
	case kvm.KVM_EXIT_HLT:
		return c.halted()
	case kvm.KVM_EXIT_SYSTEM_EVENT:
		return c.systemEvent()
	case kvm.KVM_EXIT_X86_RDMSR, kvm.KVM_EXIT_X86_WRMSR:
		c.vcpu.FailMSR() // a #GP, as hardware has it for a register it lacks
		return true
	case kvm.KVM_EXIT_INTR, kvm.KVM_EXIT_IRQ_WINDOW_OPEN, kvm.KVM_EXIT_SET_TPR, kvm.KVM_EXIT_X86_BUS_LOCK, kvm.KVM_EXIT_NOTIFY:
		return true // told for information only
	}
	// SHUTDOWN, FAIL_ENTRY, INTERNAL_ERROR and whatever else this machine
	// never asked KVM for.
	c.crash(c.vcpu.Describe())
	return false
}

func (c *CPU) portIO() bool {
	io, ok := c.vcpu.IO()
	if !ok {
		c.crash("KVM reported a port access that makes no sense")
		return false
	}
	port := uint64(io.Port)
	for data := io.Data; len(data) > 0; data = data[io.Size:] {
		if io.Out {
			c.cfg.Ports.Write(port, data[:io.Size])
		} else {
			c.cfg.Ports.Read(port, data[:io.Size])
		}
	}
	return true
}

// halted waits for a request: without an interrupt controller in the kernel
// nothing else can end a HLT.
func (c *CPU) halted() bool {
	c.mu.Lock()
	for State(c.want.Load()) == Running {
		c.cond.Wait()
	}
	c.mu.Unlock()
	return true
}

func (c *CPU) systemEvent() bool {
	var e devices.PowerEvent
	switch c.vcpu.SystemEvent() {
	case kvm.KVM_SYSTEM_EVENT_SHUTDOWN:
		e = devices.PowerOff
	case kvm.KVM_SYSTEM_EVENT_RESET:
		e = devices.Reset
	case kvm.KVM_SYSTEM_EVENT_CRASH:
		e = devices.Panicked
	}
	if e == 0 || c.cfg.Power == nil {
		c.crash(c.vcpu.Describe())
		return false
	}
	c.cfg.Power(e)
	return true
}
