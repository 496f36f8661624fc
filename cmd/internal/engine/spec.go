package engine

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNoCommand says that neither the user nor the image tells what to run.
var ErrNoCommand = errors.New("no command specified")

// command merges what is to be run by docker's rules: the user's entrypoint
// replaces the image's and drops the image's command with it; the user's
// arguments replace the image's command.
func command(c *Config, image *ImageConfig) ([]string, error) {
	entrypoint, args := c.Entrypoint, c.Args
	if len(entrypoint) == 0 {
		if len(args) == 0 {
			args = image.Cmd
		}
		if entrypoint == nil {
			entrypoint = image.Entrypoint
		}
	}
	if len(entrypoint) == 1 && entrypoint[0] == "" {
		entrypoint = nil
	}
	all := append(append([]string(nil), entrypoint...), args...)
	if len(all) == 0 {
		return nil, ErrNoCommand
	}
	for _, arg := range all {
		if strings.ContainsRune(arg, 0) {
			return nil, fmt.Errorf("argument %q: has a zero byte", arg)
		}
	}
	return all, nil
}

// Process is what the container runs.
func (r *Record) Process() (*specs.Process, error) {
	spec, err := buildSpec(r)
	if err != nil {
		return nil, err
	}
	return spec.Process, nil
}

// Hostname is the container's: the one given, or its short ID.
func (r *Record) Hostname() string {
	if r.Config.Hostname != "" {
		return r.Config.Hostname
	}
	return ShortID(r.ID)
}

// buildSpec makes the OCI runtime configuration of a container: what docker
// would hand to its runtime, but for what a VM makes pointless. There is no user
// to look up here, as the image's passwd file is in the guest: the agent takes
// Process.User.Username for docker's USER[:GROUP].
func buildSpec(r *Record) (*specs.Spec, error) {
	c, image := &r.Config, &r.ImageConfig
	args, err := command(c, image)
	if err != nil {
		return nil, err
	}
	add := c.CapAdd
	if c.Privileged {
		add = []string{everyCapability}
	}
	caps, err := capabilities(add, c.CapDrop)
	if err != nil {
		return nil, err
	}
	mounts, err := c.mounts()
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(c.WorkingDir, image.WorkingDir)
	if err != nil {
		return nil, err
	}
	user := c.User
	if user == "" {
		user = image.User
	}
	masked, readonly := maskedPaths(), readonlyPaths()
	if c.openPaths() {
		masked, readonly = nil, nil
	}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: r.Hostname(),
		Root:     &specs.Root{Path: "rootfs", Readonly: c.ReadOnly},
		Mounts:   mounts,
		Process: &specs.Process{
			Terminal: c.Terminal,
			User:     specs.User{Username: user},
			Args:     args,
			Env:      environment(c.Env, image.Env, r.Hostname(), c.Terminal),
			Cwd:      cwd,
			Capabilities: &specs.LinuxCapabilities{
				Bounding: caps, Effective: caps, Permitted: caps,
			},
			Rlimits:         rlimits(c.Ulimits),
			NoNewPrivileges: c.noNewPrivileges(),
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{CPU: cpuQuota(c.CPUs), Pids: c.Limits.pids()},
			// No PID namespace: init is outside of the workload's reach
			// anyway, and a shell that kills itself must really die.
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   masked,
			ReadonlyPaths: readonly,
		},
	}, nil
}

func workingDir(given, image string) (string, error) {
	dir := given
	if dir == "" {
		dir = image
	}
	switch {
	case dir == "":
		return "/", nil
	case !path.IsAbs(dir) && given != "":
		return "", fmt.Errorf("the working directory %q is invalid, it needs to be an absolute path", given)
	}
	return path.Clean("/" + dir), nil
}

// vcpus is how many processors a VM has for a share of processing time.
func vcpus(cpus float64) int { return int(math.Ceil(cpus)) }

// cpuPeriod is the span over which a quota holds, in µs: docker's and the kernel's default.
const cpuPeriod = 100_000

// cpuQuota limits a container to a fraction of its VM's processors.
func cpuQuota(cpus float64) *specs.LinuxCPU {
	if cpus == math.Trunc(cpus) {
		return nil
	}
	quota, period := int64(math.Round(cpus*cpuPeriod)), uint64(cpuPeriod)
	return &specs.LinuxCPU{Quota: &quota, Period: &period}
}

func rlimits(limits []Ulimit) []specs.POSIXRlimit {
	var list []specs.POSIXRlimit
	for _, l := range limits {
		list = append(list, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(l.Name), Soft: l.Soft, Hard: l.Hard})
	}
	return list
}

// hostsFile is the container's /etc/hosts: docker's lines for a host without a
// network, its own name, and what --add-host gave.
func hostsFile(hostname string, address netip.Addr, extra []string) (string, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	fmt.Fprintf(&b, "%s\t%s\n", address, hostname)
	for _, entry := range extra {
		name, address, err := SplitHost(entry)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s\t%s\n", address, name)
	}
	return b.String(), nil
}

// SplitHost splits what --add-host takes: NAME:ADDRESS, or NAME=ADDRESS, with an
// IPv6 address in brackets or not.
func SplitHost(entry string) (name string, address netip.Addr, err error) {
	at := strings.IndexAny(entry, ":=")
	if at < 1 {
		return "", netip.Addr{}, fmt.Errorf("bad format for --add-host: %q: want NAME:ADDRESS", entry)
	}
	name = entry[:at]
	if strings.ContainsAny(name, " \t\n#") {
		return "", netip.Addr{}, fmt.Errorf("bad format for --add-host: %q: the name has characters that /etc/hosts cannot hold", entry)
	}
	raw := strings.TrimSuffix(strings.TrimPrefix(entry[at+1:], "["), "]")
	address, err = netip.ParseAddr(raw)
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("invalid IP address in --add-host: %q", raw)
	}
	return name, address, nil
}

// Command is what the container runs, in one line as docker writes it; "" when
// there is nothing.
func (r *Record) Command() string {
	args, err := command(&r.Config, &r.ImageConfig)
	if err != nil {
		return ""
	}
	for i, arg := range args {
		if i > 0 && strings.Contains(arg, " ") {
			args[i] = "'" + arg + "'"
		}
	}
	return strings.Join(args, " ")
}
