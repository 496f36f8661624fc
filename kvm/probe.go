package kvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what stands behind a host's /dev/kvm.
type Kind int

const (
	// KindHardware runs unmodified kernels: VT-x or AMD-V, also nested.
	KindHardware Kind = iota + 1
	// KindSoftware interprets privileged guest code, or runs it changed: bare
	// test guests work, an unmodified Linux does not.
	KindSoftware
)

// Info is what Probe found.
type Info struct {
	Kind    Kind
	Reason  string   // why Kind is KindSoftware, in a sentence
	Modules []string // loaded kernel modules whose names begin with "kvm"
	Missing []string // extensions that hull needs and KVM lacks
	MaxCPUs int      // vCPUs of one VM at most
}

// BootsLinux tells whether an unmodified kernel can run.
func (i Info) BootsLinux() bool { return i.Kind == KindHardware && len(i.Missing) == 0 }

// ErrSoftwareKVM is what Require reports of a host whose KVM cannot boot Linux.
var ErrSoftwareKVM = errors.New("this host's KVM does without hardware virtualization and cannot boot Linux")

// Require returns nil when Linux can be booted, else an error that says what
// is in the way and what to do.
func (i Info) Require() error {
	if len(i.Missing) > 0 {
		return fmt.Errorf("%s lacks %s: a newer host kernel is needed", DevicePath, strings.Join(i.Missing, ", "))
	}
	if i.Kind != KindHardware {
		return fmt.Errorf("%w (%s; modules: %s): use a host with VT-x or AMD-V, bare metal or with nested virtualization switched on",
			ErrSoftwareKVM, i.Reason, strings.Join(i.Modules, ", "))
	}
	return nil
}

// Probe runs a few privileged instructions in a throw-away VM, which takes
// about a millisecond, and tells what kind of KVM this is. An error means that
// KVM cannot be used at all.
func Probe() (Info, error) {
	s, err := Open()
	if err != nil {
		return Info{}, err
	}
	defer s.Close()
	return s.Probe()
}

// Probe is the function of that name for a /dev/kvm that is open already.
func (s *System) Probe() (Info, error) {
	info := Info{Modules: modules()}
	for _, n := range needed {
		have, err := s.CheckExtension(n.cap)
		if err != nil {
			return info, err
		}
		if have == 0 {
			info.Missing = append(info.Missing, n.name)
		}
	}
	var err error
	if info.MaxCPUs, err = s.CheckExtension(KVM_CAP_MAX_VCPUS); err != nil {
		return info, err
	}
	info.Kind, info.Reason, err = s.probeKind()
	return info, err
}

// RequireLinux is Probe and Info.Require, without the probe's throw-away VM where
// a module that drives virtualization hardware is loaded.
func (s *System) RequireLinux() error {
	for _, m := range modules() {
		if m == "kvm_intel" || m == "kvm_amd" {
			return nil
		}
	}
	info, err := s.Probe()
	if err != nil {
		return err
	}
	return info.Require()
}

// The probe's guest memory: one large page of page tables and code at 0.
const (
	probeSize  = 0x6000
	probePML4  = 0x1000
	probePDPT  = 0x2000
	probePD    = 0x3000
	probeCode  = 0x4000
	probeStack = 0x5ff0
	probePort  = 0x42

	ptePresent, pteWrite, pteLarge = 1, 2, 0x80

	cr0PE, cr0PG         = 1, 1 << 31
	cr4PAE               = 1 << 5
	eferLME, eferLMA     = 1 << 8, 1 << 10
	rflagsReserved       = 2
	segCode64, segData64 = 0xb, 0x3
)

// probeGuest counts the bits of a number, an instruction that no
// software KVM emulates in privileged code, asks CPUID for a leaf that only
// this VM has, and tells both through a port:
//
//	mov    $0xff0, %eax
//	popcnt %eax, %ebx
//	mov    $0x40000000, %eax
//	push   %rbx
//	cpuid
//	pop    %rax
//	add    %ebx, %eax
//	out    %eax, $0x42
//	hlt
var probeGuest = []byte{
	0xb8, 0xf0, 0x0f, 0x00, 0x00,
	0xf3, 0x0f, 0xb8, 0xd8,
	0xb8, 0x00, 0x00, 0x00, 0x40,
	0x53,
	0x0f, 0xa2,
	0x58,
	0x01, 0xd8,
	0xe7, probePort,
	0xf4,
}

const (
	probeSignature = 0x68756c00         // EBX of the probe's own leaf 0x40000000
	probeAnswer    = probeSignature + 8 // and popcnt(0xff0)
)

func (s *System) probeKind() (Kind, string, error) {
	mem, err := unix.Mmap(-1, 0, probeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, "", fmt.Errorf("probe KVM: map guest memory: %w", err)
	}
	defer unix.Munmap(mem)
	put := func(at int, v uint64) {
		for i := range 8 {
			mem[at+i] = byte(v >> (8 * i))
		}
	}
	put(probePML4, probePDPT|ptePresent|pteWrite)
	put(probePDPT, probePD|ptePresent|pteWrite)
	put(probePD, 0|ptePresent|pteWrite|pteLarge)
	copy(mem[probeCode:], probeGuest)

	vm, err := s.CreateVM()
	if err != nil {
		return 0, "", fmt.Errorf("probe KVM: %w", err)
	}
	defer vm.Close()
	if err := vm.SetUserMemoryRegion(0, 0, 0, mem); err != nil {
		return 0, "", fmt.Errorf("probe KVM: %w", err)
	}
	v, err := vm.CreateVCPU(0)
	if err != nil {
		return 0, "", fmt.Errorf("probe KVM: %w", err)
	}
	defer v.Close()
	if err := v.probeRegisters(); err != nil {
		return 0, "", fmt.Errorf("probe KVM: %w", err)
	}
	// A handful of instructions ends at the port; only signals come between.
	for {
		if err := v.Run(); !errors.Is(err, ErrInterrupted) {
			if err != nil {
				return KindSoftware, "KVM_RUN of privileged code failed: " + err.Error(), nil
			}
			break
		}
	}
	if v.Exit() != KVM_EXIT_IO {
		return KindSoftware, "privileged guest code is not run by the CPU: " + v.Describe(), nil
	}
	io, ok := v.IO()
	if !ok || io.Port != probePort || len(io.Data) != 4 {
		return KindSoftware, "privileged guest code went astray", nil
	}
	got := uint32(io.Data[0]) | uint32(io.Data[1])<<8 | uint32(io.Data[2])<<16 | uint32(io.Data[3])<<24
	if got != probeAnswer {
		return KindSoftware, "the CPUID instruction shows the guest the host's CPU", nil
	}
	return KindHardware, "", nil
}

func (v *VCPU) probeRegisters() error {
	err := v.SetCPUID([]CPUIDEntry{
		{Function: 0x40000000, EAX: 0x40000000, EBX: probeSignature},
		{Function: 0x80000000, EAX: 0x80000001},
		{Function: 0x80000001, EDX: 1 << 29}, // long mode
	})
	if err != nil {
		return err
	}
	sregs, err := v.Sregs()
	if err != nil {
		return err
	}
	code := Segment{Limit: 0xffffffff, Selector: 8, Typ: segCode64, Present: 1, S: 1, L: 1, G: 1}
	data := Segment{Limit: 0xffffffff, Selector: 16, Typ: segData64, Present: 1, S: 1, DB: 1, G: 1}
	sregs.CS = code
	sregs.DS, sregs.ES, sregs.FS, sregs.GS, sregs.SS = data, data, data, data, data
	sregs.CR0 |= cr0PE | cr0PG
	sregs.CR3 = probePML4
	sregs.CR4 = cr4PAE
	sregs.EFER = eferLME | eferLMA
	if err := v.SetSregs(&sregs); err != nil {
		return err
	}
	return v.SetRegs(&Regs{RIP: probeCode, RSP: probeStack, RFLAGS: rflagsReserved})
}

// modules lists the loaded modules of KVM.
func modules() []string {
	found, _ := filepath.Glob("/sys/module/kvm*")
	var names []string
	for _, f := range found {
		if st, err := os.Stat(f); err == nil && st.IsDir() {
			names = append(names, filepath.Base(f))
		}
	}
	sort.Strings(names)
	return names
}
