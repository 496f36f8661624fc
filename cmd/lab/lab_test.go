package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hullvm/hull/cmd/lab/internal/keeper"
)

// The tests in this file and the next boot machines: some 5 s for each on an idle
// host. Most share one that TestMain ends.

// built is a lab program and a started machine, made once.
var built struct {
	once    sync.Once
	dir     string
	program string
	started sync.Once
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.program != "" {
		_, _ = labCommand("stop").CombinedOutput()
	}
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// lab returns the path of a lab program, or skips the test where no machine can boot.
func lab(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine: not with -short")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("boots a machine: no qemu-system-x86_64 (apt-get install qemu-system-x86)")
	}
	if kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64"); len(kernels) == 0 {
		t.Skip("boots a machine: no Debian cloud kernel (apt-get install linux-image-cloud-amd64)")
	}
	built.once.Do(func() {
		dir, err := os.MkdirTemp("", "lab-test-")
		if err != nil {
			t.Fatal(err)
		}
		built.dir = dir
		if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
			t.Fatal(err)
		}
		os.Setenv(keeper.EnvDir, filepath.Join(dir, "run"))
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "lab"), ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		built.program = filepath.Join(dir, "lab")
	})
	if built.program == "" {
		t.Skip("the program could not be built: an earlier test says why")
	}
	return built.program
}

func labCommand(args ...string) *exec.Cmd {
	return exec.Command(built.program, args...)
}

// startLab returns a program whose "run" has a started machine.
func startLab(t *testing.T) string {
	t.Helper()
	program := lab(t)
	built.started.Do(func() {
		if out, err := labCommand("start").CombinedOutput(); err != nil {
			t.Fatalf("lab start: %v\n%s", err, out)
		}
	})
	return program
}

// exitStatus is the status a command ended with.
func exitStatus(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return -1
}

// run runs a shell script in the started machine.
func run(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	startLab(t)
	cmd := labCommand(append([]string{"run"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	status = exitStatus(t, cmd.Run())
	return out.String(), errs.String(), status
}

func TestLabHasWhatHullNeeds(t *testing.T) {
	out, errs, status := run(t, nil, "--", "sh", "-c", `
		set -e
		cat /sys/module/kvm_amd/parameters/npt
		for f in /dev/kvm /dev/net/tun /dev/fuse /dev/loop-control /dev/vda; do test -e $f || echo missing $f; done
		stat -f -c %T /sys/fs/cgroup
		cat /sys/fs/cgroup/cgroup.controllers | tr ' ' '\n' | grep -c -x -e memory -e cpu -e pids -e io
		losetup -f
		grep -c ^processor /proc/cpuinfo
		ip -o link show lo up 2>/dev/null | wc -l
		stat -c %a /dev/kvm
		touch /usr/bin/new-file /tmp/x /run/x /var/lib/hull/x
	`)
	if want := "Y\ncgroup2fs\n4\n/dev/loop0\n1\n1\n666\n"; out != want || errs != "" || status != 0 {
		t.Errorf("status %d, stdout:\n%s\nwant:\n%s\nstderr: %s", status, out, want, errs)
	}
	if _, err := os.Stat("/usr/bin/new-file"); err == nil {
		t.Error("a file written in the machine is on the host")
	}
}

func TestLabStatusAndStreams(t *testing.T) {
	out, errs, status := run(t, nil, "sh", "-c", "echo to out; echo to err >&2; exit 7")
	if out != "to out\n" || errs != "to err\n" || status != 7 {
		t.Errorf("%q, %q, %d", out, errs, status)
	}
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"no-such-command"}, 127, "not exist"},
		{[]string{"/etc/passwd"}, 126, "permission denied"},
		{[]string{"/"}, 126, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"--no-such-flag"}, 125, "unknown flag"},
		{[]string{"--cpus", "0", "true"}, 125, "0 CPUs"},
		{[]string{"--memory", "1", "true"}, 125, "1 MiB"},
		{[]string{"--copy", "/none:/x", "true"}, 125, "/none"},
		{[]string{}, 125, "requires at least 1 arg"},
	} {
		out, errs, status := run(t, nil, c.args...)
		if status != c.status || !strings.Contains(errs, c.says) || out != "" {
			t.Errorf("%q: status %d, %q, %q; want %d and %q", c.args, status, out, errs, c.status, c.says)
		}
	}
}

// TestLabCarriesAnyBytes sends data that has every byte value through stdin and back, and
// makes stderr as large.
func TestLabCarriesAnyBytes(t *testing.T) {
	const size = 16 << 20 // emulated: 100 MB take a minute on a busy host
	source := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }
	want := sha256.New()
	io.Copy(want, source())
	startLab(t)
	cmd := labCommand("run", "--", "sh", "-c", "tee /dev/stderr")
	out, errs := sha256.New(), sha256.New()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = source(), out, errs
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]io.Writer{"stdout": out, "stderr": errs} {
		if got := h.(interface{ Sum([]byte) []byte }).Sum(nil); !bytes.Equal(got, want.Sum(nil)) {
			t.Errorf("%s: %x, want %x", name, got, want.Sum(nil))
		}
	}
}

func TestLabEndsInput(t *testing.T) {
	if out, _, status := run(t, strings.NewReader("line\n"), "cat"); out != "line\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
	// A command that reads nothing of what it is given ends all the same.
	if _, _, status := run(t, io.LimitReader(rand.NewChaCha8([32]byte{}), 4<<20), "true"); status != 0 {
		t.Errorf("status %d", status)
	}
	// A background process does not hold the command up.
	if out, _, status := run(t, nil, "sh", "-c", "sleep 1000 & echo done"); out != "done\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
}

func TestLabCopiesFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte("#!/bin/sh\necho copied\n"), 0o751); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("script", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	out, errs, status := run(t, nil, "--copy", dir+":/srv/a/b", "--copy", dir+"/script:/opt/s",
		"--", "sh", "-c", "/srv/a/b/link && /opt/s && stat -c %a /opt/s && readlink /srv/a/b/link")
	if want := "copied\ncopied\n751\nscript\n"; out != want || status != 0 {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
}

func TestLabTimeout(t *testing.T) {
	for _, script := range []string{"echo begun; sleep 1000", "trap '' TERM; echo begun; sleep 1000; sleep 1000"} {
		out, errs, status := run(t, nil, "--timeout", "1s", "--", "sh", "-c", script)
		if status != 124 || out != "begun\n" || !strings.Contains(errs, "after 1s") {
			t.Errorf("%s: status %d, %q, %q", script, status, out, errs)
		}
	}
	// What was ended is gone.
	if out, _, _ := run(t, nil, "sh", "-c", "pgrep -x sleep | wc -l; pkill -x sleep"); strings.TrimSpace(out) > "1" {
		t.Errorf("%s processes are left (1 may be another test's)", out)
	}
}

func TestLabRunsManyAtOnce(t *testing.T) {
	startLab(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			cmd := labCommand("run", "--", "sh", "-c", fmt.Sprintf("cat; exit %d", i))
			cmd.Stdin = strings.NewReader(strings.Repeat(fmt.Sprint(i), 300_000))
			var errs strings.Builder // a machine that was replaced says so
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if want := strings.Repeat(fmt.Sprint(i), 300_000); string(out) != want || exitStatus(t, err) != i || errs.String() != "" {
				t.Errorf("command %d: %d bytes, %v, %s", i, len(out), err, errs.String())
			}
		})
	}
	wg.Wait()
}

func TestLabStatusCommand(t *testing.T) {
	startLab(t)
	out, err := labCommand("status").Output()
	if err != nil || !strings.Contains(string(out), "default\t") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := labCommand("start").CombinedOutput(); err != nil || !strings.Contains(string(out), "running already") {
		t.Errorf("a second start: %v\n%s", err, out)
	}
	if out, err := labCommand("stop", "--name", "other").CombinedOutput(); exitStatus(t, err) != 125 || !strings.Contains(string(out), "no such lab") {
		t.Errorf("stop of nothing: %v\n%s", err, out)
	}
	if out, err := labCommand("stop", "--name", "../x").CombinedOutput(); exitStatus(t, err) != 125 || !strings.Contains(string(out), "want letters") {
		t.Errorf("a bad name: %v\n%s", err, out)
	}
}
