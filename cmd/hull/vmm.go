package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/api"
	"github.com/hullvm/hull/vmm/jail"
)

// vmmFlags are the flags of `hull vmm` as they were given.
type vmmFlags struct {
	socket, config, id, metadata string
	platform                     string
	noAPI, noSeccomp             bool
	maxBody, maxMetadata         int
	options                      api.LogOptions
	metrics, logFormat           string
}

func newVMM(a *app) *cobra.Command {
	var flags vmmFlags
	cmd := &cobra.Command{
		Use:   "vmm [OPTIONS]",
		Short: "Serve Firecracker's API for one VM",
		Long: fmt.Sprintf(`Serve Firecracker's HTTP API (version %s) on a Unix socket: programs that drive
firecracker configure, start and look after one VM by it. This process is the VM;
its standard streams are the VM's serial port, and it ends when the VM ends.

With --config-file the VM is configured and started from a file that has the
requests' bodies by their paths; --no-api then does without the socket.

The exit status is 0 when the VM switched itself off, asked for a reset or was ended
from here, %d when its kernel panicked, %d on a triple fault, %d when KVM could not
go on with it, and 1 or %d when hull itself failed.`,
			api.Version, vmm.StatusPanic, vmm.StatusTripleFault, vmm.StatusFailure, statusUsage),
		Example: `  hull vmm --api-sock vm.sock
  hull vmm --no-api --config-file vm.json`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.noAPI && flags.config == "" {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), errors.New("--no-api needs --config-file")}}
			}
			return serveVM(a, cmd, &flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.socket, "api-sock", "/run/firecracker.socket", "`Path` of the API's Unix socket, which must not exist")
	f.StringVar(&flags.config, "config-file", "", "Configure and start the VM from this JSON `file`")
	f.BoolVar(&flags.noAPI, "no-api", false, "Do without the API's socket")
	f.StringVar(&flags.id, "id", api.DefaultID, "`Name` of the VM: letters, digits and minuses, at most 64")
	f.StringVar(&flags.platform, "platform", string(vmm.PlatformACPI), "How the guest learns of its machine: acpi, mptable, or none for a bare-metal guest")
	f.StringVar(&flags.metadata, "metadata", "", "Put this JSON `file` into the metadata store")
	f.IntVar(&flags.maxBody, "http-api-max-payload-size", api.DefaultMaxBody, "Most `bytes` of a request's body")
	f.IntVar(&flags.maxMetadata, "mmds-size-limit", 0, "Most `bytes` of the metadata store; 0: as of a request's body")
	f.StringVar(&flags.options.Path, "log-path", "", "Write a log to this `file` or named pipe")
	f.StringVar(&flags.logFormat, "log-format", "text", "`Form` of the log's lines: text or json")
	f.StringVar(&flags.options.Level, "level", "", "Log up to this `level`: Off, Error, Warning, Info, Debug or Trace")
	f.BoolVar(&flags.options.ShowLevel, "show-level", false, "Show the level in the log")
	f.BoolVar(&flags.options.ShowOrigin, "show-log-origin", false, "Show where a line of the log is from")
	f.StringVar(&flags.metrics, "metrics-path", "", "Write metrics to this `file` or named pipe")
	f.BoolVar(&flags.noSeccomp, "no-seccomp", false, "Do without the filter of system calls: for debugging")
	cmd.AddCommand(newVMMMerge())
	return cmd
}

func newVMMMerge() *cobra.Command {
	return &cobra.Command{
		Use:   "merge BASE_STATE BASE_MEMORY STATE MEMORY",
		Short: "Merge a differential snapshot of the API's into the one it is based on",
		Long: `Lay a differential snapshot (snapshot_type "Diff") over the one it is based on. The result takes
the place of the differential one, with all of the memory: if its base was a full snapshot it can be
loaded. The base stays as it is.`,
		Example: `  hull vmm merge vm.state vm.memory diff.state diff.memory`,
		Args:    exactArgs(4),
		RunE: func(_ *cobra.Command, args []string) error {
			return api.MergeSnapshots(api.SnapshotFiles{State: args[0], Memory: args[1]}, api.SnapshotFiles{State: args[2], Memory: args[3]})
		},
	}
}

// serveVM is the life of the VM.
func serveVM(a *app, cmd *cobra.Command, flags *vmmFlags) (err error) {
	if err := api.CheckInstanceID(flags.id); err != nil {
		return &statusError{statusUsage, &usageError{cmd.CommandPath(), fmt.Errorf("--id: %w", err)}}
	}
	if !slices.Contains([]string{"text", "json"}, flags.logFormat) {
		return &statusError{statusUsage, &usageError{cmd.CommandPath(), fmt.Errorf("--log-format %q: must be text or json", flags.logFormat)}}
	}
	flags.options.JSON = flags.logFormat == "json"
	if err := checkPlatform(flags.platform); err != nil {
		return &statusError{statusUsage, &usageError{cmd.CommandPath(), err}}
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	restore, err := rawTerminal(a.stdin)
	if err != nil {
		return err
	}
	defer restore()
	confinement, err := jail.ForServer(os.Getenv(jail.Env))
	if err != nil {
		return err
	}
	if flags.noSeccomp {
		confinement.WithoutSeccomp()
	}
	s := api.New(api.Config{
		ID: flags.id, MaxBody: flags.maxBody, MaxMetadata: flags.maxMetadata, Stdin: a.stdin, Stdout: a.stdout,
		Confine: sync.OnceValue(confinement.Enter), // for one more machine, if the first did not start
		Change:  func(c *vmm.Config) { c.Platform = vmm.Platform(flags.platform) },
	})
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Log(flags.options); err != nil {
		return err
	}
	if flags.metrics != "" {
		if err := s.WriteMetrics(flags.metrics); err != nil {
			return err
		}
	}
	if flags.metadata != "" {
		if err := s.LoadMetadata(flags.metadata); err != nil {
			return err
		}
	}
	var l net.Listener
	if !flags.noAPI {
		if l, err = net.Listen("unix", flags.socket); err != nil {
			return fmt.Errorf("opening the API's socket: %w: whatever is there must be removed first", err)
		}
		defer l.Close()
	}
	if flags.config != "" {
		if err := s.LoadFile(flags.config); err != nil {
			return err
		}
	}
	end, err := wait(ctx, s, l)
	if err != nil {
		return err
	}
	restore()
	switch end.Reason {
	case vmm.ReasonPowerOff, vmm.ReasonReboot, vmm.ReasonStopped:
		return nil
	}
	return &statusError{end.Status, errors.New(end.Message)}
}

// wait serves the API, if there is a socket for it, until the VM has ended.
func wait(ctx context.Context, s *api.Server, l net.Listener) (vmm.Result, error) {
	if l != nil {
		return s.Run(ctx, l)
	}
	select {
	case <-s.Ended():
		return s.Result(), nil
	case <-ctx.Done():
		return vmm.Result{}, ctx.Err()
	}
}

// rawTerminal makes a terminal raw, so that all that is typed is the guest's; restore, which may be called more than once, undoes
// that.
func rawTerminal(f *os.File) (restore func(), err error) {
	if !isTerminal(f) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), old) }, nil
}
