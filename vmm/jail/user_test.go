package jail_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
)

const someUser = jail.FirstUser + 7

// givenPlayground is one in which a VM process that is someUser has the directory run.
func givenPlayground(t *testing.T) (playground, vmm.Config) {
	t.Helper()
	if host := jail.Host(); host.Users != nil {
		t.Skip("no users for VM processes here: ", host.Users)
	}
	p := newPlayground(t, 0)
	if err := os.Mkdir(p.run+"/below", 0o700); err != nil {
		t.Fatal(err)
	}
	own, err := net.Listen("unix", p.run+"/own")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	roots, err := net.Listen("unix", p.run+"/roots")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { roots.Close() })
	if err := errors.Join(jail.Open(filepath.Dir(p.run)), jail.Give(someUser, p.run), jail.Give(someUser, p.run+"/own")); err != nil {
		t.Fatal(err)
	}
	c := p.config()
	c.Shares, c.User = nil, someUser
	return p, c
}

func isolated(t *testing.T, c vmm.Config, attempt string) *exec.Cmd {
	t.Helper()
	cmd := escape(t, 0, c, attempt)
	if !jail.Isolate(cmd, &c) {
		t.Fatal("not isolated")
	}
	return cmd
}

// TestOwnUser: a process that has become a user of its own has no rights of root's, and gets at what it was given.
func TestOwnUser(t *testing.T) {
	p, c := givenPlayground(t)
	cmd := isolated(t, c, "wait")
	startWaiting(t, cmd)
	statuses, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil || len(statuses) < 2 {
		t.Fatalf("threads: %q, %v", statuses, err)
	}
	for _, file := range statuses {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("\t%d", someUser)
		for _, want := range []string{
			"Uid:" + strings.Repeat(id, 4), "Gid:" + strings.Repeat(id, 4), fmt.Sprintf("Groups:\t%d", jail.Group),
			"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s has no %q:\n%s", file, want, b)
			}
		}
	}
	for _, a := range []struct{ what, want string }{
		{"nothing", done}, {"work", done}, {"connect " + p.run + "/own", done}, {"connect " + p.run + "/roots", refused},
		{"connect " + p.socket, refused}, {"orphan", done},
	} {
		if got, how := outcome(t, isolated(t, c, a.what)); got != a.want {
			t.Errorf("%s: %s %s, want %s", a.what, got, how, a.want)
		}
	}
	if _, err := os.Stat(p.run); !os.IsNotExist(err) {
		t.Errorf("what an orphan is to remove is still there: %v", err)
	}
}

// TestOthersThings: in an open directory a process removes what it was given, not what is beside it.
func TestOthersThings(t *testing.T) {
	p, c := givenPlayground(t)
	if err := jail.Give(someUser+1, p.other); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{p.readOnly, p.other, p.other + "/file"} {
		c.OrphanRemove = []string{path}
		if got, how := outcome(t, isolated(t, c, "orphan")); got != refused || !strings.Contains(how, "not permitted") && !strings.Contains(how, "permission denied") {
			t.Errorf("removing %s: %s %s", path, got, how)
		}
		if _, err := os.Stat(path + "/file"); errors.Is(err, os.ErrNotExist) {
			t.Errorf("something of %s is gone", path)
		}
	}
}

func TestUsersThatCannotBe(t *testing.T) {
	if _, err := jail.ForVM(&vmm.Config{User: someUser, Shares: []vmm.Share{{}}}, "", true); err == nil {
		t.Error("a user of its own with shared directories")
	}
	if os.Geteuid() != 0 {
		return
	}
	cmd := escape(t, 0, vmm.Config{User: 1000}, "nothing")
	if !jail.Isolate(cmd, &vmm.Config{}) {
		t.Skip("no namespaces here")
	}
	if out, err := cmd.CombinedOutput(); err == nil || jail.Host().Users == nil && !strings.Contains(string(out), "user 1000: must be from") {
		t.Errorf("became a user of this host: %v, %s", err, out)
	}
}

// TestOpen: only a directory of root's and of the group, sticky and closed to others, counts as one that VM processes may remove from.
func TestOpen(t *testing.T) {
	if jail.Host().Users != nil {
		t.Skip("no users for VM processes here: ", jail.Host().Users)
	}
	dir := t.TempDir()
	if err := jail.Open(dir); err != nil {
		t.Fatal(err)
	}
	if open, err := jail.IsOpen(dir); !open || err != nil {
		t.Errorf("%v, %v", open, err)
	}
	for what, spoil := range map[string]func() error{
		"others write":    func() error { return os.Chmod(dir, os.ModeSticky|0o733) },
		"not sticky":      func() error { return os.Chmod(dir, 0o730) },
		"another group":   func() error { return os.Chown(dir, 0, 0) },
		"another's":       func() error { return os.Chown(dir, someUser, jail.Group) },
		"a symbolic link": func() error { return errors.Join(os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if open, err := jail.IsOpen(dir); open || err != nil {
			t.Errorf("%s: %v, %v", what, open, err)
		}
		if err := errors.Join(syscall.Unlink(dir), os.Rename(dir+"2", dir)); what == "a symbolic link" && err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chown(dir, 0, 0), jail.Open(dir)); err != nil {
			t.Fatal(err)
		}
	}
}
