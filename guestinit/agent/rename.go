package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/archive"
	"github.com/hullvm/hull/guestinit/proto"
)

// bootIDFile is where programs look for what tells one boot from another.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// machineIDFile holds what tells one installation from another, machine-id(5).
const machineIDFile = "/etc/machine-id"

// rename gives the container c, whose main process is p, the names of t. Both may be nil.
func (a *Agent) rename(c *container, p *process, t *proto.Thaw) error {
	if t.BootID != "" {
		a.mu.Lock()
		a.bootID = t.BootID // for a container that is still to come
		a.mu.Unlock()
	}
	if p == nil {
		return nil
	}
	pidfd := int(p.pidfd.Fd())
	if t.Hostname != "" {
		if err := setHostname(pidfd, t.Hostname); err != nil {
			return err
		}
	}
	hostname := t.Hostname + "\n"
	for target, content := range map[string]*string{"/etc/hosts": t.Hosts, "/etc/resolv.conf": t.ResolvConf, "/etc/hostname": &hostname} {
		if content == nil || c.files[target] == "" || target == "/etc/hostname" && t.Hostname == "" {
			continue // the image's own is nobody's business
		}
		if _, err := a.writeFile(target, *content); err != nil {
			return err
		}
	}
	if t.MachineID != "" {
		if err := a.writeMachineID(c, pidfd, t.MachineID); err != nil {
			return fmt.Errorf("giving the container a machine ID: %w", err)
		}
	}
	if t.BootID != "" {
		if err := a.cover(c, pidfd, bootIDFile, t.BootID+"\n"); err != nil {
			return fmt.Errorf("giving the container a boot ID: %w", err)
		}
	}
	return nil
}

// setHostname sets the host name in the UTS namespace of a process.
func setHostname(pidfd int, name string) (err error) {
	inThread(func() {
		if err = unix.Setns(pidfd, unix.CLONE_NEWUTS); err == nil {
			err = unix.Sethostname([]byte(name))
		}
	})
	if err != nil {
		return fmt.Errorf("setting the host name %q: %w", name, err)
	}
	return nil
}

// writeMachineID writes an ID over the one that the container has, if it has one. Where it cannot be written, it is covered.
func (a *Agent) writeMachineID(c *container, pidfd int, id string) error {
	if c.files[machineIDFile] != "" {
		return a.cover(c, pidfd, machineIDFile, id+"\n")
	}
	root, err := a.view()
	if err != nil {
		return err
	}
	defer root.Close()
	err = root.Rewrite(machineIDFile, machineID+1, func(old []byte) []byte {
		if !isMachineID(strings.TrimSuffix(string(old), "\n")) {
			return nil
		}
		return []byte(id + "\n")
	})
	switch {
	case archive.IsNotExist(err):
		return nil
	case errors.Is(err, unix.EROFS):
		return a.cover(c, pidfd, machineIDFile, id+"\n")
	}
	return err
}

// cover mounts a file of the agent's over one that the container has, or writes it anew if it has done so before.
func (a *Agent) cover(c *container, pidfd int, target, content string) error {
	path, err := a.writeFile(target, content)
	if err != nil || c.files[target] != "" {
		return err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	defer unix.Close(fd)
	inThread(func() {
		var root *archive.Root
		if root, err = openRootOf(pidfd); err != nil {
			return
		}
		defer root.Close()
		err = root.Cover(target, fd)
	})
	if archive.IsNotExist(err) {
		return nil // a container without /proc, for one
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c.files[target] = path
	return nil
}

// mountsProc tells whether a container has a /proc.
func mountsProc(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/proc" && m.Type == "proc" })
}
