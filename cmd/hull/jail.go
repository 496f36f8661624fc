package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/vmm/api"
	"github.com/hullvm/hull/vmm/jail/jailer"
)

func newJail(a *app) *cobra.Command {
	var o jailer.Options
	var cgroupVersion string
	cmd := &cobra.Command{
		Use:   "jail [OPTIONS] -- [OPTIONS OF hull vmm]",
		Short: "Serve Firecracker's API in a directory, as a user, in a cgroup",
		Long: fmt.Sprintf(`Start hull vmm in a jail, with the flags of Firecracker's jailer: its root directory
is BASE/NAME/ID/root, NAME being that of the program, with /dev/kvm, /dev/net/tun and
/dev/urandom in it, and it runs as an ordinary user. Paths over the API are those in the
jail. Only root can make one; nothing of it is removed when the VM ends.

With --new-pid-ns or --daemonize this command ends at once, and ROOT/NAME.pid has the
ID of the process. BASE is %s by default.`, jailer.DefaultBase),
		Example: `  hull jail --id vm1 --uid 1000 --gid 1000 --chroot-base-dir "$PWD/jails" --daemonize -- --api-sock /run/api.sock`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if at := cmd.ArgsLenAtDash(); at != 0 && len(args) > 0 {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), errors.New("the options of hull vmm come after --")}}
			}
			if err := api.CheckInstanceID(o.ID); err != nil {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), fmt.Errorf("--id: %w", err)}}
			}
			if cgroupVersion != "2" {
				return &statusError{statusUsage, &usageError{cmd.CommandPath(), fmt.Errorf("--cgroup-version %s: only 2 is offered", cgroupVersion)}}
			}
			if o.ExecFile == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("finding this program: %w", err)
				}
				o.ExecFile = self
			}
			o.Args = append([]string{"vmm", "--id", o.ID}, args...)
			o.Again = os.Args[1:]
			return jailer.Run(&o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.ID, "id", "", "`Name` of the VM: letters, digits and minuses, at most 64")
	f.StringVar(&o.ExecFile, "exec-file", "", "`Path` of the hull that runs in the jail (default: this one)")
	f.IntVar(&o.UID, "uid", 0, "`User` that it runs as")
	f.IntVar(&o.GID, "gid", 0, "`Group` that it runs as")
	f.StringVar(&o.Base, "chroot-base-dir", jailer.DefaultBase, "`Directory` in which the root directories of jails are")
	f.StringVar(&o.NetNS, "netns", "", "Join the network namespace at this `path`")
	f.StringArrayVar(&o.Cgroup, "cgroup", nil, "Write to a file of the VM's cgroup: `FILE=VALUE`")
	f.StringVar(&cgroupVersion, "cgroup-version", "2", "`Version` of cgroups: 2")
	f.StringVar(&o.Parent, "parent-cgroup", "", "`Cgroup` in which the VM's own is made (default: NAME)")
	f.StringArrayVar(&o.Limits, "resource-limit", nil, "Limit what it may have: `fsize=BYTES or no-file=NUMBER`")
	f.BoolVar(&o.NewPID, "new-pid-ns", false, "Start it in a PID namespace of its own")
	f.BoolVar(&o.Detach, "daemonize", false, "Start it in the background, without standard streams")
	for _, name := range []string{"id", "uid", "gid"} {
		_ = cmd.MarkFlagRequired(name) // the flag exists
	}
	return cmd
}
