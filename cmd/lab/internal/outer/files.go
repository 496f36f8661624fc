package outer

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// handles are files that a machine is started with. Those that are not kept are
// closed when it has started.
type handles []*os.File

func (h *handles) add(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			*h = append(*h, f)
		}
	}
}

// pair adds two connected sockets.
func (h *handles) pair() (ours, theirs *os.File, err error) {
	ours, theirs, err = socketPair()
	if err == nil {
		*h = append(*h, ours, theirs)
	}
	return ours, theirs, err
}

// keep takes files out of h.
func (h *handles) keep(files ...*os.File) {
	rest := (*h)[:0]
	for _, f := range *h {
		kept := false
		for _, k := range files {
			kept = kept || k == f
		}
		if !kept {
			rest = append(rest, f)
		}
	}
	*h = rest
}

func (h *handles) close() {
	for _, f := range *h {
		f.Close()
	}
}

// scratchSize is the size of the disk for all that is written in a machine. The
// file is sparse: it takes what is written.
const scratchSize = 64 << 30

// newScratch returns an unnamed file with an empty ext4, or nil where it cannot be
// made; the machine then keeps in memory what is written.
func newScratch() (*os.File, error) {
	mkfs, err := find("e2fsprogs", "mkfs.ext4")
	if err != nil {
		return nil, nil
	}
	f, err := os.OpenFile(os.TempDir(), os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return nil, nil // a file system without unnamed files
	}
	if err := f.Truncate(scratchSize); err != nil {
		f.Close()
		return nil, fmt.Errorf("lab: making the scratch disk: %w", err)
	}
	// No journal, and no table written that can be written later: nothing on
	// this disk outlives the machine.
	cmd := exec.Command(mkfs, "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode",
		"-E", "lazy_itable_init=1,nodiscard", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		f.Close()
		return nil, fmt.Errorf("lab: making the scratch disk: %w: %s", err, out)
	}
	return f, nil
}

// serveFiles starts virtiofsd on the host's root and returns QEMU's end of the
// connection to it.
func (m *Machine) serveFiles(files *handles, deterministic bool) (*os.File, error) {
	virtiofsd, err := find("qemu-system-common (Debian 12) or virtiofsd (Debian 13)", "virtiofsd")
	if err != nil {
		return nil, err
	}
	// virtiofsd wants a listening socket, which cannot do without a name; once it is
	// connected the name can go.
	dir, err := os.MkdirTemp("", "hull-lab-")
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer os.RemoveAll(dir)
	address := &net.UnixAddr{Name: filepath.Join(dir, "files"), Net: "unix"}
	listener, err := net.ListenUnix("unix", address)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer listener.Close()
	listening, err := listener.File()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	files.add(listening)
	conn, err := net.DialUnix("unix", nil, address)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer conn.Close()
	connected, err := conn.File()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	files.add(connected)
	// Each look at the host takes real time, in which the clock of a deterministic
	// machine that has nothing else to do jumps ahead: once has to do.
	cache := "auto"
	if deterministic {
		cache = "always"
	}
	args := []string{"-f", "--fd=3", "-o", "source=/", "-o", "cache=" + cache, "-o", "sandbox=chroot", "-o", "log_level=err"}
	attr := new(syscall.SysProcAttr)
	if os.Getuid() != 0 {
		// chroot wants root: an ordinary user is that in a user namespace.
		args = append(args, "--rlimit-nofile=0")
		attr.Cloneflags = unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	m.files, err = spawn(virtiofsd, args, []*os.File{listening}, attr)
	return connected, err
}
