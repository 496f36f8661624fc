package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// runFlags are the flags of `hull run` as they were given.
type runFlags struct {
	interactive, terminal   bool
	detach                  bool   // of run alone
	detachKeys              string // of run alone
	remove                  bool
	name, cidFile           string
	env, envFiles           []string
	workdir, user, hostname string
	entrypoint              string
	labels, labelFiles      []string
	memory, cpus            string
	readOnly, tmpfsRoot     bool
	tmpfs, volumes, mounts  []string
	volumesFrom             []string
	capAdd, capDrop         []string
	ulimits, addHosts       []string
	network                 networkFlags
	disks                   []string
	stopSignal              string
	stopTimeout             int
	restart                 string
	logDriver               string
	logOpts                 []string
	vmLog                   engine.VMLogConfig
	health                  healthFlags
	limits                  limitFlags
	privileged              bool
	securityOpts            []string
	pull, platform          string
	quiet, sigProxy         bool
	kernel, initrd, append  string
	cold                    bool
	bootTimeout             time.Duration
	timing                  string
}

// Policies of --pull.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
)

// timingText is what --timing is without a file name.
const timingText = "-"

// envBootTimeout sets what --boot-timeout is by default, for hosts that are slow.
const envBootTimeout = "HULL_BOOT_TIMEOUT"

// envCold has all VMs boot, as if --cold were given.
const envCold = "HULL_COLD"

// registerRun adds the flags that run has and create has not.
func (f *runFlags) registerRun(flags *pflag.FlagSet, getenv func(string) string) {
	f.register(flags, getenv)
	flags.BoolVarP(&f.detach, "detach", "d", false, "Run in the background and print the container's ID")
	flags.StringVar(&f.detachKeys, "detach-keys", engine.DefaultDetachKeys, detachKeysHelp)
	flags.BoolVar(&f.sigProxy, "sig-proxy", true, "Pass signals on to the container")
	flags.StringVar(&f.timing, "timing", "", "Show where the time of the start goes; --timing=`FILE`.svg draws it as well")
	flags.Lookup("timing").NoOptDefVal = timingText
}

// detachKeysHelp is about a flag that several commands have.
const detachKeysHelp = "`Keys` that leave the container running when typed in its terminal"

func (f *runFlags) register(flags *pflag.FlagSet, getenv func(string) string) {
	bootTimeout := engine.DefaultBootTimeout
	if d, err := time.ParseDuration(getenv(envBootTimeout)); err == nil && d > 0 {
		bootTimeout = d
	}
	flags.SortFlags = true
	// -h is the hostname here, as docker has it.
	flags.Bool("help", false, "Show this help")
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "Keep the container's standard input open")
	flags.BoolVarP(&f.terminal, "tty", "t", false, "Give the container a terminal")
	flags.BoolVar(&f.remove, "rm", false, "Remove the container when it ends")
	flags.StringVar(&f.name, "name", "", "Name of the container")
	flags.StringVar(&f.cidFile, "cidfile", "", "Write the container's ID to this `file`, which must not exist")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "Set an environment `variable`: NAME=value, or NAME for this environment's value")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "Read environment variables from a `file`")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "Working `directory` in the container")
	flags.StringVarP(&f.user, "user", "u", "", "`User` name or ID, with :group if wanted")
	flags.StringVarP(&f.hostname, "hostname", "h", "", "`Name` of the container's host")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "`Program` to run instead of the image's entrypoint; \"\" for none")
	flags.StringArrayVarP(&f.labels, "label", "l", nil, "Set a `label`: KEY or KEY=value")
	flags.StringArrayVar(&f.labelFiles, "label-file", nil, "Read labels from a `file`")
	flags.StringVarP(&f.memory, "memory", "m", "512m", "Memory of the VM, a ceiling: `bytes`, or with k, m, g")
	flags.StringVar(&f.cpus, "cpus", "1", "`Number` of CPUs; a fraction limits the time on the last one")
	flags.BoolVar(&f.readOnly, "read-only", false, "Make the container's root filesystem read-only")
	flags.BoolVar(&f.tmpfsRoot, "tmpfs-root", false, "Keep what the container writes in memory")
	flags.StringArrayVarP(&f.volumes, "volume", "v", nil, "Mount a directory or file of this host, or a volume: [`source:]target`[:ro]")
	flags.StringArrayVar(&f.volumesFrom, "volumes-from", nil, "Mount what another `container` has mounted; :ro behind it for reading only")
	flags.StringArrayVar(&f.mounts, "mount", nil, "The same in full: `type=bind,source=…,target=…`[,readonly]; type volume or tmpfs")
	flags.StringArrayVar(&f.tmpfs, "tmpfs", nil, "Mount a tmpfs: `path`[:options]")
	flags.StringArrayVar(&f.capAdd, "cap-add", nil, "Add a Linux `capability`")
	flags.StringArrayVar(&f.capDrop, "cap-drop", nil, "Drop a Linux `capability`")
	flags.StringArrayVar(&f.ulimits, "ulimit", nil, "Set a resource `limit`: name=soft[:hard]")
	flags.StringArrayVar(&f.addHosts, "add-host", nil, "Add a line to /etc/hosts: `name:address`")
	f.network.register(flags, engine.NetworkUser)
	f.network.registerContainer(flags)
	flags.StringArrayVar(&f.disks, "disk", nil, diskHelp+"; the first is /dev/vdc")
	flags.StringVar(&f.stopSignal, "stop-signal", "", "`Signal` that asks the container to stop")
	flags.StringVar(&f.pull, "pull", pullMissing, "Pull the image before running: always, missing or never")
	flags.StringVar(&f.platform, "platform", "", "`Platform` of the image; only linux/amd64 can be run")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "Do not show the progress of a pull")
	flags.Bool("init", false, "Reap orphans in the container; always so, accepted for docker's sake")
	flags.StringVar(&f.kernel, "kernel", "", "Boot this kernel `file` instead of the built-in one")
	flags.StringVar(&f.initrd, "initrd", "", "Unpack this initramfs `file` before hull's own")
	flags.StringVar(&f.append, "append", "", "Add `words` to the kernel command line")
	flags.BoolVar(&f.cold, "cold", false, "Boot the VM instead of starting it from one that was saved when it had booted; $HULL_COLD=1 does so for all")
	flags.DurationVar(&f.bootTimeout, "boot-timeout", bootTimeout, "How long the VM may take to boot; $HULL_BOOT_TIMEOUT changes the default")
	flags.IntVar(&f.stopTimeout, "stop-timeout", 0, "`Seconds` that the container has to stop before it is killed; -1: any time (default 10)")
	flags.StringVar(&f.restart, "restart", engine.RestartNo, "When to start the container again: no, always, unless-stopped, on-failure[:`retries`]")
	flags.StringVar(&f.logDriver, "log-driver", engine.LogJSON, "How the container's output is kept: json-file or none")
	flags.StringArrayVar(&f.logOpts, "log-opt", nil, "`Option` of the log: max-size=10m, max-file=3")
	flags.StringVar(&f.vmLog.Level, "vm-log-level", engine.DefaultVMLog.Level, "What hull logs --vm tells of the VM: "+strings.Join(engine.VMLogLevels, ", "))
	flags.StringVar(&f.vmLog.Format, "vm-log-format", engine.DefaultVMLog.Format, "How: "+strings.Join(engine.VMLogFormats, " or "))
	f.health.register(flags)
	f.limits.register(flags)
	flags.BoolVar(&f.privileged, "privileged", false, "Give the container all capabilities, in its own VM")
	flags.StringArrayVar(&f.securityOpts, "security-opt", nil, "Security `option`: no-new-privileges, systempaths=unconfined")
}

// config makes the engine's configuration of the flags and arguments.
func (f *runFlags) config(cmd *cobra.Command, image string, args []string) (engine.Config, error) {
	c := engine.Config{
		Image: image, Args: args,
		WorkingDir: f.workdir, User: f.user, Hostname: f.hostname, ExtraHosts: f.addHosts,
		Terminal: f.terminal, OpenStdin: f.interactive, AutoRemove: f.remove,
		ReadOnly: f.readOnly, TmpfsRoot: f.tmpfsRoot, CapAdd: f.capAdd, CapDrop: f.capDrop,
		Privileged: f.privileged, SecurityOpt: f.securityOpts, VMLog: f.vmLog,
		Kernel: f.kernel, Initrd: f.initrd, Append: f.append, Cold: f.cold, BootTimeout: f.bootTimeout,
	}
	if cmd.Flags().Changed("entrypoint") {
		c.Entrypoint = []string{f.entrypoint}
	}
	if f.bootTimeout <= 0 {
		return c, fmt.Errorf("--boot-timeout %v: must be positive", f.bootTimeout)
	}
	if !slices.Contains([]string{pullAlways, pullMissing, pullNever}, f.pull) {
		return c, fmt.Errorf("--pull %q: must be always, missing or never", f.pull)
	}
	if f.platform != "" && f.platform != "linux/amd64" {
		return c, fmt.Errorf("--platform %q: this host runs linux/amd64", f.platform)
	}
	var err error
	if c.Disks, err = parseDisks(f.disks); err != nil {
		return c, err
	}
	if c.NetworkConfig, err = f.network.config(); err != nil {
		return c, err
	}
	if c.Memory, err = parseMemory(f.memory); err != nil {
		return c, fmt.Errorf("--memory: %w", err)
	}
	if c.CPUs, err = parseCPUs(f.cpus); err != nil {
		return c, fmt.Errorf("--cpus: %w", err)
	}
	if c.Env, err = f.environment(); err != nil {
		return c, err
	}
	if c.Labels, err = f.allLabels(); err != nil {
		return c, err
	}
	if c.Tmpfs, err = parseTmpfs(f.tmpfs); err != nil {
		return c, err
	}
	if err := f.addMounts(&c); err != nil {
		return c, err
	}
	if c.Ulimits, err = parseUlimits(f.ulimits); err != nil {
		return c, err
	}
	for _, entry := range f.addHosts {
		if _, _, err := engine.SplitHost(entry); err != nil {
			return c, err
		}
	}
	if f.stopSignal != "" {
		if _, err := engine.ParseSignal(f.stopSignal); err != nil {
			return c, fmt.Errorf("--stop-signal: %w", err)
		}
		c.StopSignal = f.stopSignal
	}
	if cmd.Flags().Changed("stop-timeout") {
		timeout := time.Duration(max(f.stopTimeout, -1)) * time.Second
		c.StopTimeout = &timeout
	}
	if err := f.limits.apply(&c); err != nil {
		return c, err
	}
	if c.Restart, err = engine.ParseRestart(f.restart); err != nil {
		return c, err
	}
	if c.Log, err = parseLog(f.logDriver, f.logOpts); err != nil {
		return c, err
	}
	if c.Health, err = f.health.config(); err != nil {
		return c, err
	}
	if f.name != "" {
		return c, engine.CheckName(f.name)
	}
	return c, nil
}

// environment reads --env-file and -e; the latter wins.
func (f *runFlags) environment() ([]string, error) {
	var env []string
	for _, path := range f.envFiles {
		entries, err := readEnvFile(path, os.LookupEnv)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		env = append(env, entries...)
	}
	for _, given := range f.env {
		entry, err := engine.ResolveEnv(given, os.LookupEnv)
		if err != nil {
			return nil, err
		}
		env = append(env, entry)
	}
	return env, nil
}

func readEnvFile(path string, lookup func(string) (string, bool)) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	env, err := engine.ParseEnvFile(file, lookup)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return env, nil
}

// allLabels reads --label-file and --label; the latter wins.
func (f *runFlags) allLabels() (map[string]string, error) {
	var entries []string
	for _, path := range f.labelFiles {
		// A bare KEY is a label without a value, and not a variable to look up.
		read, err := readEnvFile(path, func(string) (string, bool) { return "", true })
		if err != nil {
			return nil, fmt.Errorf("--label-file: %w", err)
		}
		entries = append(entries, read...)
	}
	entries = append(entries, f.labels...)
	if len(entries) == 0 {
		return nil, nil
	}
	labels := make(map[string]string)
	for _, entry := range entries {
		key, value, _ := strings.Cut(entry, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid label %q: it has no key", entry)
		}
		labels[key] = value
	}
	return labels, nil
}

// parseMemory reads an amount of memory in docker's units.
func parseMemory(s string) (uint64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not an amount of memory such as 512m or 2g", s)
	}
	if n <= 0 {
		return 0, fmt.Errorf("%q: must be more than nothing", s)
	}
	return uint64(n), nil
}

func parseCPUs(s string) (float64, error) {
	cpus, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(cpus, 0) {
		return 0, fmt.Errorf("%q is not a number of CPUs such as 2 or 1.5", s)
	}
	return cpus, engine.CheckCPUs(cpus)
}

func parseTmpfs(entries []string) (map[string]string, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	mounts := make(map[string]string)
	for _, entry := range entries {
		path, options, _ := strings.Cut(entry, ":")
		if _, twice := mounts[path]; twice {
			return nil, fmt.Errorf("duplicate mount point: %s", path)
		}
		mounts[path] = options
	}
	return mounts, nil
}

func parseUlimits(entries []string) ([]engine.Ulimit, error) {
	var limits []engine.Ulimit
	for _, entry := range entries {
		u, err := units.ParseUlimit(entry)
		if err != nil {
			return nil, fmt.Errorf("--ulimit %q: %w", entry, err)
		}
		// -1 is "no limit", which the kernel writes as all ones.
		limits = append(limits, engine.Ulimit{Name: u.Name, Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return limits, nil
}

// completeRunFlags offers values for flags of run and create.
func completeRunFlags(a *app, cmd *cobra.Command) {
	completeFlag(cmd, "network", completeNetworks(a))
	completeFlag(cmd, "volumes-from", completeContainers(a))
	completeFlag(cmd, "pull", cobra.FixedCompletions([]string{pullAlways, pullMissing, pullNever}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "vm-log-level", cobra.FixedCompletions(engine.VMLogLevels, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "vm-log-format", cobra.FixedCompletions(engine.VMLogFormats, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "restart", cobra.FixedCompletions([]string{"always", "no", "on-failure", "unless-stopped"}, cobra.ShellCompDirectiveNoFileComp))
}
