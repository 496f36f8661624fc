package guestinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/guestinit/rootfs"
	"github.com/hullvm/hull/guestinit/stage"
)

const noRootHelp = `no root filesystem: nothing to run a shell in.
Give the kernel a disk that has one, and say which: hull.root=/dev/vda.
The command "hull boot" without --kernel and --initrd does that with its built-in image.`

// console gives the user at the console a shell on the root disk, with a writable layer on top. It
// returns when the shell has ended.
func console(c CommandLine) error {
	if err := mountTable(laterMounts()); err != nil {
		return err
	}
	delegateCgroups()
	if err := linkStandardStreams("/dev"); err != nil {
		say(err.Error())
	}
	if err := loopbackUp(); err != nil {
		say(err.Error())
	}
	if c.Root == "" {
		say(noRootHelp)
		return nil
	}
	root, err := rootfs.Mount(proto.RootFS{Disk: c.Root, Layers: countPartitions(c.Root), Upper: c.Upper}, stateDir, "/dev")
	if err != nil {
		return fmt.Errorf("root filesystem on %s: %w", c.Root, err)
	}
	if err := runShell(c, root); err != nil {
		say(err.Error())
	}
	// Whatever is left ends here; then nothing keeps the disks busy.
	_ = unix.Kill(-1, unix.SIGKILL)
	return root.Unmount()
}

// openConsole makes the console this process's standard streams when the kernel had
// none for them: a module may have been what brought it.
func openConsole() {
	const stderr = 2
	if _, err := unix.IoctlGetTermios(stderr, unix.TCGETS); err == nil {
		return
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // there is none, and nobody to tell
	}
	for stream := range stderr + 1 {
		_ = unix.Dup2(fd, stream) // cannot fail for descriptors that are open
	}
	unix.Close(fd)
}

// linkStandardStreams makes the links to a process's own files that programs expect and devtmpfs does not have.
func linkStandardStreams(dev string) error {
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, filepath.Join(dev, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// countPartitions counts the partitions of a disk: its layers, if it has any.
func countPartitions(disk string) int {
	n := 0
	for n < rootfs.MaxLayers {
		if _, err := os.Stat(filepath.Join("/sys/class/block", rootfs.Partition(disk, n+1))); err != nil {
			break
		}
		n++
	}
	return n
}

func runShell(c CommandLine, root *rootfs.Root) error {
	tty, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("opening the console: %w", err)
	}
	defer tty.Close()
	if c.Rows != 0 && c.Cols != 0 {
		_ = unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: c.Rows, Col: c.Cols})
	}
	args := []string{"/bin/sh", "-l"}
	switch {
	case c.Init != "":
		args = []string{c.Init}
	case c.Exec != "":
		args = []string{"/bin/sh", "-c", c.Exec}
	default:
		fmt.Fprintf(tty, "Linux %s, booted in %.2f s. The end of this shell powers the machine off.\n", kernelRelease(), time.Duration(boottime()).Seconds())
	}
	child, err := stage.Spawn(consoleConfig(args, root.Dir()), stage.Attr{
		Program: "/proc/self/exe", Stdio: [3]*os.File{tty, tty, tty}, CgroupFD: -1,
	})
	if err != nil {
		return fmt.Errorf("starting the shell: %w", err)
	}
	_, err = child.Wait()
	status := reapUntil(child.PID)
	if err != nil {
		return fmt.Errorf("starting the shell: %w", err)
	}
	if status.Signaled() {
		say(fmt.Sprintf("the shell was killed by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal())))
	} else if status.ExitStatus() != 0 {
		say(fmt.Sprintf("the shell ended with status %d", status.ExitStatus()))
	}
	return nil
}

// consoleConfig is the surroundings of the shell: unlike a container it gets the machine as it is.
func consoleConfig(args []string, root string) *stage.Config {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs"},
		{Destination: "/dev", Type: "devtmpfs", Source: "devtmpfs"},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=0755"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}},
	}
	for _, m := range laterMounts() {
		if isMounted(m.target) {
			mounts = append(mounts, specs.Mount{Destination: m.target, Type: "bind", Source: m.target, Options: []string{"rbind"}})
		}
	}
	return &stage.Config{
		Process: &specs.Process{
			Args: args,
			Cwd:  "/",
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/bbin",
				"TERM=" + term(), "HOME=" + home(root),
			},
		},
		Container: &stage.Container{Root: root, Spec: &specs.Spec{Hostname: "hull", Mounts: mounts}},
		Console:   true,
	}
}

// isMounted tells whether a directory is the root of a mount.
func isMounted(path string) bool {
	var self, parent unix.Stat_t
	return unix.Stat(path, &self) == nil && unix.Stat(filepath.Dir(path), &parent) == nil && self.Dev != parent.Dev
}

// term is the terminal's type: the kernel passes on TERM=… from its command line.
func term() string {
	if t := os.Getenv("TERM"); t != "" && !strings.ContainsAny(t, "\x00\n") {
		return t
	}
	return "linux"
}

func home(root string) string {
	if st, err := os.Lstat(filepath.Join(root, "root")); err == nil && st.IsDir() {
		return "/root"
	}
	return "/"
}
