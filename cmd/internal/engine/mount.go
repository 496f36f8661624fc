package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultMounts are what docker mounts in every container. The cgroup file
// system is read-only: the container sees its limits and cannot lift them, unless it is privileged.
func defaultMounts(c *Config) []specs.Mount {
	system := "ro"
	if c.Privileged {
		system = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", system}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup2", Source: "cgroup", Options: []string{system, "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", c.Limits.shmSize())}},
	}
}

// maskedPaths and readonlyPaths are docker's: files of /proc and /sys through
// which one could see or change what belongs to the kernel.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// tmpfsMounts makes mounts of what --tmpfs took: paths with mount options. They
// come in the order of their paths, so that one inside another comes after it.
func tmpfsMounts(tmpfs map[string]string) ([]specs.Mount, error) {
	var mounts []specs.Mount
	for _, given := range slices.Sorted(maps.Keys(tmpfs)) {
		if !path.IsAbs(given) || path.Clean(given) == "/" {
			return nil, fmt.Errorf("--tmpfs %q: must be an absolute path other than /", given)
		}
		options, err := tmpfsOptions(tmpfs[given])
		if err != nil {
			return nil, fmt.Errorf("--tmpfs %q: %w", given, err)
		}
		mounts = append(mounts, specs.Mount{Destination: path.Clean(given), Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	return mounts, nil
}

// tmpfsFlags maps the flags of mount(8) that docker allows here to what they
// exclude.
func tmpfsFlags() map[string]string {
	flags := map[string]string{
		"exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro", "atime": "noatime",
		"diratime": "nodiratime", "relatime": "norelatime", "strictatime": "nostrictatime", "async": "sync",
	}
	for a, b := range maps.Clone(flags) {
		flags[b] = a
	}
	return flags
}

// tmpfsOptions merges the user's options with docker's defaults, which are
// noexec, nosuid and nodev.
func tmpfsOptions(given string) ([]string, error) {
	options := []string{"noexec", "nosuid", "nodev"}
	if given == "" {
		return options, nil
	}
	flags := tmpfsFlags()
	for option := range strings.SplitSeq(given, ",") {
		opposite, isFlag := flags[option]
		key, value, hasValue := strings.Cut(option, "=")
		switch {
		case isFlag:
			options = slices.DeleteFunc(options, func(o string) bool { return o == option || o == opposite })
		case hasValue && value != "" && slices.Contains([]string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}, key):
		default:
			return nil, fmt.Errorf("invalid tmpfs option %q", option)
		}
		options = append(options, option)
	}
	return options, nil
}
