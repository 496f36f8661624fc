package stage

import (
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/proto"
)

// Check tells whether a specification asks for nothing that would silently not be
// what was asked for. Some of it needs no doing in a VM and is accepted: the network, mount, UTS, IPC and cgroup
// namespaces (the VM's network is the container's, the others are made in any
// case) and the rules of the device cgroup (the VM's devices are the container's).
//
// A seccomp filter is refused: in a container it keeps tenants from the kernel
// they share, here the kernel is the tenant's own.
func Check(spec *specs.Spec) error {
	if spec == nil || spec.Process == nil {
		return &proto.Error{Code: proto.CodeInvalid, Message: "specification without a process"}
	}
	if err := CheckProcess(spec.Process); err != nil {
		return err
	}
	refused := map[string]bool{
		"hooks":             spec.Hooks != nil,
		"solaris":           spec.Solaris != nil,
		"windows":           spec.Windows != nil,
		"vm":                spec.VM != nil,
		"zos":               spec.ZOS != nil,
		"hostname too long": len(spec.Hostname) > 64 || len(spec.Domainname) > 64,
	}
	if l := spec.Linux; l != nil {
		refused["linux.uidMappings, gidMappings"] = len(l.UIDMappings)+len(l.GIDMappings) > 0
		refused["linux.seccomp"] = l.Seccomp != nil
		refused["linux.intelRdt"] = l.IntelRdt != nil
		refused["linux.memoryPolicy"] = l.MemoryPolicy != nil
		refused["linux.personality"] = l.Personality != nil
		refused["linux.timeOffsets"] = len(l.TimeOffsets) > 0
		refused["linux.netDevices"] = len(l.NetDevices) > 0
		refused["linux.mountLabel"] = l.MountLabel != ""
		for _, ns := range l.Namespaces {
			if ns.Path != "" {
				refused["linux.namespaces: "+string(ns.Type)+" with a path"] = true
			}
			if ns.Type == specs.UserNamespace || ns.Type == specs.TimeNamespace {
				refused["linux.namespaces: "+string(ns.Type)] = true
			}
		}
		if r := l.Resources; r != nil {
			refused["linux.resources.blockIO"] = r.BlockIO != nil
			refused["linux.resources.hugepageLimits"] = len(r.HugepageLimits) > 0
			refused["linux.resources.network"] = r.Network != nil
			refused["linux.resources.rdma"] = len(r.Rdma) > 0
		}
	}
	return refuse(refused)
}

// CheckProcess does the same for a process.
func CheckProcess(p *specs.Process) error {
	if p == nil || len(p.Args) == 0 || p.Args[0] == "" {
		return &proto.Error{Code: proto.CodeInvalid, Message: "no command given"}
	}
	if p.Cwd != "" && !filepath.IsAbs(p.Cwd) {
		return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("working directory %q is not an absolute path", p.Cwd)}
	}
	return refuse(map[string]bool{
		"process.apparmorProfile": p.ApparmorProfile != "",
		"process.selinuxLabel":    p.SelinuxLabel != "",
		"process.scheduler":       p.Scheduler != nil,
		"process.ioPriority":      p.IOPriority != nil,
		"process.execCPUAffinity": p.ExecCPUAffinity != nil,
		"process.commandLine":     p.CommandLine != "",
	})
}

// refuse makes an error of the names that are true.
func refuse(names map[string]bool) error {
	first := ""
	for name, is := range names {
		if is && (first == "" || name < first) {
			first = name
		}
	}
	if first == "" {
		return nil
	}
	return &proto.Error{Code: proto.CodeUnsupported, Message: first + ": not supported in a hull guest"}
}

// WantsPIDNamespace tells whether the container is to have a PID namespace of its own.
func WantsPIDNamespace(spec *specs.Spec) bool {
	if spec.Linux == nil {
		return false
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return true
		}
	}
	return false
}
