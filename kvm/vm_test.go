package kvm

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// realModeVM runs code in real mode at address 0 with 16 KiB of RAM.
func realModeVM(t testing.TB, code []byte) (*VM, *VCPU) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	s := open(t)
	mem, err := unix.Mmap(-1, 0, 0x4000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	copy(mem, code)
	vm, err := s.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.SetUserMemoryRegion(0, 0, 0, mem); err != nil {
		t.Fatal(err)
	}
	v, err := vm.CreateVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.Close()
		vm.Close()
		unix.Munmap(mem)
	})
	sregs, err := v.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := v.SetSregs(&sregs); err != nil {
		t.Fatal(err)
	}
	if err := v.SetRegs(&Regs{RAX: 0x41, RDX: 0x3f8, RFLAGS: 2}); err != nil {
		t.Fatal(err)
	}
	v.BindThread()
	return vm, v
}

// run enters the guest until it exits.
func run(t testing.TB, v *VCPU) {
	t.Helper()
	for {
		err := v.Run()
		if err == nil {
			return
		}
		if !errors.Is(err, ErrInterrupted) {
			t.Fatal(err)
		}
	}
}

func TestPortAndMemoryExits(t *testing.T) {
	_, v := realModeVM(t, []byte{
		0xee,             // out %al, (%dx)
		0xec,             // in (%dx), %al
		0xa2, 0x00, 0x50, // mov %al, 0x5000: outside RAM
		0xa0, 0x01, 0x50, // mov 0x5001, %al
		0xf4, // hlt
	})
	run(t, v)
	io, ok := v.IO()
	if v.Exit() != KVM_EXIT_IO || !ok || !io.Out || io.Port != 0x3f8 || string(io.Data) != "A" {
		t.Fatalf("exit %v, %+v, %v", v.Exit(), io, ok)
	}
	run(t, v)
	if io, ok = v.IO(); !ok || io.Out || io.Port != 0x3f8 {
		t.Fatalf("exit %v, %+v, %v", v.Exit(), io, ok)
	}
	io.Data[0] = 'B'
	run(t, v)
	m, ok := v.MMIO()
	if v.Exit() != KVM_EXIT_MMIO || !ok || !m.Write || m.Addr != 0x5000 || string(m.Data) != "B" {
		t.Fatalf("exit %v, %+v, %v", v.Exit(), m, ok)
	}
	run(t, v)
	if m, ok = v.MMIO(); !ok || m.Write || m.Addr != 0x5001 {
		t.Fatalf("exit %v, %+v, %v", v.Exit(), m, ok)
	}
	m.Data[0] = 'C'
	run(t, v)
	if v.Exit() != KVM_EXIT_HLT {
		t.Fatalf("exit %v: %s", v.Exit(), v.Describe())
	}
	regs, err := v.Regs()
	if err != nil || regs.RAX&0xff != 'C' {
		t.Fatalf("RAX %#x, %v: want the byte that was read", regs.RAX, err)
	}
}

func TestKickEndsAGuestThatNeverExits(t *testing.T) {
	_, v := realModeVM(t, []byte{0xeb, 0xfe}) // jmp to itself
	kicked := make(chan struct{})
	go func() {
		defer close(kicked)
		v.Kick()
	}()
	if err := v.Run(); !errors.Is(err, ErrInterrupted) {
		t.Fatalf("Run = %v", err)
	}
	<-kicked
	// It stays in force until it is cleared, wherever it met the vCPU.
	v.Kick()
	if err := v.Run(); !errors.Is(err, ErrInterrupted) {
		t.Fatalf("Run = %v", err)
	}
	v.ClearKick()
}

func TestStateRoundTrips(t *testing.T) {
	vm, v := realModeVM(t, []byte{0xf4})
	for name, try := range map[string]func() error{
		"fpu": func() error { f, err := v.FPU(); return errors.Join(err, v.SetFPU(&f)) },
		"xsave": func() error {
			n, err := vm.XSaveSize()
			if err != nil {
				return err
			}
			x := make([]byte, n)
			return errors.Join(v.XSave(x), v.SetXSave(x))
		},
		"nested": func() error {
			n, err := v.NestedState()
			return errors.Join(err, v.SetNestedState(n))
		},
		"xcrs":   func() error { x, err := v.XCRS(); return errors.Join(err, v.SetXCRS(&x)) },
		"debug":  func() error { d, err := v.DebugRegs(); return errors.Join(err, v.SetDebugRegs(&d)) },
		"events": func() error { e, err := v.Events(); return errors.Join(err, v.SetEvents(&e)) },
		"mp":     func() error { m, err := v.MPState(); return errors.Join(err, v.SetMPState(m)) },
		"clock":  func() error { c, err := vm.Clock(); c.Flags = 0; return errors.Join(err, vm.SetClock(c)) },
		"tsc":    func() error { _, err := v.TSCKHz(); return err },
		"msr": func() error {
			m := []MSREntry{{Index: 0x174}} // IA32_SYSENTER_CS
			_, err := v.ReadMSRs(m)
			return errors.Join(err, v.SetMSRs(m))
		},
		"unknown msr is named": func() error {
			if err := v.SetMSRs([]MSREntry{{Index: 0xdead0000, Data: 1}}); err == nil {
				return errors.New("no error")
			}
			return nil
		},
	} {
		if err := try(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExitNames(t *testing.T) {
	for r, want := range map[ExitReason]string{
		KVM_EXIT_IO: "KVM_EXIT_IO", KVM_EXIT_FAIL_ENTRY: "KVM_EXIT_FAIL_ENTRY", KVM_EXIT_INTERNAL_ERROR: "KVM_EXIT_INTERNAL_ERROR",
		KVM_EXIT_X86_WRMSR: "KVM_EXIT_X86_WRMSR", KVM_EXIT_NOTIFY: "KVM_EXIT_NOTIFY", KVM_EXIT_MEMORY_FAULT: "KVM_EXIT_MEMORY_FAULT", 4711: "KVM_EXIT_4711",
	} {
		if r.String() != want {
			t.Errorf("%d: %s, want %s", uint32(r), r, want)
		}
	}
}
