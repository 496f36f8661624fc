package guestinit

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxEntropy bounds what is fed to the random generator at once, in bytes.
const maxEntropy = 4096

// setClock sets the wall clock to ns since 1970.
func setClock(ns int64) error {
	ts := unix.NsecToTimespec(ns)
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// addEntropy feeds the kernel's random generator and credits the bytes.
func addEntropy(seed []byte) error {
	if len(seed) == 0 || len(seed) > maxEntropy {
		return fmt.Errorf("%d bytes of entropy: want 1 to %d", len(seed), maxEntropy)
	}
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return ioctlAddEntropy(f.Fd(), seed)
}

// loopbackUp sets the interface lo up, which nothing else does.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return nil
		}
		return fmt.Errorf("setting lo up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	release, _, _ := bytes.Cut(u.Release[:], []byte{0})
	return string(release)
}

// boottime is CLOCK_BOOTTIME in ns.
func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// powerOff ends the virtual machine. Without ACPI a kernel does not know how to power off, and would
// halt for ever; a restart is the end of a hull guest as well.
func powerOff() {
	unix.Sync()
	if _, err := os.Stat("/sys/firmware/acpi"); err == nil {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
