package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/images"
)

func newInspect(a *app) *cobra.Command {
	var format, kind string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Show all about containers, images, networks and volumes, as JSON",
		Long: `Show all that is known about things by their names, in a JSON array with docker's names, or by
a Go template for each. A name is first looked for among containers, then images, networks, volumes.`,
		Example: `  hull inspect web
  hull inspect -f '{{.State.Status}} {{.State.ExitCode}}' web
  hull inspect -f '{{json .Config.Env}}' --type image debian`,
		Args:              minArgs(1),
		ValidArgsFunction: completeAny(completeContainers(a), completeImages(a), completeNetworks(a), completeVolumes(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			kinds := []inspectKind{inspectContainers(a, cmd), inspectImages(a, cmd), inspectNetworks(a, cmd), inspectVolumes(a, cmd)}
			if kind != "" {
				i := slices.IndexFunc(kinds, func(k inspectKind) bool { return k.name == kind })
				if i < 0 {
					return fmt.Errorf("%q is not a valid value for --type: there are container, image, network and volume", kind)
				}
				return inspect(a, cmd, args, format, kinds[i].get)
			}
			return inspect(a, cmd, args, format, func(ref string) (any, error) {
				for _, k := range kinds {
					v, err := k.get(ref)
					if err == nil || !k.isMissing(err) {
						return v, err
					}
				}
				return nil, fmt.Errorf("no such object: %s", ref)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", "\"json\" or a Go `template`")
	f.StringVar(&kind, "type", "", "Look among things of one `kind`: container, image, network or volume")
	completeFlag(cmd, "type", cobra.FixedCompletions([]string{"container", "image", "network", "volume"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// inspectKind is a kind of thing that can be inspected.
type inspectKind struct {
	name      string
	get       func(ref string) (any, error)
	isMissing func(error) bool // there is none of this kind with the name
}

func inspectContainers(a *app, cmd *cobra.Command) inspectKind {
	return inspectKind{"container", func(ref string) (any, error) {
		e, err := a.engine()
		if err != nil {
			return nil, err
		}
		r, err := e.Get(cmd.Context(), ref)
		if err != nil {
			return nil, err
		}
		return inspected(e, r), nil
	}, func(err error) bool { return errors.Is(err, engine.ErrNoContainer) }}
}

func inspectImages(a *app, cmd *cobra.Command) inspectKind {
	return inspectKind{"image", func(ref string) (any, error) {
		store, err := a.images()
		if err != nil {
			return nil, err
		}
		return store.Inspect(cmd.Context(), ref)
	}, func(err error) bool { return errors.Is(err, images.ErrNotFound) || errors.Is(err, images.ErrReference) }}
}

func inspectNetworks(a *app, cmd *cobra.Command) inspectKind {
	return inspectKind{"network", func(ref string) (any, error) {
		e, err := a.engine()
		if err != nil {
			return nil, err
		}
		n, err := e.GetNetwork(cmd.Context(), ref)
		if err != nil {
			return nil, err
		}
		return describeNetwork(n, e.Members(n)), nil
	}, func(err error) bool { return errors.Is(err, engine.ErrNoNetwork) }}
}

func inspectVolumes(a *app, cmd *cobra.Command) inspectKind {
	return inspectKind{"volume", func(ref string) (any, error) {
		e, err := a.engine()
		if err != nil {
			return nil, err
		}
		v, err := e.GetVolume(cmd.Context(), ref)
		if err != nil {
			return nil, err
		}
		return object{
			"Name": v.Name, "Driver": engine.DriverLocal, "Mountpoint": e.VolumePath(v.Name), "CreatedAt": inspectedTime(v.Created),
			"Labels": v.Labels, "Options": v.Options, "Scope": "local",
		}, nil
	}, func(err error) bool { return errors.Is(err, engine.ErrNoVolume) }}
}

// inspect prints what get says about each argument: an array, or what a template makes of each. What is found is printed
// even if something else is not.
func inspect(a *app, cmd *cobra.Command, args []string, format string, get func(ref string) (any, error)) error {
	var t *template.Template
	if format != "" && format != "json" {
		var err error
		if t, err = parseTemplate(format); err != nil {
			return err
		}
	}
	found := []any{}
	failed := each(a, cmd, args, func(ref string) error {
		v, err := get(ref)
		if err == nil {
			found = append(found, v)
		}
		return err
	})
	if t == nil {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetEscapeHTML(false)
		if format == "" {
			encoder.SetIndent("", "    ")
		}
		if err := encoder.Encode(found); err != nil {
			return err
		}
		return failed
	}
	for _, v := range found {
		var line strings.Builder
		if err := t.Execute(&line, v); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		fmt.Fprintln(a.stdout, line.String())
	}
	return failed
}

// object is one of docker's, by its field names.
type object = map[string]any

// inspected is all about a container.
func inspected(e *engine.Engine, r *engine.Record) object {
	c := &r.Config
	var path string
	args, env, cwd, user := []string{}, []string{}, c.WorkingDir, c.User
	if p, err := r.Process(); err == nil {
		path, args, env, cwd, user = p.Args[0], p.Args[1:], p.Env, p.Cwd, p.User.Username
	}
	entrypoint := c.Entrypoint
	if entrypoint == nil {
		entrypoint = r.ImageConfig.Entrypoint
	}
	command := c.Args
	if len(command) == 0 && len(c.Entrypoint) == 0 {
		command = r.ImageConfig.Cmd
	}
	return object{
		"Id": r.ID, "Created": r.Created.UTC().Format(time.RFC3339Nano), "Path": path, "Args": args,
		"State": inspectedState(r), "Image": r.ImageID, "Name": "/" + r.Name, "RestartCount": r.State.RestartCount,
		"Driver": "hull", "Platform": "linux", "LogPath": logPath(e, r), "ResolvConfPath": "", "HostnamePath": "", "HostsPath": "",
		"MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": nil,
		"GraphDriver": object{"Name": "hull", "Data": object{}},
		"Config": object{
			"Hostname": r.Hostname(), "Domainname": "", "AttachStdout": !c.OpenStdin || c.StdinOnce, "AttachStderr": !c.OpenStdin || c.StdinOnce,
			"User": user, "Tty": c.Terminal, "OpenStdin": c.OpenStdin, "StdinOnce": c.StdinOnce,
			"AttachStdin": c.StdinOnce, "Env": env, "Cmd": command, "Entrypoint": entrypoint, "Image": c.Image, "WorkingDir": cwd,
			"Labels": c.Labels, "StopSignal": c.StopSignal, "ExposedPorts": r.ImageConfig.ExposedPorts,
			"Volumes": r.ImageConfig.Volumes, "Healthcheck": c.Health,
		},
		"HostConfig":      inspectedHost(r),
		"Mounts":          inspectedMounts(e, r),
		"NetworkSettings": inspectedNetwork(e, r),
	}
}

func logPath(e *engine.Engine, r *engine.Record) string {
	if r.Config.Log.Driver == engine.LogNone {
		return ""
	}
	return e.LogPath(r.ID)
}

func inspectedState(r *engine.Record) object {
	s := &r.State
	state := object{
		"Status": dockerStatus(s.Status), "Running": s.Up() || s.Status == engine.StatusRestarting, "Paused": s.Status == engine.StatusPaused,
		"Restarting": s.Status == engine.StatusRestarting, "OOMKilled": s.OOMKilled, "Dead": s.Status == engine.StatusDead,
		"Pid": s.VM.PID, "ExitCode": s.ExitCode, "Error": s.Error, "StartedAt": inspectedTime(s.Started), "FinishedAt": inspectedTime(s.Finished),
	}
	if s.Group != nil {
		state["Cgroup"] = inspectedGroup(s.Group)
	}
	if s.LogLost > 0 { // docker does not tell
		state["LogEntriesLost"] = s.LogLost
	}
	if s.Health != nil {
		state["Health"] = object{"Status": s.Health.Status, "FailingStreak": s.Health.FailingStreak, "Log": s.Health.Log}
	}
	return state
}

// inspectedGroup is what bounds the VM's process on this host, in the kernel's words, and what is charged to it.
func inspectedGroup(g *engine.GroupState) object {
	if g.Dir == "" {
		return object{"None": g.None}
	}
	group := object{"Dir": g.Dir, "Controllers": g.Controllers, "Limits": g.Settings()}
	if u, ok := g.Usage(); ok {
		group["Usage"] = object{"CPU": u.CPU.String(), "Throttled": u.Throttled.String(), "Memory": u.Memory, "PIDs": u.PIDs}
	}
	return group
}

// dockerStatus is the word that docker has for a status.
func dockerStatus(s engine.Status) string {
	if s == engine.StatusStarting {
		return string(engine.StatusCreated)
	}
	return string(s)
}

func inspectedTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func inspectedHost(r *engine.Record) object {
	c := &r.Config
	logs := object{}
	if c.Log.MaxSize > 0 {
		logs["max-size"] = strconv.FormatInt(c.Log.MaxSize, 10)
	}
	if c.Log.MaxFiles > 0 {
		logs["max-file"] = strconv.Itoa(c.Log.MaxFiles)
	}
	driver := c.Log.Driver
	if driver == "" {
		driver = engine.LogJSON
	}
	var binds []string
	for _, m := range c.Mounts {
		mode := ""
		if m.ReadOnly {
			mode = ":ro"
		}
		binds = append(binds, m.Source+":"+m.Target+mode)
	}
	policy, _, _ := strings.Cut(c.Restart.String(), ":")
	vmLog := c.VMLog.WithDefaults()
	return object{
		"Binds": binds, "NetworkMode": c.Network, "PortBindings": portMap(c.Ports),
		"RestartPolicy": object{"Name": policy, "MaximumRetryCount": c.Restart.MaxRetries}, "AutoRemove": c.AutoRemove,
		"LogConfig":   object{"Type": driver, "Config": logs},
		"VMLogConfig": object{"Level": vmLog.Level, "Format": vmLog.Format}, // docker has none
		"CapAdd":      c.CapAdd, "CapDrop": c.CapDrop, "Dns": c.DNS,
		"DnsOptions": []string{}, "DnsSearch": []string{}, "VolumesFrom": c.VolumesFrom, "Privileged": c.Privileged, "SecurityOpt": c.SecurityOpt,
		"PublishAllPorts": c.PublishAll, "PidsLimit": c.Limits.PIDs, "ShmSize": shmSize(c.Limits), "CpusetCpus": joinCPUs(c.CPUSet), "CgroupnsMode": "private",
		"IpcMode": "private", "PidMode": "", "UTSMode": "", "UsernsMode": "", "Isolation": "", "Init": nil, "OomKillDisable": false,
		"ExtraHosts": c.ExtraHosts, "ReadonlyRootfs": c.ReadOnly, "Tmpfs": c.Tmpfs, "Ulimits": c.Ulimits, "Runtime": "hull",
		"Memory": c.Memory, "NanoCpus": int64(c.CPUs * 1e9), "BlkioWeight": c.Limits.IOWeight,
	}
}

// shmSize is the size of /dev/shm in bytes.
func shmSize(l engine.Limits) uint64 {
	if l.ShmSize == 0 {
		return engine.DefaultShmSize
	}
	return l.ShmSize
}

// joinCPUs writes CPUs as --cpuset-cpus takes them.
func joinCPUs(cpus []int) string { return strings.Join(inRows(cpus), ",") }

func inspectedMounts(e *engine.Engine, r *engine.Record) []object {
	mounts := []object{}
	for _, m := range r.Config.Mounts {
		mount := object{"Type": "bind", "Source": m.Source, "Destination": m.Target, "RW": !m.ReadOnly, "Mode": "", "Propagation": "rprivate"}
		if m.Volume {
			mount["Type"], mount["Name"], mount["Driver"], mount["Source"] = "volume", m.Source, "local", e.VolumePath(m.Source)
		}
		mounts = append(mounts, mount)
	}
	for target, options := range r.Config.Tmpfs {
		mounts = append(mounts, object{"Type": "tmpfs", "Source": "", "Destination": target, "Mode": options, "RW": true})
	}
	return mounts
}

func inspectedNetwork(e *engine.Engine, r *engine.Record) object {
	ports := object{}
	if r.State.Alive() {
		ports = portMap(r.State.Ports)
	}
	for exposed := range r.ImageConfig.ExposedPorts {
		if _, ok := ports[exposed]; !ok {
			ports[exposed] = nil
		}
	}
	networks := object{}
	for _, ep := range e.Endpoints(r) {
		text := func(a netip.Addr) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}
		mac := ""
		if ep.MAC != (engine.MAC{}) {
			mac = ep.MAC.String()
		}
		networks[ep.Name] = object{
			"NetworkID": ep.Network, "Aliases": ep.Aliases, "DNSNames": ep.Names, "MacAddress": mac,
			"IPAddress": text(ep.IPv4), "IPPrefixLen": ep.Bits4, "Gateway": text(ep.Gateway4),
			"GlobalIPv6Address": text(ep.IPv6), "GlobalIPv6PrefixLen": ep.Bits6, "IPv6Gateway": text(ep.Gateway6),
		}
	}
	return object{"Ports": ports, "Networks": networks}
}

// portMap is docker's map of a container's ports to those of the host.
func portMap(list []engine.PortBinding) object {
	ports := object{}
	for _, p := range list {
		key := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
		bound, _ := ports[key].([]object)
		ports[key] = append(bound, object{"HostIp": p.Host.Addr().String(), "HostPort": strconv.Itoa(int(p.Host.Port()))})
	}
	return ports
}
