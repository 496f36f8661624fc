package guestinit

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/cgroup"
)

// Paths that init uses.
const (
	stateDir   = "/run/hull"
	cgroupRoot = "/sys/fs/cgroup"
	modulesDir = "/lib/hull/modules"
)

// mount is a line of the mount table.
type mount struct {
	target, kind, options string
	flags                 uintptr
	// optional: a kernel may come without this filesystem.
	optional bool
}

const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// firstMounts are needed to find out what to do.
func firstMounts() []mount {
	return []mount{
		{target: "/proc", kind: "proc", flags: safe},
		{target: "/dev", kind: "devtmpfs", flags: unix.MS_NOSUID, options: "mode=0755"},
		{target: "/sys", kind: "sysfs", flags: safe},
		{target: "/run", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, options: "mode=0755"},
	}
}

// laterMounts are needed by what runs in the guest besides the agent.
func laterMounts() []mount {
	return []mount{
		{target: "/dev/pts", kind: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, options: "gid=5,mode=0620,ptmxmode=0666", optional: true},
		{target: "/dev/shm", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, options: "mode=1777", optional: true},
		{target: "/dev/mqueue", kind: "mqueue", flags: safe, optional: true},
		{target: cgroupRoot, kind: "cgroup2", flags: safe, options: "nsdelegate", optional: true},
	}
}

func mountTable(table []mount) error {
	for _, m := range table {
		err := os.MkdirAll(m.target, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.target, m.kind, m.flags, m.options)
		}
		if err == nil || errors.Is(err, unix.EBUSY) { // EBUSY: the kernel has mounted it (CONFIG_DEVTMPFS_MOUNT)
			continue
		}
		if !m.optional {
			return fmt.Errorf("mounting %s at %s: %w", m.kind, m.target, err)
		}
	}
	return nil
}

// mountShare mounts a directory that the host shares. Its device nodes, if it has any, are those of another machine.
func mountShare(tag, dir string, readOnly bool) error {
	flags := uintptr(unix.MS_NODEV)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	err := unix.Mount(tag, dir, "virtiofs", flags, "")
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("this kernel has no virtiofs: %w", err)
	}
	return err
}

// delegateCgroups makes the kernel's controllers available below the root. It
// returns the hierarchy's root, or "" if the kernel has none.
func delegateCgroups() string {
	if cgroup.Delegate(cgroupRoot) != nil {
		return ""
	}
	return cgroupRoot
}
