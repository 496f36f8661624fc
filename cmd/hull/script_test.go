package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The end-to-end tests are scripts in testdata, in folders by what they need of
// the host:
//
//	unit  nothing: the command line, errors, images without running them
//	kvm   a /dev/kvm of any kind
//	vm    one that boots Linux: hardware virtualization, or the lab
//
// This test binary has all of them in it and runs anywhere by itself. $HULL_BIN
// is the hull to test; without it the one in this binary is, which carries no
// guest kernel and so is good for unit only. $HULL_E2E_REQUIRE=vm (or kvm) makes a
// failure of what would be skipped otherwise. $HULL_DEBIAN_TAR is the tar of a
// Debian root filesystem with Python, $HULL_SERVICES_TAR of one with servers, $HULL_CLOUD_KERNEL one of Debian's kernels whose
// modules this host has. $HULL_LAB says that this is the lab: what needs no KVM has
// run outside, and faster. $HULL_E2E_LONG asks for the full size of what is otherwise tried with less.
const (
	envBinary   = "HULL_BIN"
	envRequire  = "HULL_E2E_REQUIRE"
	envDebian   = "HULL_DEBIAN_TAR"
	envServices = "HULL_SERVICES_TAR"
	envCloud    = "HULL_CLOUD_KERNEL"
	envLab      = "HULL_LAB"
	envLong     = "HULL_E2E_LONG"
)

//go:embed testdata
var scripts embed.FS

func TestMain(m *testing.M) {
	programs := helperPrograms()
	if os.Getenv(envBinary) == "" {
		programs["hull"] = func() { os.Exit(run(newApp(), os.Args[1:])) }
	}
	testscript.Main(m, programs)
}

func TestScripts(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, scripts); err != nil {
		t.Fatal(err)
	}
	s := newSuite(t)
	for _, group := range []string{"unit", "kvm", "vm"} {
		t.Run(group, func(t *testing.T) {
			s.need(t, group)
			testscript.Run(t, testscript.Params{
				Dir:                 filepath.Join(dir, "testdata", group),
				Setup:               func(env *testscript.Env) error { return s.setup(t, env) },
				Condition:           s.condition,
				Cmds:                scriptCommands(),
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
			})
		})
	}
}

// suite is what all scripts of one run of the tests share.
type suite struct {
	binary           string        // $HULL_BIN, absolute; "" for the hull in this binary
	base             string        // a short path: sockets lie below it
	cache            string        // one for all: unpacking is slow in the lab
	debian, services string        // tars
	host             string        // what `hull doctor` says of KVM: "none", "kvm" or "vm"
	slots            chan struct{} // as many scripts run at once as it takes
}

func newSuite(t testing.TB) *suite {
	t.Helper()
	s := &suite{binary: os.Getenv(envBinary), debian: os.Getenv(envDebian), services: os.Getenv(envServices)}
	s.slots = make(chan struct{}, max(1, runtime.NumCPU()/2))
	var err error
	if s.binary != "" {
		if s.binary, err = exec.LookPath(s.binary); err == nil {
			s.binary, err = filepath.Abs(s.binary)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tar := range []*string{&s.debian, &s.services} {
		if *tar == "" {
			continue
		}
		if *tar, err = filepath.Abs(*tar); err != nil {
			t.Fatal(err)
		}
	}
	if s.base, err = os.MkdirTemp("", "e2e"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.base) })
	s.cache = filepath.Join(s.base, "cache")
	s.host = "none"
	if _, err := os.Stat("/dev/kvm"); err == nil {
		s.host = "kvm"
		if probe() == nil {
			s.host = "vm"
		}
	}
	return s
}

// need skips, or fails when the surroundings were to be there, a group of tests
// that this host cannot run.
func (s *suite) need(t *testing.T, group string) {
	t.Helper()
	rank := map[string]int{"unit": 0, "none": 0, "kvm": 1, "vm": 2}
	var why string
	switch {
	case group == "unit" && os.Getenv(envLab) != "":
		t.Skip("runs outside of the lab")
	case group == "unit":
		return
	case s.binary == "":
		why = fmt.Sprintf("needs $%s, a hull with a guest kernel", envBinary)
	case rank[s.host] < rank[group]:
		why = fmt.Sprintf("needs a host of kind %q, this one is %q", group, s.host)
	default:
		t.Logf("on this host's KVM, which is of kind %q", s.host)
		return
	}
	if rank[os.Getenv(envRequire)] >= rank[group] {
		t.Fatal(why)
	}
	t.Skip(why)
}

// setup gives a script directories of its own, and looks after it for what it has
// left behind.
func (s *suite) setup(t *testing.T, env *testscript.Env) error {
	s.slots <- struct{}{}
	home, err := os.MkdirTemp(s.base, "")
	if err != nil {
		<-s.slots
		return err
	}
	env.Setenv("HOME", filepath.Join(home, "home"))
	env.Setenv("HULL_DATA_DIR", filepath.Join(home, "data"))
	env.Setenv("HULL_RUN_DIR", filepath.Join(home, "run"))
	env.Setenv("HULL_CACHE_DIR", s.cache)
	env.Setenv("DEBIAN", s.debian)
	env.Setenv("SERVICES", s.services)
	env.Setenv("CLOUD_KERNEL", os.Getenv(envCloud))
	env.Setenv("TERM", "xterm")
	// A program with the race detector sleeps for a second before it exits, unless it is told not to.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	// What saves VMs in the background would be found as left behind: warm.txtar is about it.
	env.Setenv(envCold, "1")
	// The lab is slow, and slower with others at work.
	env.Setenv(envBootTimeout, (2 * patience).String())
	if s.binary != "" {
		env.Setenv("PATH", filepath.Dir(s.binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
	}
	j := &jobs{running: make(map[string]*job)}
	for _, entry := range env.Vars {
		name, _, _ := strings.Cut(entry, "=")
		j.environment = append(j.environment, name)
	}
	env.Values[jobsKey{}] = j
	env.Defer(func() {
		<-s.slots
		if err := untilNothingLeft(home); err != nil {
			t.Errorf("%s: %v", filepath.Base(env.WorkDir), err)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return nil
}

func (s *suite) condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "debian":
		return s.debian != "", nil
	case "services":
		return s.services != "", nil
	case "lab":
		return os.Getenv(envLab) != "", nil
	case "long":
		return os.Getenv(envLong) != "", nil
	case "cloud_kernel":
		return os.Getenv(envCloud) != "", nil
	case "vm", "kvm":
		return s.host == name, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// leftBehind tells what is left of containers in a script's directories: sockets
// and locks, names and records, mounts, and processes that have anything of it open.
// Containers that are kept must have been removed.
func leftBehind(home string) error {
	var errs []error
	for _, dir := range []string{"run", "data/containers", "data/names"} {
		entries, err := os.ReadDir(filepath.Join(home, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if e.Name() != ".swept" && e.Name() != ".users" { // two for all containers
				errs = append(errs, fmt.Errorf("left behind: %s/%s", dir, e.Name()))
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+home+"/") {
			errs = append(errs, fmt.Errorf("left behind: mount %s", strings.TrimSpace(line)))
		}
	}
	for _, pid := range processesUsing(home) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		errs = append(errs, fmt.Errorf("left behind: process %d (%s)", pid, strings.TrimSpace(string(name))))
	}
	return errors.Join(errs...)
}

// untilNothingLeft waits for what is about to end, such as the VMs of commands that
// were killed when a script failed.
func untilNothingLeft(home string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := leftBehind(home)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// processesUsing lists the processes that have a file below dir open.
func processesUsing(dir string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, dir+"/") {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
