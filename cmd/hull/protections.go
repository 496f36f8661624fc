package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hullvm/hull/vmm/jail"
)

// checkProtections looks at what stands between a guest that has taken its VM's process over and this host, and between guests that
// share a processor.
func checkProtections() []finding {
	return append(protections(jail.Host()), checkSMT(smtPath), checkVulnerabilities(vulnerabilitiesPath))
}

func protections(p jail.Protections) []finding {
	const confined = "VM processes are confined by less than they should be: "
	privileges := finding{verdictOK, "privileges", "given up by VM processes for good (no_new_privs)", ""}
	if p.NoNewPrivs != nil {
		privileges = finding{verdictWarn, "privileges", confined + p.NoNewPrivs.Error(), "use Linux 3.5 or later"}
	}
	calls := finding{verdictOK, "system calls", "filtered on all threads of a VM process (seccomp)", ""}
	if p.Seccomp != nil {
		calls = finding{verdictWarn, "system calls", confined + p.Seccomp.Error(), "use a kernel that has them"}
	}
	files := finding{verdictOK, "file access", fmt.Sprintf("closed to VM processes (Landlock version %d)", p.Landlock), ""}
	switch {
	case p.Landlock == 0:
		files = finding{verdictWarn, "file access", confined + "this kernel has no Landlock, or it is switched off", "use Linux 5.19 or later, with landlock in its parameter lsm="}
	case p.Landlock == 1:
		files = finding{verdictWarn, "file access", "closed to VM processes without shared directories (Landlock version 1)", "use Linux 5.19 or later"}
	}
	spaces := finding{verdictOK, "namespaces", "of mounts, processes, IPC, host name and network: each VM process has its own", ""}
	switch {
	case errors.Is(p.Namespaces, jail.ErrNoMounts):
		spaces = finding{verdictWarn, "namespaces", "VM processes have their own, but keep this host's root directory: " + p.Namespaces.Error(), "let hull mount: see this host's AppArmor profiles, or what runs hull in a container"}
	case p.Namespaces != nil:
		spaces = finding{verdictWarn, "namespaces", confined + "making them: " + p.Namespaces.Error(), "run hull as root, or let users make user namespaces"}
	}
	userSpaces := finding{verdictOK, "user namespaces", "can be made by this user", ""}
	if p.UserNS != nil {
		userSpaces = finding{verdictOK, "user namespaces", p.UserNS.Error() + "; hull does without", ""}
	}
	users := finding{verdictOK, "users", "each VM process of a container without shared directories is one of its own", ""}
	if p.Users != nil {
		users = finding{verdictOK, "users", "VM processes are the user's who starts them, behind the other layers; for users of their own: " + p.Users.Error(), ""}
	}
	return []finding{privileges, calls, files, spaces, userSpaces, users}
}

const (
	smtPath             = "/sys/devices/system/cpu/smt/active"
	vulnerabilitiesPath = "/sys/devices/system/cpu/vulnerabilities"
)

// checkSMT tells whether guests can be neighbours on one core.
func checkSMT(path string) finding {
	const subject = "SMT"
	switch active, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
		return finding{verdictOK, subject, "this kernel knows of none", ""}
	case err != nil:
		return finding{verdictWarn, subject, err.Error(), ""}
	case strings.TrimSpace(string(active)) == "1":
		return finding{verdictWarn, subject, "on: two guests can share a core, and learn of one another by its caches",
			"where tenants distrust one another, switch it off: echo off > /sys/devices/system/cpu/smt/control"}
	}
	return finding{verdictOK, subject, "off", ""}
}

// checkVulnerabilities tells which of the processor's faults the kernel knows of and does nothing, or not enough, about.
func checkVulnerabilities(dir string) finding {
	const subject = "mitigations"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return finding{verdictWarn, subject, "this kernel does not say what its processor is vulnerable to", ""}
	}
	var open []string
	for _, e := range entries {
		state, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil && strings.Contains(strings.ToLower(string(state)), "vulnerable") {
			open = append(open, e.Name())
		}
	}
	if len(open) > 0 {
		return finding{verdictWarn, subject, "missing, or only in part, against " + strings.Join(open, ", "),
			"update kernel and microcode; " + dir + " has the details"}
	}
	return finding{verdictOK, subject, fmt.Sprintf("none is missing of the %d that the kernel knows", len(entries)), ""}
}
