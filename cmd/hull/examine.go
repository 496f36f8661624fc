package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
)

// examine makes all checks, in the order in which one would mend things.
func examine(a *app) []finding {
	found := append([]finding{checkCPU(), checkKVM(), checkMemory()}, checkProtections()...)
	e, err := a.engine()
	if err != nil {
		return append(found, finding{verdictFail, "directories", err.Error(), "set HOME"})
	}
	found = append(append(found, checkCgroup(e)), checkBundle(e)...)
	return append(found, checkData(e.Dirs().Data), checkRun(e.Dirs().Run))
}

// checkCPU looks for the CPU's virtualization extension. KVM decides; this
// explains.
func checkCPU() finding {
	const subject = "processor"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return finding{verdictWarn, subject, err.Error(), ""}
	}
	flags := cpuFlags(info)
	for flag, name := range map[string]string{"vmx": "Intel VT-x (vmx)", "svm": "AMD-V (svm)"} {
		if slices.Contains(flags, flag) {
			return finding{verdictOK, subject, name, ""}
		}
	}
	mend := "switch virtualization on in the firmware"
	if slices.Contains(flags, "hypervisor") {
		mend = "this host is a VM: switch nested virtualization on in its settings"
	}
	return finding{verdictWarn, subject, "shows neither vmx nor svm", mend}
}

func cpuFlags(cpuinfo []byte) []string {
	for line := range bytes.Lines(cpuinfo) {
		if key, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(key) == "flags" {
			return strings.Fields(value)
		}
	}
	return nil
}

func checkKVM() finding {
	const subject = "KVM"
	info, err := kvm.Probe()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return finding{verdictFail, subject, fmt.Sprintf("no permission to open %s", kvm.DevicePath), permissionHint()}
	case err != nil:
		what, mend, _ := strings.Cut(err.Error(), ": this host")
		if mend != "" {
			mend = "this host" + mend
		}
		return finding{verdictFail, subject, what, mend}
	}
	if err := info.Require(); err != nil {
		what, mend, ok := strings.Cut(err.Error(), "): ")
		if ok {
			what += ")"
		}
		return finding{verdictFail, subject, what, mend}
	}
	return finding{verdictOK, subject, fmt.Sprintf("runs unmodified kernels (%s), up to %d vCPUs", strings.Join(info.Modules, ", "), min(info.MaxCPUs, vmm.MaxCPUs)), ""}
}

// permissionHint says how this user gets at /dev/kvm.
func permissionHint() string {
	var st unix.Stat_t
	if err := unix.Stat(kvm.DevicePath, &st); err != nil || st.Mode&0o060 != 0o060 {
		return fmt.Sprintf("let a group use it: chown root:kvm %s && chmod 660 %s", kvm.DevicePath, kvm.DevicePath)
	}
	return fmt.Sprintf("join its group (ID %d), usually: sudo usermod -aG kvm $USER, and log in anew", st.Gid)
}

func checkMemory() finding {
	const subject = "memory"
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return finding{verdictWarn, subject, err.Error(), ""}
	}
	unit := uint64(info.Unit)
	total, free := info.Totalram*unit, (info.Freeram+info.Bufferram)*unit
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		if available, ok := memAvailable(data); ok {
			free = available
		}
	}
	what := fmt.Sprintf("%s available of %s", units.BytesSize(float64(free)), units.BytesSize(float64(total)))
	if total < engine.DefaultMemory {
		return finding{verdictWarn, subject, what, "give containers less than the default of 512 MiB: hull run -m 128m"}
	}
	return finding{verdictOK, subject, what, ""}
}

// memAvailable reads MemAvailable of /proc/meminfo, in bytes.
func memAvailable(meminfo []byte) (uint64, bool) {
	for line := range bytes.Lines(meminfo) {
		var kib uint64
		if n, _ := fmt.Sscanf(string(line), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, true
		}
	}
	return 0, false
}

// checkCgroup looks whether the processes of VMs can be bounded from outside.
func checkCgroup(e *engine.Engine) finding {
	const subject = "cgroups"
	controllers, err := e.Cgroups()
	if err != nil {
		what, mend, _ := strings.Cut(strings.TrimPrefix(err.Error(), cgroup.ErrNone.Error()+": "), ": ")
		return finding{verdictWarn, subject, "VM processes are not bounded: " + what, mend}
	}
	return finding{verdictOK, subject, "bound each VM's process: " + strings.Join(controllers, ", "), ""}
}

// checkBundle checks that what this executable carries can be unpacked and run.
func checkBundle(e *engine.Engine) []finding {
	const subject = "guest kernel"
	files, err := e.Files()
	if errors.Is(err, bundle.ErrNone) {
		return []finding{{verdictFail, subject, "this hull carries none", "build it with make, not with go build alone"}}
	}
	if err != nil {
		return []finding{{verdictFail, subject, err.Error(), "give hull a cache directory of its own, with space, in $HULL_CACHE_DIR"}}
	}
	found := []finding{{verdictOK, subject, "unpacked in " + files.Dir, ""}}
	err = exec.Command(files.VMM).Run() // says that it is not started by hand
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return append(found, finding{verdictFail, "VM process", err.Error(),
			"is the file system mounted noexec? Choose another one with $HULL_CACHE_DIR"})
	}
	return found
}

// Space on the data directory's file system, in bytes.
const (
	spaceNeeded = 256 << 20 // less will hardly hold an image
	spaceWanted = 4 << 30
)

func checkData(dir string) finding {
	const subject = "data"
	if err := writable(dir); err != nil {
		return finding{verdictFail, subject, err.Error(), "choose another directory with $HULL_DATA_DIR"}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return finding{verdictWarn, subject, fmt.Sprintf("%s: %v", dir, err), ""}
	}
	free := st.Bavail * uint64(st.Bsize)
	what := fmt.Sprintf("%s on %s, %s free", dir, fileSystem(st.Type), units.BytesSize(float64(free)))
	switch {
	case free < spaceNeeded:
		return finding{verdictFail, subject, what, "make room, or choose another directory with $HULL_DATA_DIR"}
	case st.Type == unix.TMPFS_MAGIC:
		return finding{verdictWarn, subject, what, "images are kept in memory and gone with the next boot; choose another directory with $HULL_DATA_DIR"}
	case st.Type == unix.NFS_SUPER_MAGIC:
		return finding{verdictWarn, subject, what, "a local file system is faster, and its locks are surer"}
	case free < spaceWanted:
		return finding{verdictWarn, subject, what, "images may need more room"}
	}
	return finding{verdictOK, subject, what, ""}
}

func checkRun(dir string) finding {
	const subject = "runtime"
	if err := writable(dir); err != nil {
		return finding{verdictFail, subject, err.Error(), "choose another directory with $HULL_RUN_DIR"}
	}
	if err := engine.CheckRunDir(dir); err != nil {
		return finding{verdictFail, subject, err.Error(), ""}
	}
	return finding{verdictOK, subject, dir, ""}
}

// writable makes sure that a directory exists and takes files.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}

// fileSystem names the usual file systems by the magic number of statfs(2).
func fileSystem(magic int64) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
		unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs", unix.V9FS_MAGIC: "9p", unix.RAMFS_MAGIC: "ramfs",
	}
	if name, ok := names[magic]; ok {
		return name
	}
	return fmt.Sprintf("a file system of type %#x", magic)
}
