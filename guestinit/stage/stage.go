// Package stage is the last step before a container's program.
//
// The agent does not execute a program directly: between its own world and the
// program's lie namespaces, mounts, a new root, credentials, limits. All of that is
// set up by a child that is the same binary as init, executed again under the name [Name], which
// then executes the program in its own place. A process of its own, because much of
// this can only be done by a thread for itself, and because failing there costs nobody else anything.
//
// [Spawn] is the agent's side, [Main] the child's. Between them are two descriptors: a
// file with the [Config], and a socket (see report.go) over which the child hands out the terminal
// and reports its failure. The socket closes on a successful execve.
//
// The order of things is that of runc, for the same reasons: mounts before the
// new root, everything that needs privileges before they are dropped, the search for the
// program after that, as the user who is to execute it.
//
// Nothing that comes from the image is trusted: paths are resolved with the
// container's root as their root (openat2, RESOLVE_IN_ROOT), files are read only
// if they are regular, and only up to a limit.
package stage

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// Name is argv[0] of the child.
const Name = "hull-stage"

// Descriptors of the child besides its standard streams.
const (
	fdConfig = 3 // Config as JSON, to its end
	fdReport = 4 // socket to the agent
	fdJoin   = 5 // with Config.Join: pidfd of the process whose namespaces to enter
)

// Config says what the child is to do.
type Config struct {
	// Process is what to execute.
	Process *specs.Process `json:"process"`
	// Join: enter the namespaces of a running container instead of building one. Container is nil then.
	Join bool `json:"join,omitempty"`
	// Container is what to build around the process.
	Container *Container `json:"container,omitempty"`
	// Console: standard input is a terminal already, and becomes the controlling one.
	Console bool `json:"console,omitempty"`
}

// Container is the surroundings of a container's main process.
type Container struct {
	// Root is the mount point of its root filesystem, for the agent.
	Root string `json:"root"`
	// Spec is what has been asked for; its Root and Process are not used.
	Spec *specs.Spec `json:"spec"`
	// ReadOnly makes the root filesystem read-only.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Files are bind-mounted over files of the container: path in the container
	// to path for the agent.
	Files map[string]string `json:"files,omitempty"`
}

// Main is the child. It returns only if it fails; the failure has been reported then.
func Main() {
	// Namespaces, capabilities and the like are the thread's; so the thread that
	// sets them must be the one that executes.
	runtime.LockOSThread()
	report(run())
}

// run never returns nil: on success it does not return.
func run() error {
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	// Nothing of the agent's is for the program.
	if err := unix.CloseRange(fdReport+1, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing descriptors: %w", err)
	}
	unix.CloseOnExec(fdConfig)
	unix.CloseOnExec(fdReport)
	if err := writeOOMScore(cfg.Process.OOMScoreAdj); err != nil {
		return err
	}
	if cfg.Join {
		if err := join(fdJoin); err != nil {
			return err
		}
	} else if err := enter(cfg.Container, cfg.Process.Cwd); err != nil {
		return err
	}
	if cfg.Process.Terminal {
		if err := setupTerminal(cfg); err != nil {
			return err
		}
	}
	if cfg.Console {
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 1); err != nil {
			return fmt.Errorf("taking the console as the controlling terminal: %w", err)
		}
	}
	if cfg.Container != nil {
		if err := seal(cfg.Container); err != nil {
			return err
		}
	}
	return execute(cfg.Process)
}

func readConfig() (*Config, error) {
	raw, err := io.ReadAll(os.NewFile(fdConfig, "config"))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var cfg Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if cfg.Process == nil || (cfg.Container == nil) != cfg.Join {
		return nil, &proto.Error{Code: proto.CodeInvalid, Message: "configuration without a process or a container"}
	}
	return &cfg, nil
}

// join enters the namespaces of a running container.
func join(pidfd int) error {
	// A mount namespace can be entered only by a thread that shares its root and
	// working directory with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("entering the container: unshare: %w", err)
	}
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Setns(pidfd, namespaces); err != nil {
		return fmt.Errorf("entering the container: setns: %w", err)
	}
	return nil
}

// writeOOMScore sets how readily the kernel kills the process when memory runs
// out: 0 if nothing is said. The agent's own score would spare it.
func writeOOMScore(score *int) error {
	if score == nil {
		score = new(int)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", fmt.Append(nil, *score), 0); err != nil {
		return fmt.Errorf("setting oom_score_adj to %d: %w", *score, err)
	}
	return nil
}
