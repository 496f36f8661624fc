// Package proto is what the host and the guest's agent say to each other.
//
// # Connections
//
// Both ends are vsock sockets; nothing here depends on that. There are two kinds
// of connection:
//
//   - A control connection carries frames (frame.go), each one a [Message] in
//     JSON, in both directions. The agent's first message on it is always
//     [TypeHello]. At boot the agent dials [PortControl] of the host; later the host may
//     dial [PortControl] of the guest as often as it likes. All of them are
//     equal, but for one thing: when the connection over which the main process
//     was started is gone, nobody is left to care, and the guest powers off.
//     A frozen guest waits instead (snapshot.go).
//   - A stream connection, dialled by the host to [PortStream], carries one frame,
//     a [StreamHeader], and then the raw bytes of one stream of one process,
//     until one side shuts down its direction. It may be opened before
//     the request that names it has been sent.
//
// # Requests and answers
//
// The host sends requests, each with an ID of its own choosing above zero; the agent
// answers each with the same ID: "ok", "started", "exited", "error", or what was asked for. A start
// and an exec are answered twice, first with "started" and then, when the process
// has ended, with "exited". Messages with ID 0 are events: the hello, and the bye
// before the guest powers off.
//
// # Versions
//
// A host must be able to talk to an older guest: containers and snapshots live
// longer than the program that made them. Therefore:
//
//   - Fields are only ever added, and their zero value means what was done before
//     they existed. Both sides ignore fields they do not know.
//   - The agent answers a request of a type that it does not know with
//     [CodeUnsupported], and lists in [Hello.Features] what came after version 1,
//     so that the host need not try.
//   - [Version] grows when the meaning of something changes. The hello carries the agent's
//     version and the oldest host version it still serves; [Hello.Check] decides.
package proto

// Version is the protocol's version as this package speaks it.
const Version = 1

// MinVersion is the oldest version of the other side that is still understood.
const MinVersion = 1

// Addresses of the agent, in vsock terms.
const (
	HostCID     = 2    // VMADDR_CID_HOST
	PortControl = 1024 // control connections, both directions
	PortStream  = 1025 // stream connections, host to guest
)

// InitProcess is the name of the main process of a container.
const InitProcess = "init"

// Names of a process's streams. A process with a terminal has just the one
// stream [StreamTerminal], which goes both ways.
const (
	StreamStdin    = "stdin"
	StreamStdout   = "stdout"
	StreamStderr   = "stderr"
	StreamTerminal = "terminal"
)

// Features that an agent may list in [Hello.Features].
const (
	FeatureExec = "exec" // TypeExec is understood
	FeatureWait = "wait" // TypeWait is understood
	// FeatureNetwork: Start.Interfaces are set up.
	FeatureNetwork = "network"
	// FeatureDisks: Start.Disks are given to the container.
	FeatureDisks = "disks"
	// FeatureShares: Start.Shares are mounted.
	FeatureShares = "shares"
	// FeatureVolumes: Start.Volumes are mounted.
	FeatureVolumes = "volumes"
)
