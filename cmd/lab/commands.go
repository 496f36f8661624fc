package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/lab/internal/keeper"
	"github.com/hullvm/hull/cmd/lab/internal/outer"
	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// defaultName is the machine that start, run, shell, status and stop mean without --name.
const defaultName = "default"

// envQEMU names the environment variable with the program that emulates machines.
const envQEMU = "HULL_LAB_QEMU"

// machineFlags describe a machine.
type machineFlags struct {
	config  outer.Config
	name    string
	console string
}

// add defines the flags. Those of the machine itself are listed in set.
func (f *machineFlags) add(c *cobra.Command) {
	c.Flags().IntVar(&f.config.CPUs, "cpus", 1, "CPUs of the machine (with more than one, guests crash now and then)")
	c.Flags().IntVar(&f.config.Memory, "memory", 3072, "memory of the machine in MiB")
	c.Flags().BoolVar(&f.config.Deterministic, "deterministic", false, "count time in instructions, on one CPU, for measurements that repeat")
	c.Flags().BoolVar(&f.config.Deterministic, "icount", false, "same as --deterministic")
	c.Flags().StringVar(&f.config.QEMU, "qemu", "", "the `program` that emulates the machine (default: $"+envQEMU+", else the one installed)")
	c.Flags().StringVar(&f.console, "console", "", "write the kernel messages of the machine to this `file`")
	c.Flags().StringVar(&f.name, "name", defaultName, "`name` of the started machine")
}

// resolve fills in what follows from other flags, and tells whether the user asked
// for a machine of a certain kind.
func (f *machineFlags) resolve(c *cobra.Command) (asked bool, err error) {
	for _, name := range []string{"cpus", "memory", "deterministic", "icount", "console", "qemu"} {
		asked = asked || c.Flags().Changed(name)
	}
	if f.config.QEMU == "" {
		f.config.QEMU = os.Getenv(envQEMU)
	}
	if f.console != "" {
		// Open as long as the process, which is as long as the machine.
		file, err := os.OpenFile(f.console, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
		if err != nil {
			return asked, fmt.Errorf("lab: --console: %w", err)
		}
		f.config.Console = file
	}
	return asked, f.config.Check()
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lab",
		Short: "Run commands in a machine with nested hardware virtualization",
		Long: `lab runs commands as root in a virtual machine (QEMU, emulated in software)
whose /dev/kvm boots Linux guests at any host. The machine sees this host's files
read-only under a writable layer of its own; what a command writes is gone with
the machine.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: true,
		},
	}
	root.AddCommand(runCommand(), shellCommand(), startCommand(), keepCommand(), stopCommand(), statusCommand())
	return root
}

func runCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [flags] [--] COMMAND [ARG...]",
		Short: "Run a command in the lab",
		Long: `Run a command in a started machine (lab start), or in a new one that is gone
afterwards. stdin, stdout, stderr, a terminal and signals are passed on, and the
exit status is the command's; 125 is the lab's own, 124 that of --timeout.
A machine that hangs is replaced once, and the command started over.`,
		Example: `  lab run -- hull run --rm uroot uname -a
  lab run --memory 6144 --timeout 5m -- ./e2e.test -test.v
  lab run --deterministic -- sh -c 'time hull run --rm uroot true'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.run(c, args)
		},
	}
	o.add(c)
	c.Flags().DurationVar(&o.timeout, "timeout", 0, "end the command after this `time` (90s, 5m); exit status 124")
	c.Flags().StringArrayVar(&o.copies, "copy", nil, "copy a file or folder of this host into the machine first: `SRC:DST`")
	c.Flags().BoolVar(&o.fresh, "fresh", false, "use a new machine even if one is started")
	// Flags after the command are the command's.
	c.Flags().SetInterspersed(false)
	return c
}

func shellCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "shell [flags]",
		Short: "A shell in the lab, on this terminal",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.run(c, []string{"bash", "-l"})
		},
	}
	o.add(c)
	return c
}

func startCommand() *cobra.Command {
	var f machineFlags
	c := &cobra.Command{
		Use:   "start [flags]",
		Short: "Start a machine that stays, for lab run to use",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := f.resolve(c); err != nil {
				return err
			}
			return start(f)
		},
	}
	f.add(c)
	return c
}

// keepCommand is the process that start leaves behind.
func keepCommand() *cobra.Command {
	var f machineFlags
	c := &cobra.Command{
		Use:    keepName,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := f.resolve(c); err != nil {
				return err
			}
			return keep(f)
		},
	}
	f.add(c)
	return c
}

func stopCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "stop [flags]",
		Short: "End a started machine",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			place, err := keeper.At(name)
			if err != nil {
				return err
			}
			return place.Stop()
		},
	}
	c.Flags().StringVar(&name, "name", defaultName, "`name` of the machine")
	return c
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the started machines; exit status 1 if there is none",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			place, err := keeper.At(defaultName)
			if err != nil {
				return err
			}
			running := 0
			for _, p := range place.Places() {
				s, err := p.Status()
				if err != nil {
					continue // a killed keeper's socket
				}
				if running == 0 {
					fmt.Println("NAME\tPID\tCPUS\tMEMORY\tCLOCK\tUP\tCOMMANDS")
				}
				running++
				fmt.Println(statusLine(p.Name(), s, time.Now()))
			}
			if running == 0 {
				fmt.Fprintln(os.Stderr, "no machine is started")
				return status(1)
			}
			return nil
		},
	}
}

func statusLine(name string, s wire.Status, now time.Time) string {
	clock := "real"
	if s.Deterministic {
		clock = "instructions"
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d MiB\t%s\t%s\t%d",
		name, s.PID, s.CPUs, s.Memory, clock, now.Sub(s.Started).Round(time.Second), s.Commands)
}

// runOptions are the flags of run and shell.
type runOptions struct {
	machineFlags
	timeout time.Duration
	copies  []string
	fresh   bool
}

func (o *runOptions) run(c *cobra.Command, args []string) error {
	asked, err := o.resolve(c)
	if err != nil {
		return err
	}
	request, err := newRequest(args, o.copies)
	if err != nil {
		return err
	}
	r := runner{config: o.config, request: request, timeout: o.timeout}
	if !asked && !o.fresh {
		if r.place, err = keeper.At(o.name); err != nil {
			return err
		}
		r.started = true
	}
	return r.run(context.Background())
}

// parseCopy splits SRC:DST.
func parseCopy(s string) (wire.Copy, error) {
	source, destination, ok := strings.Cut(s, ":")
	if !ok || source == "" || !filepath.IsAbs(destination) {
		return wire.Copy{}, fmt.Errorf("lab: --copy %s: want SRC:DST with an absolute DST", s)
	}
	source, err := filepath.Abs(source)
	if err != nil {
		return wire.Copy{}, fmt.Errorf("lab: --copy %s: %w", s, err)
	}
	if _, err := os.Lstat(source); err != nil {
		return wire.Copy{}, fmt.Errorf("lab: --copy %s: %w", s, err)
	}
	return wire.Copy{Source: source, Destination: filepath.Clean(destination)}, nil
}
