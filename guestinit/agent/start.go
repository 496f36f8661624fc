package agent

import (
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/cgroup"
	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/guestinit/rootfs"
	"github.com/hullvm/hull/guestinit/stage"
)

// start starts the main process.
func (a *Agent) start(c *container, s *proto.Start) (*process, error) {
	stages := map[string]int64{"request": boottime()}
	if s.Process == "" {
		return nil, &proto.Error{Code: proto.CodeInvalid, Message: "the process has no name"}
	}
	if err := stage.Check(s.Spec); err != nil {
		return nil, err
	}
	if err := checkStreams(s.Streams, s.Spec.Process.Terminal); err != nil {
		return nil, err
	}
	if s.Time != 0 && a.opts.SetClock != nil {
		if err := a.opts.SetClock(s.Time); err != nil {
			a.opts.Log(fmt.Sprintf("setting the clock: %v", err))
		}
	}
	if len(s.Entropy) > 0 && a.opts.AddEntropy != nil {
		if err := a.opts.AddEntropy(s.Entropy); err != nil {
			a.opts.Log(fmt.Sprintf("adding entropy: %v", err))
		}
	}
	cfg, err := a.prepare(c, s, stages)
	if err != nil {
		return nil, err
	}
	p, err := a.run(s.Process, s.Streams, cfg, stage.Attr{CgroupFD: c.fd(), NewPID: c.newPID}, stages)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	c.process = p
	a.mu.Unlock()
	go func() {
		<-p.reaped
		exit := p.exitOf()
		exit.OOMKilled = c.group != nil && c.group.OOMKills() > 0
		a.clear(c)
		p.exit = exit
		close(p.done)
	}()
	return p, nil
}

// prepare makes what the main process is to live in.
func (a *Agent) prepare(c *container, s *proto.Start, stages map[string]int64) (*stage.Config, error) {
	cgroups := a.opts.Prepare()
	if len(s.Interfaces) > 0 {
		if a.opts.Network == nil {
			return nil, &proto.Error{Code: proto.CodeUnsupported, Message: "this agent sets up no network"}
		}
		if err := a.opts.Network(s.Interfaces); err != nil {
			return nil, err
		}
	}
	stages["prepared"] = boottime()
	root, err := a.opts.Mount(s.Root, a.opts.Dir, a.opts.Dev)
	if err != nil {
		return nil, fmt.Errorf("mounting the root filesystem: %w", err)
	}
	stages["rootfs"] = boottime()
	for _, name := range s.Disks {
		d, err := rootfs.Device(name, a.opts.Dev)
		if err != nil {
			return nil, err
		}
		if s.Spec.Linux == nil {
			s.Spec.Linux = &specs.Linux{}
		}
		s.Spec.Linux.Devices = append(s.Spec.Linux.Devices, d)
	}
	a.mu.Lock()
	c.root, c.volatile, c.newPID = root, s.Root.Volatile, stage.WantsPIDNamespace(s.Spec)
	a.mu.Unlock()
	if err := a.mountShares(c, s); err != nil {
		return nil, err
	}
	if err := a.mountVolumes(c, s); err != nil {
		return nil, err
	}
	files, err := a.writeFiles(s)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	c.files = files
	a.mu.Unlock()
	if cgroups != "" {
		var limits *specs.LinuxResources
		if s.Spec.Linux != nil {
			limits = s.Spec.Linux.Resources
		}
		group, err := cgroup.Create(filepath.Join(cgroups, "container"), limits)
		if err != nil {
			return nil, err
		}
		a.mu.Lock()
		c.group = group
		a.mu.Unlock()
	}
	return &stage.Config{
		Process: s.Spec.Process,
		Container: &stage.Container{
			Root: root.Dir(), Spec: s.Spec, Files: files,
			ReadOnly: s.Root.ReadOnly || (s.Spec.Root != nil && s.Spec.Root.Readonly),
		},
	}, nil
}

// fd is the descriptor of the container's cgroup, or -1.
func (c *container) fd() int {
	if c.group == nil {
		return -1
	}
	return c.group.FD()
}

// exec starts a process beside the main one.
func (a *Agent) exec(e *proto.Exec) (*process, error) {
	if e.Process == "" {
		return nil, &proto.Error{Code: proto.CodeInvalid, Message: "the process has no name"}
	}
	if err := stage.CheckProcess(e.Spec); err != nil {
		return nil, err
	}
	if err := checkStreams(e.Streams, e.Spec.Terminal); err != nil {
		return nil, err
	}
	a.mu.Lock()
	c := a.main
	var main *process
	if c != nil {
		main = c.process
	}
	a.mu.Unlock()
	if main == nil {
		return nil, &proto.Error{Code: proto.CodeNoProcess, Message: "the container has not been started"}
	}
	select {
	case <-main.reaped:
		return nil, &proto.Error{Code: proto.CodeNoProcess, Message: "the container has ended"}
	default:
	}
	p, err := a.run(e.Process, e.Streams, &stage.Config{Process: e.Spec, Join: true},
		stage.Attr{CgroupFD: c.fd(), NewPID: c.newPID, JoinFD: int(main.pidfd.Fd())}, map[string]int64{})
	if err != nil {
		return nil, err
	}
	go func() {
		<-p.reaped
		p.exit = p.exitOf()
		close(p.done)
		a.table.end(p)
	}()
	return p, nil
}

// run spawns a process, connects its streams and returns when its program runs.
func (a *Agent) run(name string, streams []string, cfg *stage.Config, attr stage.Attr, stages map[string]int64) (*process, error) {
	if a.table.get(name) != nil {
		return nil, errTaken(name)
	}
	conns, err := a.streams.claim(name, streams)
	if err != nil {
		return nil, err
	}
	stages["streams"] = boottime()
	p, err := a.spawn(name, conns, cfg, attr, stages)
	if err != nil {
		for _, conn := range conns {
			conn.Close()
		}
		return nil, err
	}
	return p, nil
}

func (a *Agent) spawn(name string, conns map[string]Conn, cfg *stage.Config, attr stage.Attr, stages map[string]int64) (*process, error) {
	stdio, err := openStdio(conns)
	if err != nil {
		return nil, fmt.Errorf("standard streams: %w", err)
	}
	attr.Program, attr.Stdio = a.opts.Program, stdio.child
	p, child, err := a.table.spawn(name, cfg, attr)
	stdio.closeChild()
	if err != nil {
		stdio.closeOurs()
		return nil, err
	}
	stages["spawned"] = boottime()
	p.stages = stages
	terminal, err := child.Wait()
	if err != nil {
		stdio.closeOurs()
		<-p.reaped
		a.table.remove(p)
		return nil, err
	}
	p.terminal = terminal
	a.connect(p, stdio, conns)
	return p, nil
}
