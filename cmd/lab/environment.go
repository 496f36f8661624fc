package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hullvm/hull/cmd/lab/internal/inner"
	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// hidden are the host's folders that the machine has empty ones of its own for.
var hidden = []string{"/tmp", "/run", "/var/run", "/var/tmp", "/var/lib/hull", "/dev", "/proc", "/sys"}

// inMachine is the path under which the machine sees a folder of the host.
func inMachine(path string) string {
	for _, h := range hidden {
		if path == h || strings.HasPrefix(path, h+"/") {
			return inner.HostTree + path
		}
	}
	return path
}

// newRequest describes a command as it would run here: same folder, same
// environment, but root's home and bin/hull, which lies beside this program, on the PATH.
func newRequest(command, copies []string) (wire.Request, error) {
	self, err := os.Executable()
	if err != nil {
		return wire.Request{}, fmt.Errorf("lab: finding its own program: %w", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	r := wire.Request{
		Command:     command,
		Environment: environment(os.Environ(), filepath.Dir(self)),
		Directory:   inMachine(dir),
	}
	for _, s := range copies {
		c, err := parseCopy(s)
		if err != nil {
			return wire.Request{}, err
		}
		r.Copies = append(r.Copies, c)
	}
	return r, nil
}

// replaced are variables that are about this user or this session, not about the command.
var replaced = []string{"HOME", "USER", "LOGNAME", "PATH", "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "HULL_LAB"}

// environment is the environment of a command in the machine; bin is the host's
// folder with hull in it.
func environment(host []string, bin string) []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	var env []string
	for _, e := range host {
		name, value, _ := strings.Cut(e, "=")
		if name == "PATH" && value != "" {
			path = value
		}
		if slices.Contains(replaced, name) || strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "DBUS_") || strings.HasPrefix(name, "SSH_") {
			continue
		}
		env = append(env, e)
	}
	return append(env,
		"PATH="+inMachine(bin)+":"+path,
		"HOME=/root", "USER=root", "LOGNAME=root",
		"HULL_LAB=1", // a command may want to know where it is
	)
}
