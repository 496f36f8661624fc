package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// enter builds the container's surroundings and makes its root filesystem the root directory.
// The child is in new mount, UTS and IPC namespaces already.
func enter(c *Container, cwd string) error {
	// The agent is in the parent's cgroup, so a namespace made by clone would
	// begin there; this one begins at the container's own cgroup.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel without
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	if err := setNames(c.Spec); err != nil {
		return err
	}
	if c.Spec.Linux != nil {
		if err := setSysctls(c.Spec.Linux.Sysctl); err != nil {
			return err
		}
	}
	// What is mounted here is nobody else's business.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making all mounts private: %w", err)
	}
	r, err := openRoot(c.Root)
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	if err := r.mountAll(c.Spec.Mounts); err != nil {
		return err
	}
	if err := r.populateDev(c.Spec); err != nil {
		return err
	}
	for _, target := range slices.Sorted(maps.Keys(c.Files)) {
		if err := r.bindFile(c.Files[target], target); err != nil {
			return err
		}
	}
	if filepath.IsAbs(cwd) {
		// As docker does; root owns it.
		fd, err := r.mkdir(cwd, 0o755)
		if err != nil {
			return fmt.Errorf("making the working directory %s: %w", cwd, err)
		}
		unix.Close(fd)
	}
	return r.switchTo()
}

// switchTo makes r the root directory. pivot_root(2) cannot replace the root of an
// initramfs, so the new root is moved over the old: nothing leads back to what is
// under a mount on "/".
func (r *root) switchTo() error {
	if err := unix.Fchdir(r.fd); err != nil {
		return fmt.Errorf("entering the root filesystem: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root filesystem to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering /: %w", err)
	}
	return nil
}

func setNames(spec *specs.Spec) error {
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("setting the host name %q: %w", spec.Hostname, err)
		}
	}
	if spec.Domainname != "" {
		if err := unix.Setdomainname([]byte(spec.Domainname)); err != nil {
			return fmt.Errorf("setting the domain name %q: %w", spec.Domainname, err)
		}
	}
	return nil
}

// setSysctls writes kernel parameters. The kernel is the container's alone, so any may be set.
func setSysctls(values map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		file := strings.ReplaceAll(key, ".", "/")
		if !filepath.IsLocal(file) || path.Clean(file) != file {
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("sysctl %q: not a name of a kernel parameter", key)}
		}
		if err := os.WriteFile("/proc/sys/"+file, []byte(values[key]), 0); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("sysctl %q: this kernel has no such parameter", key)}
			}
			return fmt.Errorf("setting sysctl %s to %q: %w", key, values[key], err)
		}
	}
	return nil
}

// seal does what can only be done in the new root, and takes away what the
// container is not to have.
func seal(c *Container) error {
	if l := c.Spec.Linux; l != nil {
		for _, p := range l.ReadonlyPaths {
			if err := makeReadOnly(p); err != nil {
				return fmt.Errorf("making %s read-only: %w", p, err)
			}
		}
		for _, p := range l.MaskedPaths {
			if err := mask(p); err != nil {
				return fmt.Errorf("masking %s: %w", p, err)
			}
		}
	}
	if c.ReadOnly {
		if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("making the root filesystem read-only: %w", err)
		}
	}
	if l := c.Spec.Linux; l != nil && l.RootfsPropagation != "" {
		flag, ok := propagations()[l.RootfsPropagation]
		if !ok {
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("rootfsPropagation %q: no such propagation", l.RootfsPropagation)}
		}
		if err := unix.Mount("", "/", "", flag, ""); err != nil {
			return fmt.Errorf("setting the propagation of the root filesystem: %w", err)
		}
	}
	return nil
}

// makeReadOnly puts a read-only view of a path over it. A path that does not exist is fine.
func makeReadOnly(path string) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	// Flags of the mount that are not given again would be cleared.
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
	return unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, "")
}

// mask hides a path: a file behind /dev/null, a directory behind an empty one.
func mask(path string) error {
	err := unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
	switch {
	case errors.Is(err, unix.ENOENT):
		// The path, or /dev/null, does not exist.
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	case errors.Is(err, unix.ENOTDIR):
		return unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0,nr_inodes=2")
	}
	return err
}
