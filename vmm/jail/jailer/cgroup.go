package jailer

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// splitCgroup takes KEY=VALUE apart, and the controller off the key.
func splitCgroup(c string) (controller, key, value string, err error) {
	key, value, ok := strings.Cut(c, "=")
	controller, _, dot := strings.Cut(key, ".")
	if !ok || !dot || controller == "" || value == "" || strings.ContainsAny(key, "/\x00") {
		return "", "", "", fmt.Errorf("cgroup %q: must be FILE=VALUE, such as cpu.max=\"50000 100000\"", c)
	}
	return controller, key, value, nil
}

// joinCgroup moves this process to the VM's cgroup, which it makes.
func (o *Options) joinCgroup() error {
	if len(o.Cgroup) == 0 && o.Parent == "" {
		return nil
	}
	const mounts = "/proc/self/mountinfo"
	top, err := hierarchy(mounts)
	if err != nil {
		return err
	}
	for _, c := range o.Cgroup {
		controller, _, _, err := splitCgroup(c)
		if err == nil {
			err = haveController(top, mounts, controller)
		}
		if err != nil {
			return err
		}
	}
	parent := o.Parent
	if parent == "" {
		parent = o.name()
	}
	dir := filepath.Join(top, parent, o.ID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range o.Cgroup {
		controller, key, value, err := splitCgroup(c)
		if err != nil {
			return err
		}
		if err := delegate(top, filepath.Dir(dir), controller); err != nil {
			return err
		}
		if err := write(filepath.Join(dir, key), value); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(os.Getpid()))
}

// haveController tells why the hierarchy of version 2 at top has not a controller. A host can have some in hierarchies of version 1, and
// no group of version 2 has those then.
func haveController(top, mountinfo, controller string) error {
	if controller == "cgroup" { // the files of all groups
		return nil
	}
	has, err := os.ReadFile(filepath.Join(top, "cgroup.controllers"))
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(string(has)), controller) {
		return nil
	}
	f, err := os.Open(mountinfo)
	if err != nil {
		return err
	}
	defer f.Close()
	old := controller
	if controller == "io" {
		old = "blkio" // its name there
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		at, kind := strings.Fields(before), strings.Fields(after)
		if len(at) > 4 && len(kind) > 2 && kind[0] == "cgroup" && slices.Contains(strings.Split(kind[2], ","), old) {
			return fmt.Errorf("this host has the controller %s in its hierarchy of version 1, at %s, and only version 2 is offered: boot it with systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=%s", controller, at[4], old)
		}
	}
	return fmt.Errorf("this host has no controller %s at %s: it has %s", controller, top, strings.TrimSpace(string(has)))
}

// delegate has all groups from top to dir give a controller to those in them. cgroup itself is none.
func delegate(top, dir, controller string) error {
	if controller == "cgroup" {
		return nil
	}
	if dir != top {
		if err := delegate(top, filepath.Dir(dir), controller); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
}

func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// hierarchy finds where the cgroups of version 2 are mounted.
func hierarchy(mountinfo string) (string, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(before); ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", errors.New("this host has none of version 2 mounted")
}
