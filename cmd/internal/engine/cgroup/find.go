// Package cgroup bounds what a VM's process can take of this host: each is started in a control group (cgroups version 2) of its own.
//
// What is here takes what the kernel's Documentation/admin-guide/cgroup-v2.rst calls delegation: root may make groups anywhere, an
// ordinary user in a part of the hierarchy that was given to it, as systemd gives one to each user's services. Without, [Find] says
// why, and VMs run without a bound.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNone is wrapped by errors that say why there can be no groups.
var ErrNone = errors.New("VM processes have no cgroup")

// Controllers that are of use, by the kernel's names.
const (
	CPU    = "cpu"
	Memory = "memory"
	PIDs   = "pids"
	IO     = "io"
)

// Base is where groups are made.
type Base struct {
	root        string // of the hierarchy
	top         string // the highest group that is this user's
	dir         string // that of all groups: the child of top that they are children of
	controllers []string
	remove      func(string) error // rmdir, but in tests
	bare        bool               // a directory of a test's: no process can be in it
}

// Find tells where this process can make groups. name is that of the group which has all of them in it.
func Find(name string) (*Base, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	return find(mounts, own, name)
}

func find(mounts, own []byte, name string) (*Base, error) {
	root, err := hierarchy(mounts)
	if err != nil {
		return nil, err
	}
	place, ok := placeIn(own)
	if !ok {
		return nil, fmt.Errorf("%w: this process is in none of version 2", ErrNone)
	}
	here := filepath.Join(root, place)
	top := ""
	for dir := here; isBelow(dir, root) && isOurs(dir); dir = filepath.Dir(dir) {
		top = dir
	}
	if top == "" {
		return nil, fmt.Errorf("%w: %s is not this user's: start hull where systemd has given the user one, as in systemd-run --user --scope, or a service of the user's", ErrNone, here)
	}
	b := &Base{root: root, top: top, dir: filepath.Join(top, name), remove: unix.Rmdir}
	all, err := os.ReadFile(filepath.Join(top, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	for _, c := range []string{CPU, Memory, PIDs, IO} {
		if slices.Contains(strings.Fields(string(all)), c) {
			b.controllers = append(b.controllers, c)
		}
	}
	if len(b.controllers) == 0 {
		return nil, fmt.Errorf("%w: %s has no controllers: boot this host with systemd.unified_cgroup_hierarchy=1 if it has those of version 1", ErrNone, top)
	}
	return b, nil
}

// hierarchy finds where cgroups of version 2 are mounted, in proc_pid_mountinfo(5).
func hierarchy(mounts []byte) (string, error) {
	for line := range bytes.Lines(mounts) {
		before, after, ok := strings.Cut(string(line), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		// The fourth field is which part of the hierarchy is seen there, the fifth where.
		if ok && len(fields) >= 5 && len(kind) > 0 && kind[0] == "cgroup2" && fields[3] == "/" {
			return strings.NewReplacer(`\040`, " ", `\134`, `\`).Replace(fields[4]), nil
		}
	}
	return "", fmt.Errorf("%w: this host has none of version 2 mounted", ErrNone)
}

// placeIn reads /proc/PID/cgroup: the line of version 2 begins with 0.
func placeIn(own []byte) (string, bool) {
	for line := range bytes.Lines(own) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "0::"); ok {
			return path, strings.HasPrefix(path, "/")
		}
	}
	return "", false
}

// isBelow tells whether dir is root or in it: a process may be in a group that is not seen from its cgroup namespace.
func isBelow(dir, root string) bool { return dir == root || strings.HasPrefix(dir, root+"/") }

// isOurs tells whether this process may change a group, and put processes into it.
func isOurs(dir string) bool {
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if unix.Access(filepath.Join(dir, name), unix.W_OK) != nil {
			return false
		}
	}
	return true
}

// Controllers are those that groups have.
func (b *Base) Controllers() []string { return b.controllers }

// Dir is the directory of the group that has all others in it.
func (b *Base) Dir() string { return b.dir }

// At is a Base for tests: a directory that is no cgroup. Limits are what is in files there, no process is in it, and nothing is charged.
func At(dir string, controllers ...string) *Base {
	return &Base{top: filepath.Dir(dir), dir: dir, controllers: controllers, remove: os.RemoveAll, bare: true}
}
