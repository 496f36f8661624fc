package jail_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
)

// TestIsolated: a process in namespaces of its own sees the directory of its VM's sockets, nothing else, and still removes what
// it is to remove.
func TestIsolated(t *testing.T) {
	host := jail.Host()
	if host.Namespaces != nil {
		t.Skip("this user may make no namespaces here: ", host.Namespaces)
	}
	p := newPlayground(t, os.Getuid())
	own, err := net.Listen("unix", p.run+"/own")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	full := p.config()
	if os.Getuid() != 0 {
		full.Shares = nil
	}
	isolated := func(c vmm.Config, attempt string) (string, string) {
		cmd := escape(t, os.Getuid(), c, attempt)
		if !jail.Isolate(cmd, &c) {
			t.Fatal("not isolated")
		}
		return outcome(t, cmd)
	}
	for _, a := range []struct{ what, want string }{
		{"nothing", done}, {"work", done},
		{"connect " + p.run + "/own", done}, {"connect " + p.socket, refused},
		{"read /etc/passwd", refused}, {"list /", refused}, {"create " + p.run + "/new", refused},
		{"orphan", done},
	} {
		got, how := isolated(full, a.what)
		if got != a.want || a.what == "connect "+p.socket && !strings.Contains(how, "no such file") {
			t.Errorf("%s: %s %s, want %s", a.what, got, how, a.want)
		}
	}
	if _, err := os.Stat(p.run); !os.IsNotExist(err) {
		t.Errorf("what an orphan is to remove is still there: %v", err)
	}
	if got, how := isolated(vmm.Config{}, "nothing"); got != done {
		t.Errorf("without any directory: %s %s", got, how)
	}

	p = newPlayground(t, os.Getuid())
	c := vmm.Config{Vsock: &vmm.Vsock{CID: 3, Path: p.run + "/socket"}}
	cmd := escape(t, os.Getuid(), c, "wait")
	jail.Isolate(cmd, &c)
	startWaiting(t, cmd)
	proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	for _, ns := range []string{"mnt", "ipc", "uts", "pid", "net"} {
		theirs, err := os.Readlink(proc + "ns/" + ns)
		if ours, ourErr := os.Readlink("/proc/self/ns/" + ns); err != nil || ourErr != nil || theirs == ours {
			t.Errorf("namespace %s: %s, ours is %s (%v, %v)", ns, theirs, ours, err, ourErr)
		}
	}
	mounts, err := os.ReadFile(proc + "mounts")
	if n := strings.Count(string(mounts), "\n"); err != nil || n != 2 {
		t.Errorf("%d mounts, %v:\n%s", n, err, mounts)
	}
	threads, err := filepath.Glob(proc + "task/*/root" + p.run + "/file")
	all, _ := filepath.Glob(proc + "task/*")
	if err != nil || len(threads) != len(all) {
		t.Errorf("%d of %d threads have the directory of sockets, %v", len(threads), len(all), err)
	}
	if visible, err := filepath.Glob(proc + "task/*/root/etc"); err != nil || len(visible) > 0 {
		t.Errorf("visible still: %q, %v", visible, err)
	}
}

// TestIsolateOff: the switch for debugging leaves namespaces as they are.
func TestIsolateOff(t *testing.T) {
	t.Setenv(jail.Env, jail.Off)
	cmd := escape(t, os.Getuid(), vmm.Config{}, "nothing")
	if jail.Isolate(cmd, &vmm.Config{}) || cmd.SysProcAttr != nil || len(cmd.Env) > 0 {
		t.Errorf("%+v", cmd)
	}
}
