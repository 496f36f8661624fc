package engine

import (
	"fmt"
	"slices"
	"strings"
)

// defaultCapabilities are those that docker leaves to a container's root.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// allCapabilities are those of Linux 6.12, capabilities(7), in their order.
func allCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
		"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
		"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
		"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

const everyCapability = "ALL"

// capabilities applies --cap-add and --cap-drop to the default set by docker's
// rules. Names may lack CAP_ and be in any case; ALL stands for every one.
func capabilities(add, drop []string) ([]string, error) {
	add, err := canonicalCapabilities(add)
	if err != nil {
		return nil, fmt.Errorf("--cap-add: %w", err)
	}
	drop, err = canonicalCapabilities(drop)
	if err != nil {
		return nil, fmt.Errorf("--cap-drop: %w", err)
	}
	base := defaultCapabilities()
	switch {
	case slices.Contains(add, everyCapability):
		base = allCapabilities()
		if slices.Contains(drop, everyCapability) {
			return nil, fmt.Errorf("--cap-add ALL and --cap-drop ALL contradict each other")
		}
	case slices.Contains(drop, everyCapability):
		base = nil
		drop = nil
	}
	var set []string
	for _, name := range base {
		if !slices.Contains(drop, name) {
			set = append(set, name)
		}
	}
	for _, name := range add {
		if name != everyCapability && !slices.Contains(set, name) {
			set = append(set, name)
		}
	}
	return set, nil
}

func canonicalCapabilities(names []string) ([]string, error) {
	all := allCapabilities()
	var canonical []string
	for _, given := range names {
		name := strings.ToUpper(given)
		if name != everyCapability {
			name = "CAP_" + strings.TrimPrefix(name, "CAP_")
			if !slices.Contains(all, name) {
				return nil, fmt.Errorf("unknown capability %q", given)
			}
		}
		canonical = append(canonical, name)
	}
	return canonical, nil
}
