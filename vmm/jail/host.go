package jail

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Protections is what a host has of that which confines processes.
type Protections struct {
	NoNewPrivs error // nil: it has it
	Seccomp    error // nil: it has it, for all threads of a process at once
	Landlock   int   // version of the interface; 0: none
	UserNS     error // nil: this user may make namespaces of users
	Namespaces error // nil: VM processes that this user starts are in namespaces of their own
	Users      error // nil: those of containers without shared directories are users of their own
}

var (
	errNoUserNS   = errors.New("this kernel has none (CONFIG_USER_NS)")
	errUserNSOff  = errors.New("they are switched off (user.max_user_namespaces=0)")
	errUserNSRoot = errors.New("only root may make them here")
)

// Host tells what this host has.
func Host() (p Protections) {
	if _, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil {
		p.NoNewPrivs = err
	}
	if !hasSeccomp() {
		p.Seccomp = errNoSeccomp
	}
	p.Landlock = landlockVersion()
	p.UserNS = userNamespaces()
	p.Namespaces = ownNamespaces()
	if p.Users = p.Namespaces; p.Users == nil {
		p.Users = ownUsers()
	}
	return p
}

// userNamespaces looks at what keeps this user from making one; whether it works, only trying tells.
func userNamespaces() error {
	if n, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil {
		return errNoUserNS
	} else if strings.TrimSpace(string(n)) == "0" {
		return errUserNSOff
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if v, err := os.ReadFile("/proc/sys/kernel/unprivileged_userns_clone"); err == nil && strings.TrimSpace(string(v)) == "0" {
		return errUserNSRoot
	}
	if v, err := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); err == nil && strings.TrimSpace(string(v)) == "1" {
		return errUserNSRoot
	}
	return nil
}
