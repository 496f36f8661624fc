package jail_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
)

var program string // the built internal/escape

// TestMain builds what confines itself: a static program, as those that do are when they are released. The tests' own
// may be another (the race detector's has threads that the runtime knows nothing of).
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hull-jail-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // other users run it
	}
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "escape")
	build := exec.Command("go", "build", "-o", program, "./internal/escape")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	status := 1
	if build.Run() == nil {
		status = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

// nobody is an ordinary user.
const nobody = 65534

// users are those that the tests run as: this one, and if that is root an ordinary one too.
func users() []int {
	if os.Getuid() != 0 {
		return []int{os.Getuid()}
	}
	return []int{0, nobody}
}

func escape(t testing.TB, uid int, c vmm.Config, attempt string) *exec.Cmd {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, string(config), attempt)
	cmd.Env = []string{}
	cmd.Dir = "/"
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return cmd
}

// Ways in which an attempt can end.
const (
	done    = "done"
	refused = "refused"
	killed  = "killed"
)

// outcome runs an attempt.
func outcome(t testing.TB, cmd *exec.Cmd) (string, string) {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch text := strings.TrimSpace(string(out)); {
	case status.Signaled() && status.Signal() == unix.SIGSYS && text == "":
		return killed, ""
	case err == nil && text == done:
		return done, ""
	case err == nil && strings.HasPrefix(text, refused):
		return refused, text
	}
	t.Fatalf("%v: %q %s", err, out, stderr.String())
	return "", ""
}

// playground has a directory that is shared, one that is to be removed, and things outside of both.
type playground struct{ shared, readOnly, run, other, socket string }

func newPlayground(t testing.TB, uid int) playground {
	t.Helper()
	dir, err := os.MkdirTemp("", "hull-jail-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := playground{
		shared: filepath.Join(dir, "shared"), readOnly: filepath.Join(dir, "read-only"), run: filepath.Join(dir, "run"),
		other: filepath.Join(dir, "other"), socket: filepath.Join(dir, "other", "socket"),
	}
	for _, d := range []string{p.shared, p.readOnly, p.run, p.other} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "file"), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, path := range []string{dir, p.shared, p.readOnly, p.run, p.other, p.socket, p.shared + "/file", p.readOnly + "/file", p.run + "/file", p.other + "/file"} {
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p playground) config() vmm.Config {
	return vmm.Config{
		Vsock:        &vmm.Vsock{CID: 3, Path: p.run + "/socket"},
		Shares:       []vmm.Share{{Tag: "a", File: vmm.File{Path: p.shared}}, {Tag: "b", File: vmm.File{Path: p.readOnly}, ReadOnly: true}},
		OrphanRemove: []string{p.run},
	}
}

func TestEscapes(t *testing.T) {
	host := jail.Host()
	if host.Seccomp != nil {
		t.Skip(host.Seccomp)
	}
	for _, uid := range users() {
		t.Run(fmt.Sprintf("uid %d", uid), func(t *testing.T) {
			p := newPlayground(t, uid)
			bare, full := vmm.Config{}, p.config()
			without := vmm.Config{Vsock: full.Vsock}
			type attempt struct {
				config vmm.Config
				what   string
				want   string
			}
			attempts := []attempt{
				{bare, "nothing", done}, {full, "nothing", done},
				{bare, "work", done}, {full, "work", done},

				// Programs, processes, what is other processes'.
				{bare, "exec /bin/true", killed}, {full, "exec /bin/true", killed}, {full, "execveat /bin/true", killed},
				{full, "fork", killed}, {full, "vfork", killed}, {full, "namespace", killed}, {full, "clone3", refused},
				{full, "unshare", killed}, {full, "setns", killed},
				{full, "ptrace", killed}, {full, "vmread", killed}, {full, "kill", killed}, {full, "tgkill", killed}, {full, "pidfd", killed},

				// Files without shares: no path at all.
				{bare, "read /etc/passwd", refused}, {without, "read /etc/passwd", refused}, {bare, "read /dev/kvm", refused},
				{bare, "create " + p.other + "/new", refused}, {bare, "remove " + p.other + "/file", refused}, {bare, "list /", refused},
				{bare, "rename " + p.other + "/file", killed},

				// The system.
				{full, "mount " + p.shared, killed}, {full, "umount " + p.shared, killed}, {full, "pivot " + p.shared, killed},
				{full, "chroot " + p.shared, killed}, {full, "chdir " + p.shared, killed},
				{full, "setuid", killed}, {full, "setresuid", killed}, {full, "capset", killed}, {full, "privilege", refused}, {full, "dumpable", refused},
				{full, "bpf", killed}, {full, "keyctl", killed}, {full, "io_uring", killed}, {full, "perf", killed}, {full, "userfaultfd", killed},
				{full, "memfd", killed}, {full, "module", killed}, {full, "reboot", killed}, {full, "kexec", killed}, {full, "settime", killed},
				{full, "hostname", killed}, {full, "handle", killed}, {full, "fanotify", killed}, {full, "inotify", killed}, {full, "syslog", killed},
				{full, "swapon", killed}, {full, "iopl", killed}, {full, "seccomp", killed}, {full, "x32", killed},
				{full, "limit", refused}, {full, "core", refused}, {full, "code", killed}, {full, "protect", killed}, {full, "ioctl", refused},

				// Sockets.
				{bare, "unix", killed}, {without, "unix", done}, {full, "inet", killed}, {full, "inet6", killed}, {full, "netlink", killed},
				{full, "packet", killed}, {full, "vsock", killed}, {bare, "connect " + p.socket, killed},
			}
			if host.Landlock >= 2 {
				attempts = append(attempts,
					attempt{full, "read " + p.shared + "/file", done}, attempt{full, "write " + p.shared + "/file", done},
					attempt{full, "create " + p.shared + "/new", done}, attempt{full, "rename " + p.shared + "/new", done},
					attempt{full, "remove " + p.shared + "/new.new", done}, attempt{full, "list " + p.shared, done},
					attempt{full, "read " + p.readOnly + "/file", done}, attempt{full, "list " + p.readOnly, done},
					attempt{full, "write " + p.readOnly + "/file", refused}, attempt{full, "create " + p.readOnly + "/new", refused},
					attempt{full, "remove " + p.readOnly + "/file", refused}, attempt{full, "rename " + p.readOnly + "/file", refused},
					attempt{full, "read " + p.other + "/file", refused}, attempt{full, "write " + p.other + "/file", refused},
					attempt{full, "create " + p.other + "/new", refused}, attempt{full, "remove " + p.other + "/file", refused},
					attempt{full, "rename " + p.other + "/file", refused}, attempt{full, "list " + p.other, refused},
					attempt{full, "read /etc/passwd", refused}, attempt{full, "read /proc/self/mem", refused}, attempt{full, "list /", refused},
					attempt{full, "read " + p.run + "/file", refused}, attempt{full, "write " + p.run + "/file", refused},
					attempt{full, "orphan", done},
				)
			}
			for _, a := range attempts {
				got, how := outcome(t, escape(t, uid, a.config, a.what))
				t.Logf("%s: %s", a.what, strings.TrimPrefix(got+how, refused))
				if got != a.want {
					t.Errorf("%s: %s %s, want %s", a.what, got, how, a.want)
				}
			}
			if host.Landlock < 2 {
				return
			}
			if _, err := os.Stat(p.run); !os.IsNotExist(err) {
				t.Errorf("what an orphan is to remove is still there: %v", err)
			}
			if _, err := os.Stat(p.other + "/file"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOffAndTrap: the jail can be left open, and a denied call can be made to tell where it was.
func TestOffAndTrap(t *testing.T) {
	cmd := escape(t, os.Getuid(), vmm.Config{}, "fork")
	cmd.Env = []string{jail.Env + "=" + jail.Trap}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "SIGSYS") || !strings.Contains(string(out), "escape.raw") && !strings.Contains(string(out), "main.raw") {
		t.Errorf("%v: %s", err, out)
	}
	cmd = escape(t, os.Getuid(), vmm.Config{}, "read /etc/passwd")
	cmd.Env = []string{jail.Env + "=" + jail.Off}
	if got, how := outcome(t, cmd); got != done {
		t.Errorf("with the jail off: %s %s", got, how)
	}
	cmd = escape(t, os.Getuid(), vmm.Config{}, "nothing")
	cmd.Env = []string{jail.Env + "=open"}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), `must be off or trap`) {
		t.Errorf("%v: %s", err, out)
	}
}

// startWaiting starts the attempt "wait", which is confined when this returns, and has it end with the test.
func startWaiting(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
}

// TestStateOfThreads looks at a confined process from outside: each thread of it must be what the jail promises.
func TestStateOfThreads(t *testing.T) {
	host := jail.Host()
	for _, uid := range users() {
		p := newPlayground(t, uid)
		for name, c := range map[string]vmm.Config{"bare": {}, "shares": p.config()} {
			t.Run(fmt.Sprintf("uid %d %s", uid, name), func(t *testing.T) {
				cmd := escape(t, uid, c, "wait")
				startWaiting(t, cmd)
				want := map[string]string{"NoNewPrivs": "1", "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapEff": "0000000000000000"}
				if uid == 0 && name == "shares" {
					want["CapEff"] = "00000000000000df"
				}
				want["CapPrm"] = want["CapEff"]
				if host.Seccomp == nil {
					want["Seccomp"] = "2"
				}
				threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
				if err != nil || len(threads) < 3 {
					t.Fatalf("%d threads, %v", len(threads), err)
				}
				for _, path := range threads {
					status, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					for line := range strings.Lines(string(status)) {
						key, value, _ := strings.Cut(line, ":")
						if w, ok := want[key]; ok && strings.TrimSpace(value) != w {
							t.Errorf("%s: %s is %s, want %s", path, key, strings.TrimSpace(value), w)
						}
					}
				}
				limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
				if err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(string(limits)) {
					if f := strings.Fields(line); strings.HasPrefix(line, "Max core") && (f[4] != "0" || f[5] != "0") ||
						strings.HasPrefix(line, "Max open") && f[3] != f[4] {
						t.Error(line)
					}
				}
			})
		}
	}
}

// TestDeniedIsNamed: whoever started a process learns from the kernel what it was killed for.
func TestDeniedIsNamed(t *testing.T) {
	if host := jail.Host(); host.Seccomp != nil {
		t.Skip(host.Seccomp)
	}
	cmd := escape(t, os.Getuid(), vmm.Config{}, "exec /bin/true")
	if got, how := outcome(t, cmd); got != killed {
		t.Fatalf("%s %s", got, how)
	}
	got := jail.Denied(cmd.Process.Pid)
	t.Log(got)
	if got != "system call "+strconv.Itoa(unix.SYS_EXECVE) && !strings.HasPrefix(got, "the kernel's log says") {
		t.Error(got)
	}
}

// BenchmarkEnter measures what it takes a small process with a vCPU's worth of threads to confine itself.
func BenchmarkEnter(b *testing.B) {
	var sum time.Duration
	for range b.N {
		out, err := escape(b, os.Getuid(), vmm.Config{Vsock: &vmm.Vsock{CID: 3, Path: "/x"}}, "enter").Output()
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "µs/enter")
}
