package proto

import (
	"fmt"
	"net/netip"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Type says what a [Message] is.
type Type string

// Messages of the agent.
const (
	TypeHello   Type = "hello"   // first on every control connection
	TypeStarted Type = "started" // a start or exec has succeeded
	TypeExited  Type = "exited"  // a process has ended; second answer to start and exec, answer to wait
	TypeOK      Type = "ok"      // a request without a result has been carried out
	TypeError   Type = "error"   // a request has failed
	TypeBye     Type = "bye"     // the guest is about to power off
)

// Messages of the host.
const (
	TypeStart    Type = "start"    // build the root filesystem and start the main process
	TypeExec     Type = "exec"     // start a further process beside the main one
	TypeSignal   Type = "signal"   // send a signal to a process
	TypeResize   Type = "resize"   // set the size of a process's terminal
	TypeWait     Type = "wait"     // be told of the end of a process
	TypeShutdown Type = "shutdown" // kill what runs, sync, unmount, power off
)

// Message is one frame on a control connection. The field that belongs to the
// Type is set, the others are nil; ok, bye, shutdown, detach and the requests of processes.go have none.
type Message struct {
	Type Type   `json:"type"`
	ID   uint64 `json:"id,omitempty"` // of the request; 0 in an event

	Hello   *Hello   `json:"hello,omitempty"`
	Started *Started `json:"started,omitempty"`
	Exited  *Exited  `json:"exited,omitempty"`
	Error   *Error   `json:"error,omitempty"`

	Start  *Start  `json:"start,omitempty"`
	Exec   *Exec   `json:"exec,omitempty"`
	Signal *Signal `json:"signal,omitempty"`
	Resize *Resize `json:"resize,omitempty"`
	Wait   *Wait   `json:"wait,omitempty"`

	// files.go
	Mount   *Mount   `json:"mount,omitempty"`
	Stat    *Stat    `json:"stat,omitempty"`
	Pack    *Pack    `json:"pack,omitempty"`
	Unpack  *Unpack  `json:"unpack,omitempty"`
	Changes *Changes `json:"changes,omitempty"`
	File    *File    `json:"file,omitempty"`

	// processes.go
	Processes *Processes `json:"processes,omitempty"`
	Usage     *Usage     `json:"usage,omitempty"`

	// snapshot.go
	Freeze *Freeze `json:"freeze,omitempty"`
	Frozen *Frozen `json:"frozen,omitempty"`
	Clock  *Clock  `json:"clock,omitempty"`
	Thaw   *Thaw   `json:"thaw,omitempty"`
}

// Hello introduces the agent.
type Hello struct {
	Version    int      `json:"version"`    // of the agent
	MinVersion int      `json:"minVersion"` // oldest host version the agent serves
	Features   []string `json:"features,omitempty"`
	Kernel     string   `json:"kernel"` // release, as of uname -r
	// Stages maps the name of a stage of the guest's start to the time it was
	// reached, in ns of the guest's CLOCK_BOOTTIME: "init" is init's first
	// instruction in Go, "agent" the moment when it listens.
	Stages map[string]int64 `json:"stages,omitempty"`
	Now    int64            `json:"now"` // CLOCK_BOOTTIME when this was sent, in ns
}

// Check tells whether a host with this package can talk to the agent that sent
// h, and if not why.
func (h *Hello) Check() error {
	if h.Version < MinVersion {
		return fmt.Errorf("guest agent speaks protocol version %d, this program needs %d or later: use a newer guest image", h.Version, MinVersion)
	}
	if h.MinVersion > Version {
		return fmt.Errorf("guest agent wants protocol version %d or later, this program speaks %d: use a newer hull", h.MinVersion, Version)
	}
	return nil
}

// Has tells whether the agent has a feature.
func (h *Hello) Has(feature string) bool {
	for _, f := range h.Features {
		if f == feature {
			return true
		}
	}
	return false
}

// Start asks for the main process. The first one wins: a second is refused.
type Start struct {
	// Process names the process in later requests and streams: [InitProcess].
	Process string `json:"process"`
	// Spec is an OCI runtime configuration. Honoured: process, hostname,
	// domainname, root.readonly, mounts, and of linux: devices, resources (memory, cpu,
	// pids, unified), sysctl, maskedPaths, readonlyPaths, namespaces (pid: a new one
	// when listed; mount, uts, ipc and cgroup are always new), rootfsPropagation.
	// Refused when set: seccomp, hooks, user namespaces and
	// anything else that would silently not be what was asked for.
	//
	// process.user.username may hold what docker's --user takes, "user[:group]" by
	// name or number: it is looked up in the image's /etc/passwd and /etc/group and
	// replaces uid and gid. HOME is set from there if process.env lacks it.
	// Without a RLIMIT_NOFILE in process.rlimits it is docker's, 1048576.
	Spec *specs.Spec `json:"spec"`
	// Root says where the root filesystem is. Spec.Root.Path is ignored.
	Root RootFS `json:"root"`
	// Streams names those that the host wants. The process is started when all
	// are connected (at most 10 s). One that is not named is /dev/null.
	Streams []string `json:"streams,omitempty"`
	// Time is the wall clock, in ns since 1970; 0: leave the guest's clock alone.
	Time int64 `json:"time,omitempty"`
	// Entropy is fed to the guest's random generator, and credited.
	Entropy []byte `json:"entropy,omitempty"`
	// Hosts, ResolvConf and Hostname replace /etc/hosts, /etc/resolv.conf and
	// /etc/hostname in the container without touching its image. nil keeps the image's.
	Hosts      *string `json:"hosts,omitempty"`
	ResolvConf *string `json:"resolvConf,omitempty"`
	Hostname   *string `json:"hostname,omitempty"`
	// Interfaces are network cards to set up before the process is started; an agent
	// without [FeatureNetwork] ignores them.
	Interfaces []Interface `json:"interfaces,omitempty"`
	// Disks are block devices that the container has in its /dev under their names in the
	// guest's, such as "vdc"; an agent without [FeatureDisks] ignores them.
	Disks []string `json:"disks,omitempty"`
	// Shares are what the host shares for mounts of type bind in Spec.Mounts, whose
	// sources are the host's paths; an agent without [FeatureShares] knows nothing of them.
	Shares []Share `json:"shares,omitempty"`
	// Volumes are disks that stand for the sources of mounts in the same way; an agent without [FeatureVolumes] knows nothing
	// of them.
	Volumes []Volume `json:"volumes,omitempty"`
}

// Volume is a disk with an ext4 whose directory "data" stands for the source of a bind mount.
type Volume struct {
	Disk string `json:"disk"` // its name in the guest's /dev
	// Destination is that of the mount in Spec.Mounts.
	Destination string `json:"destination"`
	ReadOnly    bool   `json:"readOnly,omitempty"`
	// Copy: see Share.
	Copy bool `json:"copy,omitempty"`
}

// Share is a virtio file system that stands for the source of a bind mount.
type Share struct {
	Tag string `json:"tag"`
	// Destination is that of the mount in Spec.Mounts.
	Destination string `json:"destination"`
	// File is the name in the file system's root of the one file to mount; "": all of it.
	File     string `json:"file,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Copy fills it with what the image has at Destination, if it is empty.
	Copy bool `json:"copy,omitempty"`
}

// Interface says how one network card is to be set up.
type Interface struct {
	MAC       string         `json:"mac"`                 // names the card
	MTU       int            `json:"mtu,omitempty"`       // bytes; 0: as it is
	Addresses []netip.Prefix `json:"addresses,omitempty"` // with the length of the network's prefix
	Gateways  []netip.Addr   `json:"gateways,omitempty"`  // default routes, at most one of each family
}

// RootFS says what the root filesystem is made of. Block devices go by their
// name in the guest's /dev, such as "vda".
type RootFS struct {
	// Disk has a GPT whose partitions 1 to Layers are the image's layers, the
	// lowest first, each a read-only filesystem (ext4 or EROFS) with whiteouts in overlayfs
	// format. Layers 0: the whole disk is the one layer.
	Disk   string `json:"disk"`
	Layers int    `json:"layers,omitempty"`
	// Upper is a disk with a writable ext4 that takes what the container
	// writes; "" keeps that in memory (tmpfs), which goes with the VM.
	Upper string `json:"upper,omitempty"`
	// TmpfsSize is the most that a root in memory may hold, in bytes; 0: half of the guest's memory.
	TmpfsSize uint64 `json:"tmpfsSize,omitempty"`
	// ReadOnly makes the root read-only for the container, as Spec.Root.Readonly does.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Volatile says that what the container writes is thrown away with the VM:
	// nothing is ever synced to Upper, and it is not unmounted at the end.
	Volatile bool `json:"volatile,omitempty"`
}

// Exec asks for a further process in the namespaces of the running main process.
type Exec struct {
	Process string         `json:"process"` // its name; must be new
	Spec    *specs.Process `json:"spec"`
	Streams []string       `json:"streams,omitempty"` // as in Start
}

// Started says that the program of the process has been executed.
type Started struct {
	Process string `json:"process"`
	PID     int    `json:"pid"`  // as init in the guest sees it
	Time    int64  `json:"time"` // CLOCK_BOOTTIME after its execve, in ns
	// Stages maps the name of a stage of the start to the CLOCK_BOOTTIME at its
	// end, in ns: "request" (it has been read), "prepared" (mounts and cgroups
	// of the guest), "rootfs", "streams" (connected), "spawned" (the stage child).
	Stages map[string]int64 `json:"stages,omitempty"`
}

// Exited says that a process has ended. Its output may still be on the way: each
// stream ends with an end of file of its own.
type Exited struct {
	Process   string `json:"process"`
	Status    int    `json:"status"`              // its exit status, when Signal is 0
	Signal    int    `json:"signal,omitempty"`    // the signal that killed it, or 0
	OOMKilled bool   `json:"oomKilled,omitempty"` // the kernel ran out of memory for the container
	Time      int64  `json:"time,omitempty"`      // CLOCK_BOOTTIME, in ns
}

// Code is the exit status as a shell and docker give it: 128+n after signal n.
func (e *Exited) Code() int {
	if e.Signal != 0 {
		return 128 + e.Signal
	}
	return e.Status
}

// Signal sends a signal by number, 1 to 64, to the process; All: to every
// process of the container.
type Signal struct {
	Process string `json:"process"`
	Signal  int    `json:"signal"`
	All     bool   `json:"all,omitempty"`
}

// Resize sets the size of the process's terminal in characters.
type Resize struct {
	Process string `json:"process"`
	Rows    uint16 `json:"rows"`
	Cols    uint16 `json:"cols"`
}

// Wait asks for an "exited" when the process has ended, now or later. The ends
// of the main process and of the last 128 execs are remembered.
type Wait struct {
	Process string `json:"process"`
}

// StreamHeader is the one frame at the head of a stream connection.
type StreamHeader struct {
	Process string `json:"process"`
	Stream  string `json:"stream"`
}

// Code classes the errors of the agent.
type Code string

// The codes. A receiver treats one that it does not know as [CodeIO].
const (
	CodeNotFound      Code = "not-found"      // the program does not exist: exit status 127
	CodeNotExecutable Code = "not-executable" // it exists but cannot be executed: 126
	CodeInvalid       Code = "invalid"        // the request makes no sense or asks for what is not there
	CodeUnsupported   Code = "unsupported"    // this agent cannot do that
	CodeNoProcess     Code = "no-process"     // no process of that name, or it has ended
	CodeIO            Code = "io"             // anything else that went wrong
)

// Error is the answer to a request that failed. It is a Go error too.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// ExitCode is the exit status that docker gives for such a failure of a start.
func (e *Error) ExitCode() int {
	switch e.Code {
	case CodeNotFound:
		return 127
	case CodeNotExecutable:
		return 126
	default:
		return 125
	}
}
