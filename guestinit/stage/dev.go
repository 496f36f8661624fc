package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// defaultDevices are those that every container has (OCI runtime
// specification, config-linux, "Default Devices").
func defaultDevices() []specs.LinuxDevice {
	mode := fs.FileMode(0o666)
	return []specs.LinuxDevice{
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode},
		{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, FileMode: &mode},
		{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, FileMode: &mode},
		{Path: "/dev/random", Type: "c", Major: 1, Minor: 8, FileMode: &mode},
		{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9, FileMode: &mode},
		{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0, FileMode: &mode},
	}
}

// populateDev makes the devices and links that belong into /dev, unless /dev is the guest's own.
func (r *root) populateDev(spec *specs.Spec) error {
	for _, m := range spec.Mounts {
		if filepath.Clean(m.Destination) == "/dev" && (m.Type == "devtmpfs" || parseOptions(m.Options).flags&unix.MS_BIND != 0) {
			return nil
		}
	}
	devices := defaultDevices()
	if spec.Linux != nil {
		devices = append(devices, spec.Linux.Devices...)
	}
	for _, d := range devices {
		if err := r.makeDevice(d); err != nil {
			return fmt.Errorf("making the device %s: %w", d.Path, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"ptmx": "pts/ptmx",
	} {
		if err := r.makeLink("/dev/"+name, target); err != nil {
			return fmt.Errorf("making the link /dev/%s: %w", name, err)
		}
	}
	return nil
}

func (r *root) makeDevice(d specs.LinuxDevice) error {
	kind, ok := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	if !ok || !filepath.IsAbs(d.Path) {
		return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("type %q or path is not one of a device", d.Type)}
	}
	if d.Major < 0 || d.Minor < 0 || d.Major > 1<<12-1 || d.Minor > 1<<20-1 {
		return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("device number %d:%d is out of range", d.Major, d.Minor)}
	}
	parent, err := r.mkdir(filepath.Dir(d.Path), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	mode := uint32(0o600)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	name := filepath.Base(d.Path)
	number := int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	err = unix.Mknodat(parent, name, kind|mode, number)
	if errors.Is(err, fs.ErrExist) {
		// The image's own is not to be trusted with the name.
		if err = unix.Unlinkat(parent, name, 0); err == nil {
			err = unix.Mknodat(parent, name, kind|mode, number)
		}
	}
	if err != nil {
		return err
	}
	uid, gid := 0, 0
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	if err := unix.Fchownat(parent, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(parent, name, mode, 0) // whatever the umask
}

// makeLink makes a symbolic link, unless something of that name is there.
func (r *root) makeLink(path, target string) error {
	parent, err := r.mkdir(filepath.Dir(path), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	err = unix.Symlinkat(target, parent, filepath.Base(path))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// setupTerminal opens a new terminal of the container's own, hands its master to the
// agent and makes it the process's standard streams and controlling terminal.
func setupTerminal(cfg *Config) error {
	master, slave, err := openTerminal()
	if err != nil {
		return fmt.Errorf("opening a terminal (is a devpts mounted at /dev/pts?): %w", err)
	}
	defer unix.Close(master)
	if size := cfg.Process.ConsoleSize; size != nil {
		ws := unix.Winsize{Row: clamp16(size.Height), Col: clamp16(size.Width)}
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &ws); err != nil {
			return fmt.Errorf("setting the terminal's size: %w", err)
		}
	}
	if cfg.Container != nil {
		if err := bindConsole(slave); err != nil {
			return fmt.Errorf("providing /dev/console: %w", err)
		}
	}
	if err := send(message{Terminal: true}, master); err != nil {
		return fmt.Errorf("handing over the terminal: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return fmt.Errorf("dup: %w", err)
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("taking the terminal as the controlling one: %w", err)
	}
	return nil
}

// openTerminal opens a pair in the devpts at /dev/pts. The slave is taken
// from the master, not by its name, which could lead elsewhere.
func openTerminal() (master, slave int, err error) {
	master, err = unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, err
	}
	if err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err == nil {
		slave, err = openPeer(master)
	}
	if err != nil {
		unix.Close(master)
		return -1, -1, err
	}
	return master, slave, nil
}

func openPeer(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// bindConsole makes /dev/console the terminal.
func bindConsole(slave int) error {
	f, err := os.OpenFile("/dev/console", os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_EXCL, 0o600)
	if err == nil {
		f.Close()
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	name, err := os.Readlink(fdPath(slave))
	if err != nil {
		return err
	}
	return unix.Mount(name, "/dev/console", "", unix.MS_BIND, "")
}

func clamp16(n uint) uint16 { return uint16(min(n, 1<<16-1)) }
