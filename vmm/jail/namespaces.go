package jail

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
)

// namespaces are those that a VM's process has of its own: mounts, System V's and POSIX's queues and memory, host name, process IDs, network.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// EnvIsolated is the environment variable that tells a process that Isolate has started it.
const EnvIsolated = "HULL_JAIL_ISOLATED"

// Isolate has cmd, which is to run the VM c, start in namespaces of its own; ForVM then prepares a root directory for it. It reports
// whether it has. An ordinary user's process is in a user namespace besides, in which there are no other users: one with shared
// directories, which may have files of others, stays where it is.
func Isolate(cmd *exec.Cmd, c *vmm.Config) bool {
	if os.Getenv(Env) == Off {
		return false
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	a := cmd.SysProcAttr
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		if len(c.Shares) > 0 || userNamespaces() != nil {
			return false
		}
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // in there, to mount; given up with the others
	}
	a.Cloneflags |= namespaces
	cmd.Env = append(cmd.Env, EnvIsolated+"=1")
	return true
}

// scratchMount is a directory that each host has. The new root directory is put together there, seen by nobody else.
const scratchMount = "/proc"

// newRoot makes a root directory that has nothing but the directories keep, by the paths they have now, for all threads of this
// process. What is open stays so. It needs a mount namespace of the process's own.
//
// Where mounting is denied in spite of that (AppArmor does so in containers, and to users on some hosts), the error is ErrNoMounts, and
// the process keeps the root directory it has.
func newRoot(keep []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return ErrNoMounts
	} else if err != nil {
		return fmt.Errorf("keeping mounts to this process: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("hull", scratchMount, "tmpfs", flags, "mode=0755,size=64k,nr_inodes=64"); err != nil {
		return fmt.Errorf("mounting a root directory on %s: %w", scratchMount, err)
	}
	defer unix.Umask(unix.Umask(0o022)) // whoever the process becomes can go through what is made here
	for _, dir := range keep {
		at := filepath.Join(scratchMount, dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s below a root directory: %w", dir, err)
		}
		// Its sockets can be connected to all the same.
		if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
			return fmt.Errorf("making %s read-only below a root directory: %w", dir, err)
		}
	}
	if err := unix.Mount("", scratchMount, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("making a root directory read-only: %w", err)
	}
	if err := unix.Chdir(scratchMount); err != nil {
		return err
	}
	// The old one goes on top of the new one, and is taken off. The kernel moves all threads that were in it.
	switch err := unix.PivotRoot(".", "."); {
	case errors.Is(err, unix.EINVAL): // the first root directory of all, an initramfs, stays where it is
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving to a root directory: %w", err)
		}
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
	case err != nil:
		return fmt.Errorf("changing the root directory: %w", err)
	default:
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting what was the root directory: %w", err)
		}
	}
	return unix.Chdir("/")
}

// ErrNoMounts says that mounting is denied in new namespaces: VMs keep the root directory of this host, which the other layers close to
// them.
var ErrNoMounts = errors.New("mounting in them is denied (AppArmor does so, and runtimes of containers)")

// ownNamespaces tries whether this process may make namespaces, and mount in them. An ordinary user's are inside of one of users.
func ownNamespaces() error {
	if os.Geteuid() != 0 {
		return userNamespaces()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with what it has tried
		result <- tryNamespaces()
	}()
	return <-result
}

// tryNamespaces puts this thread into namespaces of its own, as far as newRoot needs them.
func tryNamespaces() error {
	if err := unix.Unshare(namespaces); err != nil {
		return err
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return ErrNoMounts
	}
	return err
}
