package outer

import (
	"fmt"
	"io"
	"strings"

	"github.com/hullvm/hull/cmd/lab/internal/inner"
)

// Config is the machine to build.
type Config struct {
	CPUs   int // at least 1; 1 when Deterministic
	Memory int // MiB
	// Deterministic makes the machine's clock count instructions, 1 ns each, on one
	// thread of the host. A measurement repeats within a few percent whatever else the
	// host does; the machine is several times slower.
	Deterministic bool
	// Console, if not nil, is given all of the kernel's messages.
	Console io.Writer
	// QEMU is the program that emulates the machine; "" is the one installed.
	QEMU string
}

// Limits of a machine.
const (
	MaxCPUs   = 255
	MinMemory = 256     // MiB: the kernel and its initramfs
	MaxMemory = 1 << 20 // MiB
)

// Check reports the first value that no machine can have.
func (c Config) Check() error {
	switch {
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return fmt.Errorf("lab: %d CPUs: want 1 to %d", c.CPUs, MaxCPUs)
	case c.Deterministic && c.CPUs != 1:
		return fmt.Errorf("lab: %d CPUs: a deterministic machine has one", c.CPUs)
	case c.Memory < MinMemory || c.Memory > MaxMemory:
		return fmt.Errorf("lab: %d MiB of memory: want %d to %d", c.Memory, MinMemory, MaxMemory)
	}
	return nil
}

// descriptors are QEMU's file descriptors, in the order in which they are handed over.
const (
	fdPort      = 3 + iota // socket: the virtio-serial port
	fdConsole              // socket: the serial console
	fdFiles                // socket: virtiofsd
	fdInitramfs            // file
	fdKernel               // file; none when QEMU loads the bzImage
	fdScratch              // file; none when there is no disk
)

// commandLine is the kernel's.
func (c Config) commandLine() string {
	args := []string{
		"console=ttyS0",
		// The init starts the other CPUs when the kernel has stopped patching itself,
		// and without it patching itself once more for more than one.
		"maxcpus=1", "noreplace-smp",
		// A machine that cannot go on ends, and the watchdog starts another.
		"panic=-1", "oops=panic", "softlockup_panic=1", "watchdog_thresh=30", "nmi_watchdog=0",
		// The host may not run the machine for seconds when it is busy: checks of
		// one clock by another would find faults that are none.
		"no_timer_check", "tsc=reliable",
		// Only trusted code runs here, and each of these takes part of a second.
		"mitigations=off", "apparmor=0", "audit=0", "nokaslr",
		"rcupdate.rcu_cpu_stall_suppress=1", "cryptomgr.notests",
	}
	if khz := c.tscKHz(); khz != 0 {
		const hz = 250 // of Debian's kernels; only long delays depend on it
		args = append(args, fmt.Sprintf("tsc_early_khz=%d", khz), fmt.Sprintf("lpj=%d", khz*1000/hz))
	}
	if c.Console == nil {
		args = append(args, "quiet") // each line takes a millisecond
	}
	return strings.Join(args, " ")
}

// cpu is an AMD processor with nested paging, less what does harm.
//
// TCG lets a nested guest set XCR0 behind KVM's back, which loses its SSE registers:
// no XSAVE, and nothing that needs it. And TCG emulates "rep movsb" byte by byte,
// which makes all that copies five times as slow: no promise that it is fast. After a
// CMPXCHG16B in a nested guest the flags were the low bits of RAX: none of these either.
const cpu = "max,xsave=off,avx=off,avx2=off,f16c=off,fma=off,vaes=off,vpclmulqdq=off,pku=off,mpx=off,erms=off,cx16=off"

// arguments is QEMU's command line.
func (c Config) arguments(image string, scratch bool) []string {
	args := []string{
		// No configuration of the user's or the distribution's, no default devices.
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-name", "hull-lab", "-M", "q35,vmport=off,smbus=off,sata=off,usb=off,hpet=on",
		"-cpu", cpu,
		"-smp", fmt.Sprint(c.CPUs),
		"-m", fmt.Sprintf("%dM", c.Memory),
		// virtiofsd reads and writes guest memory.
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", c.Memory),
		"-numa", "node,memdev=ram",
		"-kernel", image,
		"-initrd", fmt.Sprintf("/proc/self/fd/%d", fdInitramfs),
		"-append", c.commandLine(),
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole),
		"-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=2",
		"-chardev", fmt.Sprintf("socket,id=port,fd=%d", fdPort),
		"-device", "virtserialport,chardev=port,name=lab",
		"-chardev", fmt.Sprintf("socket,id=files,fd=%d", fdFiles),
		"-device", "vhost-user-fs-pci,chardev=files,queue-size=1024,tag=" + inner.HostTag,
		"-device", "virtio-rng-pci",
	}
	if scratch {
		args = append(args,
			"-drive", fmt.Sprintf("file=/proc/self/fd/%d,format=raw,if=none,id=scratch,cache=unsafe,discard=unmap", fdScratch),
			"-device", "virtio-blk-pci,drive=scratch")
	}
	if c.Deterministic {
		return append(args, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off")
	}
	return append(args, "-accel", "tcg,thread=multi")
}
