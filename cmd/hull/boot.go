package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/vmm"
)

// bootFlags are the flags of `hull boot` as they were given.
type bootFlags struct {
	kernel, protocol, initrd string
	append, serial, memory   string
	platform, console        string
	disks, pmems, shares     []string
	cpus                     int
	cid                      uint32
	network                  networkFlags
}

func newBoot(a *app) *cobra.Command {
	var flags bootFlags
	cmd := &cobra.Command{
		Use:   "boot [OPTIONS]",
		Short: "Boot a bare VM on this terminal",
		Long: fmt.Sprintf(`Boot a kernel in a VM whose serial port is this terminal. Without --kernel it is
the built-in one, without --initrd hull's init, which gives a u-root shell.

Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends a Ctrl-A.

With --console hvc0 a virtio console is this terminal, whose size it follows. The
kernel's first messages come from the serial port even so; --serial may lead them
elsewhere.

The exit status tells how the VM ended: %d when it switched itself off or was ended
from here, %d when it asked for a reset, %d when its kernel panicked, %d on a triple
fault, %d when KVM could not go on with it, and %d when hull itself failed.`,
			vmm.StatusPowerOff, vmm.StatusReboot, vmm.StatusPanic, vmm.StatusTripleFault, vmm.StatusFailure, vmm.StatusHull),
		Example: `  hull boot
  hull boot --kernel vmlinuz --cpus 2 --memory 1g
  hull boot --kernel vmlinux --protocol pvh --initrd initramfs.cpio --append 'rdinit=/bin/sh'
  hull boot --network user -p 127.0.0.1:2222:22 --disk root.img --append 'hull.root=/dev/vda'
  hull boot --console hvc0
  hull boot --share .:here --append 'hull.exec="mount -t virtiofs here /tmp; ls /tmp"'
  hull boot --disk root.img,cow --disk data.img --append 'hull.exec="ls /dev"'`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := boot(a, cmd, &flags)
			if err != nil {
				return &statusError{engine.ExitCode(err), err}
			}
			if status != 0 {
				return &statusError{status: status}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.kernel, "kernel", "", "Kernel `file`: bzImage or ELF; none: the built-in one")
	f.StringVar(&flags.protocol, "protocol", "", "How to start the kernel: elf, pvh or bzimage; none: as the file is best started")
	f.StringVar(&flags.platform, "platform", string(vmm.PlatformACPI), "How the guest learns of its machine: acpi, mptable, or none for a bare-metal guest")
	f.StringVar(&flags.initrd, "initrd", "", "Initial filesystem `file`; none: hull's init with a shell")
	f.StringArrayVar(&flags.pmems, "pmem", nil, "Map this `file`[,ro] into the guest as persistent memory; the first is /dev/pmem0")
	f.StringArrayVar(&flags.disks, "disk", nil, diskHelp+"; the first is /dev/vda")
	f.StringArrayVar(&flags.shares, "share", nil, "Share a directory or file: `path:tag`[:ro]; the guest mounts the tag as virtiofs")
	f.Uint32Var(&flags.cid, "vsock", 0, "Give the VM a vsock device with this `address` (CID), 3 or more")
	f.IntVar(&flags.cpus, "cpus", 1, "`Number` of CPUs")
	f.StringVarP(&flags.memory, "memory", "m", "512m", "Memory, a ceiling: `bytes`, or with k, m, g")
	f.StringVar(&flags.append, "append", "", "Add `words` to the kernel command line")
	f.StringVar(&flags.serial, "serial", engine.SerialStdio, "Where the serial port leads: stdio, pty or a `file`")
	f.StringVar(&flags.console, "console", engine.ConsoleSerial, "The guest's console: ttyS0, the serial port, or hvc0, a virtio console on this terminal")
	flags.network.register(f, engine.NetworkNone)
	refuse(cmd, "snapshot", "snapshots")
	return cmd
}

// refuse takes a flag of other monitors that hull cannot serve yet: with a reason,
// and without showing it in the help.
func refuse(cmd *cobra.Command, name, what string) {
	cmd.Flags().Func(name, "", func(string) error {
		return fmt.Errorf("this hull has no %s for bare VMs", what)
	})
	_ = cmd.Flags().MarkHidden(name) // the flag exists
}

func (f *bootFlags) config(cmd *cobra.Command) (engine.BootConfig, error) {
	c := engine.BootConfig{
		Kernel: f.kernel, Protocol: f.protocol, Platform: vmm.Platform(f.platform), Initrd: f.initrd, Append: f.append,
		CPUs: f.cpus, CID: f.cid, Serial: f.serial, Console: f.console,
	}
	if !slices.Contains([]string{engine.ConsoleSerial, engine.ConsoleVirtio}, f.console) {
		return c, fmt.Errorf("--console %q: must be ttyS0 or hvc0", f.console)
	}
	if !slices.Contains([]string{"", "elf", "pvh", "bzimage"}, f.protocol) {
		return c, fmt.Errorf("--protocol %q: must be elf, pvh or bzimage", f.protocol)
	}
	if err := checkPlatform(f.platform); err != nil {
		return c, err
	}
	if cmd.Flags().Changed("vsock") && (f.cid < 3 || f.cid == 0xffffffff) {
		return c, fmt.Errorf("--vsock %d: the guest's address must be 3 to 4294967294", f.cid)
	}
	var err error
	if c.Disks, err = parseDisks(f.disks); err != nil {
		return c, err
	}
	if c.Pmems, err = parsePmems(f.pmems); err != nil {
		return c, err
	}
	for _, given := range f.shares {
		s, err := parseShare(given)
		if err != nil {
			return c, err
		}
		c.Shares = append(c.Shares, s)
	}
	if c.NetworkConfig, err = f.network.config(); err != nil {
		return c, err
	}
	if c.Memory, err = parseMemory(f.memory); err != nil {
		return c, fmt.Errorf("--memory: %w", err)
	}
	return c, nil
}

func boot(a *app, cmd *cobra.Command, flags *bootFlags) (status int, err error) {
	config, err := flags.config(cmd)
	if err != nil {
		return 0, &usageError{cmd.CommandPath(), err}
	}
	e, err := a.engine()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGWINCH)
	defer signal.Stop(signals)
	attach := engine.Attach{Stdin: a.stdin, Stdout: a.stdout, Terminal: a.terminal(), Signals: signals}
	end, err := e.Boot(cmd.Context(), config, attach, func(text string) {
		fmt.Fprintf(a.stderr, "hull boot: %s\r\n", text) // the terminal may be raw
	})
	if err != nil {
		return 0, err
	}
	if end.Status != vmm.StatusPowerOff {
		a.say("hull boot: %s", end.Message)
	}
	return end.Status, nil
}

func checkPlatform(name string) error {
	if !slices.Contains([]vmm.Platform{vmm.PlatformACPI, vmm.PlatformMPTable, vmm.PlatformNone}, vmm.Platform(name)) {
		return fmt.Errorf("--platform %q: must be acpi, mptable or none", name)
	}
	return nil
}
