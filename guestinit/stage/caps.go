package stage

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// capabilityNumber finds a capability's number, as of linux/capability.h, by its name.
func capabilityNumber(name string) (uint, bool) {
	for i, n := range [...]string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
		"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
		"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
		"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
		"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	} {
		if n == name {
			return uint(i), true
		}
	}
	return 0, false
}

// capabilitySets are the five sets as bit masks.
type capabilitySets struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

func parseCapabilities(c *specs.LinuxCapabilities) (capabilitySets, error) {
	var sets capabilitySets
	for _, s := range []struct {
		names []string
		mask  *uint64
	}{
		{c.Bounding, &sets.bounding}, {c.Effective, &sets.effective}, {c.Permitted, &sets.permitted},
		{c.Inheritable, &sets.inheritable}, {c.Ambient, &sets.ambient},
	} {
		for _, name := range s.names {
			n, ok := capabilityNumber(name)
			if !ok {
				return sets, &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("unknown capability %q", name)}
			}
			*s.mask |= 1 << n
		}
	}
	return sets, nil
}

// dropBounding takes away for good what is not in the bounding set.
func (s *capabilitySets) dropBounding() error {
	for n := range uintptr(64) {
		if s.bounding&(1<<n) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // beyond the last that the kernel knows
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", n, err)
		}
	}
	return nil
}

// apply sets the other sets, after the change of user.
func (s *capabilitySets) apply() error {
	var data [2]unix.CapUserData
	for i := range data {
		data[i] = unix.CapUserData{
			Effective:   uint32(s.effective >> (32 * i)),
			Permitted:   uint32(s.permitted >> (32 * i)),
			Inheritable: uint32(s.inheritable >> (32 * i)),
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&head, &data[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing the ambient capabilities: %w", err)
	}
	for n := range uintptr(64) {
		if s.ambient&(1<<n) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0); err != nil {
			return fmt.Errorf("raising ambient capability %d: %w", n, err)
		}
	}
	return nil
}
