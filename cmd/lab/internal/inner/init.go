// Package inner is the lab's machine seen from the inside: its process 1 and the
// agent that runs commands in it.
//
// The machine's root file system is the host's own, read-only through virtio-fs
// under a writable overlay, so every program and file of the host is there under
// its usual name and nothing done in the machine reaches the host. /tmp, /run,
// /var/tmp and /var/lib/hull are new and empty; the host's own are below
// /run/host. [Init] puts that together and then does nothing but reap; [Agent]
// is its only child.
package inner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	hostMount    = "/mnt/host"    // virtio-fs, before the switch to the new root
	scratchMount = "/mnt/scratch" // the disk that dies with the machine
	newRoot      = "/mnt/root"

	// HostTree is where the host's file system is seen without the overlay.
	HostTree = "/run/host"
	// HostTag is the name of the virtio-fs device.
	HostTag = "host"
)

// Init is process 1 of the machine. It returns only when something failed, or the
// agent ended; its caller powers the machine off.
func Init() error {
	if err := prepare(); err != nil {
		return err
	}
	agent, err := os.StartProcess("/proc/self/exe", []string{"lab", AgentCommand}, &os.ProcAttr{
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return fmt.Errorf("lab init: starting the agent: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("lab init: waiting for children: %w", err)
		case pid == agent.Pid:
			return fmt.Errorf("lab init: the agent ended with status %#x", uint32(status))
		}
	}
}

// PowerOff ends the machine. It returns only if the kernel refuses.
func PowerOff() error {
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("lab init: mounting %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("lab init: mounting %s (%s) on %s: %w", m.source, m.kind, m.target, err)
	}
	return nil
}

func prepare() error {
	for _, m := range []mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sys", "/sys", "sysfs", 0, ""},
		{"dev", "/dev", "devtmpfs", 0, ""},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := pinKVM(); err != nil {
		return err
	}
	if err := onlineCPUs(); err != nil {
		return err
	}
	if err := mountRoot(); err != nil {
		return err
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("lab init: entering the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("lab init: moving the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("lab init: entering the new root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("lab init: entering the new root: %w", err)
	}
	return furnish()
}

// loadModules loads the kernel modules of a directory in the order of their names.
func loadModules(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("lab init: loading a module: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("lab init: loading module %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// mountRoot stacks the writable disk over the host's files at newRoot.
func mountRoot() error {
	if err := (mount{HostTag, hostMount, "virtiofs", unix.MS_RDONLY, ""}).do(); err != nil {
		return err
	}
	scratch := mount{"/dev/vda", scratchMount, "ext4", unix.MS_NOATIME, ""}
	if _, err := os.Stat(scratch.source); err != nil {
		scratch = mount{"scratch", scratchMount, "tmpfs", 0, "mode=755"}
	}
	if err := scratch.do(); err != nil {
		return err
	}
	dir := func(name string, mode os.FileMode) string {
		path := filepath.Join(scratchMount, name)
		// MkdirAll would apply the umask and drop the sticky bit.
		if err := os.MkdirAll(path, 0o755); err == nil {
			_ = os.Chmod(path, mode)
		}
		return path
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", hostMount, dir("upper", 0o755), dir("work", 0o755))
	in := func(path string) string { return newRoot + path }
	for _, m := range []mount{
		{"root", newRoot, "overlay", 0, overlay},
		{"/proc", in("/proc"), "", unix.MS_MOVE, ""},
		{"/sys", in("/sys"), "", unix.MS_MOVE, ""},
		{"/dev", in("/dev"), "", unix.MS_MOVE, ""},
		{"run", in("/run"), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{hostMount, in(HostTree), "", unix.MS_MOVE, ""},
		{dir("tmp", 0o777|os.ModeSticky), in("/tmp"), "", unix.MS_BIND, ""},
		{dir("vartmp", 0o777|os.ModeSticky), in("/var/tmp"), "", unix.MS_BIND, ""},
		{dir("hull", 0o755), in("/var/lib/hull"), "", unix.MS_BIND, ""},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// furnish gives the new root what programs expect of a running system.
func furnish() error {
	for _, m := range []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", 0, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
		{"debugfs", "/sys/kernel/debug", "debugfs", 0, ""}, // kvm/: exits counted
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := enableControllers("/sys/fs/cgroup"); err != nil {
		return err
	}
	// What udev would do on the host.
	for _, device := range []string{"/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/ptmx", "/dev/vsock"} {
		if err := os.Chmod(device, 0o666); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("lab init: %w", err)
		}
	}
	for _, link := range [][2]string{
		{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := os.Symlink(link[0], link[1]); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("lab init: %w", err)
		}
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return fmt.Errorf("lab init: %w", err)
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return fmt.Errorf("lab init: setting the host name: %w", err)
	}
	return loopbackUp()
}

// enableControllers hands every cgroup controller down to the root's children.
func enableControllers(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("lab init: %w", err)
	}
	var on []string
	for name := range strings.FieldsSeq(string(b)) {
		on = append(on, "+"+name)
	}
	f, err := os.OpenFile(filepath.Join(root, "cgroup.subtree_control"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("lab init: %w", err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, strings.Join(on, " ")); err != nil {
		return fmt.Errorf("lab init: enabling cgroup controllers: %w", err)
	}
	return nil
}

// loopbackUp gives the machine its only network interface.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lab init: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("lab init: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("lab init: bringing up lo: %w", err)
	}
	return nil
}
