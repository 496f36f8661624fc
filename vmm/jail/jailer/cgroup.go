package jailer

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	top, err := hierarchy("/proc/self/mountinfo")
	if err != nil {
		return err
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
