package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/testguest"
)

// hello is what the bare-metal guest says first.
const hello = "hello"

// guestMemory is what every monitor gives the bare-metal guest, in bytes.
const guestMemory = 128 << 20

// host compares the time to a bare-metal guest's first output.
func host(o options) error {
	dir, err := os.MkdirTemp("", "bootbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	guest := filepath.Join(dir, "guest.elf")
	if err := os.WriteFile(guest, testguest.PVH, 0o600); err != nil {
		return err
	}
	system, err := kvm.Open()
	if err != nil {
		return err
	}
	info, err := system.Probe()
	system.Close()
	if err != nil {
		return err
	}
	contenders := []*contender{
		{name: "floor", note: "(bare ioctls, no process)", run: floor},
		{name: "exec", note: "(/bin/echo)", argv: []string{"/bin/echo", hello}, marker: hello, endsByItself: true},
		{name: "hull-vmm", note: "(the VM process alone)", run: func() (time.Duration, time.Duration, error) { return vmProcess(o.vmm, guest) }},
		{name: "hull", note: "boot", argv: []string{o.hull, "boot", "--kernel", guest, "--platform", "none", "--memory", "128m"}, marker: hello, endsByItself: true},
	}
	if o.qemu != "" {
		contenders = append(contenders, &contender{name: "qemu", note: "-M microvm " + version(o.qemu, "--version"), marker: hello, argv: []string{
			o.qemu, "-M", "microvm", "-accel", "kvm", "-cpu", "qemu64", "-m", "128", "-kernel", guest,
			"-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"}})
	}
	all, err := compete(os.Stderr, contenders, o.rounds)
	if err != nil {
		return err
	}
	table(os.Stdout, fmt.Sprintf("exec to the first output of a bare-metal guest, on this host's KVM (%v)", info.Modules), "ms", all, "qemu")
	return nil
}

// floor makes a VM with the fewest ioctls that a guest with an interrupt
// controller needs, and runs it to its first port access.
func floor() (marker, end time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Now()
	s, err := kvm.Open()
	if err != nil {
		return 0, 0, err
	}
	defer s.Close()
	vm, err := s.CreateVM()
	if err != nil {
		return 0, 0, err
	}
	mem, err := unix.Mmap(-1, 0, guestMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Munmap(mem)
	copy(mem, []byte{0xe6, 0xf4, 0xf4}) // out %al, $0xf4; hlt
	supported, err := s.SupportedCPUID()
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(vm.SetUserMemoryRegion(0, 0, 0, mem), vm.CreateIRQChip()); err != nil {
		return 0, 0, err
	}
	v, err := vm.CreateVCPU(0)
	if err != nil {
		return 0, 0, err
	}
	sregs, err := v.Sregs()
	if err != nil {
		return 0, 0, err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := errors.Join(v.SetCPUID(supported), v.SetSregs(&sregs), v.SetRegs(&kvm.Regs{RFLAGS: 2})); err != nil {
		return 0, 0, err
	}
	for {
		if err := v.Run(); err == nil {
			break
		} else if !errors.Is(err, kvm.ErrInterrupted) {
			return 0, 0, err
		}
	}
	if v.Exit() != kvm.KVM_EXIT_IO {
		return 0, 0, fmt.Errorf("floor: %s", v.Describe())
	}
	marker = time.Since(begin)
	v.Close()
	vm.Close()
	return marker, time.Since(begin), nil
}

// vmProcess starts hull-vmm as the engine does, with the guest's serial port on
// a pipe.
func vmProcess(program, guest string) (marker, end time.Duration, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer mine.Close()
	defer theirs.Close()
	configIn, configOut, err := os.Pipe()
	if err != nil {
		return 0, 0, err
	}
	defer configIn.Close()
	serialIn, serialOut, err := os.Pipe()
	if err != nil {
		return 0, 0, err
	}
	defer serialIn.Close()
	err = json.NewEncoder(configOut).Encode(vmm.Config{
		CPUs: 1, Memory: guestMemory, Platform: vmm.PlatformNone, Protocol: "pvh",
		Kernel: vmm.File{Path: guest}, Serial: vmm.Serial{Output: &vmm.File{FD: 5}},
	})
	configOut.Close()
	if err != nil {
		return 0, 0, err
	}
	cmd := exec.Command(program)
	cmd.ExtraFiles = []*os.File{configIn, theirs, serialOut}
	cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	serialOut.Close()
	line, err := bufio.NewReader(serialIn).ReadString('\n')
	marker = time.Since(begin)
	_ = cmd.Wait() // the guest resets, which is an exit status of its own
	if err != nil || strings.TrimSpace(line) != hello {
		return 0, 0, fmt.Errorf("%s: no output of the guest: %q: %v", program, line, err)
	}
	return marker, time.Since(begin), nil
}
