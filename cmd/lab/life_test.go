package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"

	"github.com/hullvm/hull/cmd/lab/internal/keeper"
)

// reader reads lines of a command's output until one has a certain text.
type reader struct {
	t *testing.T
	r *bufio.Reader
}

func (r reader) until(text string) string {
	r.t.Helper()
	var seen strings.Builder
	for {
		line, err := r.r.ReadString('\n')
		seen.WriteString(line)
		if strings.Contains(line, text) {
			return line
		}
		if err != nil {
			r.t.Fatalf("waiting for %q: %v after:\n%s", text, err, seen.String())
		}
	}
}

func TestLabTerminal(t *testing.T) {
	cmd := exec.Command(startLab(t), "run", "--", "sh", "-c", `
		tty
		stty size
		trap 'stty size; exit 3' WINCH
		trap 'echo interrupted' INT
		echo ready
		while :; do sleep 0.1; done`)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	r := reader{t, bufio.NewReader(terminal)}
	r.until("/dev/pts/")
	r.until("30 100")
	r.until("ready")
	// A raw terminal passes Ctrl-C as a byte; the machine's makes a signal of it.
	if _, err := terminal.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	r.until("interrupted")
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	r.until("50 132")
	go io.Copy(io.Discard, r.r)
	if status := exitStatus(t, cmd.Wait()); status != 3 {
		t.Errorf("status %d", status)
	}
}

func TestLabSignals(t *testing.T) {
	startLab(t)
	for signal, status := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGINT: 130, syscall.SIGUSR1: 42} {
		cmd := labCommand("run", "--", "sh", "-c", "trap 'exit 42' USR1; echo ready; while :; do sleep 0.1; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		reader{t, bufio.NewReader(out)}.until("ready")
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if got := exitStatus(t, cmd.Wait()); got != status {
			t.Errorf("%v: status %d, want %d", signal, got, status)
		}
	}
}

// children are the processes that a process has started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	var all []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(b)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// gone waits for the end of processes that are not this one's children.
func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		fd, err := syscallPidfd(pid)
		if err != nil {
			continue // gone already
		}
		if err := waitPidfd(fd, 30_000); err != nil {
			t.Errorf("process %d is left: %v", pid, err)
		}
	}
}

// TestKilledLabLeavesNothing kills a lab with a machine of its own.
func TestKilledLabLeavesNothing(t *testing.T) {
	program := lab(t)
	tmp := t.TempDir()
	cmd := exec.Command(program, "run", "--fresh", "--", "sh", "-c", "echo ready; sleep 1000")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader{t, bufio.NewReader(out)}.until("ready")
	started := children(t, cmd.Process.Pid)
	if len(started) != 2 {
		t.Errorf("it runs %d programs, want QEMU and virtiofsd", len(started))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	gone(t, started)
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// TestCrashedMachineIsReplaced crashes the kernel of the first machine. The
// second finds a file that was not there before, and does not.
func TestCrashedMachineIsReplaced(t *testing.T) {
	program := lab(t)
	flag := filepath.Join(t.TempDir(), "second")
	cmd := exec.Command(program, "run", "--fresh", "--", "sh", "-c",
		"cat; if test -e /run/host"+flag+"; then echo again; else sleep 2; echo c >/proc/sysrq-trigger; sleep 1000; fi")
	cmd.Stdin = strings.NewReader("input\n")
	var out strings.Builder
	cmd.Stdout = &out
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := reader{t, bufio.NewReader(errs)}
	r.until("the outer machine failed: ") // QEMU and virtiofsd go together
	r.until("console: ")                  // the end of what its kernel had to say
	if err := os.WriteFile(flag, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r.until("starting over")
	go io.Copy(io.Discard, r.r)
	if status := exitStatus(t, cmd.Wait()); status != 0 {
		t.Errorf("status %d", status)
	}
	if out.String() != "input\ninput\nagain\n" {
		t.Errorf("stdout %q", out.String())
	}
}

// TestKilledKeeper: a machine whose keeper was killed is gone, is known to be
// gone, and can be started again under its name.
func TestKilledKeeper(t *testing.T) {
	program := lab(t)
	place, err := keeper.At("victim")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := exec.Command(program, "start", "--name", "victim", "--cpus", "2").CombinedOutput(); err != nil {
			t.Fatalf("start: %v\n%s", err, out)
		}
		status, err := place.Status()
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "run", "--name", "victim", "nproc").Output(); err != nil || string(out) != "2\n" {
			t.Errorf("nproc: %q, %v", out, err)
		}
		started := children(t, status.PID)
		if err := syscall.Kill(status.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		gone(t, append(started, status.PID))
		if _, err := place.Status(); err == nil {
			t.Error("a killed keeper answers")
		}
	}
	if out, err := exec.Command(program, "stop", "--name", "victim").CombinedOutput(); exitStatus(t, err) != failure {
		t.Errorf("stop: %v\n%s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(os.Getenv(keeper.EnvDir), "victim*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// TestDeterministicMachine: its clock counts instructions, so the same work takes
// the same time whatever the host does.
// The work is a shell's own: a program or a file would come from the host, and
// while the machine waits its clock goes on with the host's. The shortest of
// several runs: an interrupt between only ever adds.
func TestDeterministicMachine(t *testing.T) {
	program := lab(t)
	const script = `
		least=0
		for run in {1..9}; do
			a=${EPOCHREALTIME/./}; for ((i = 0; i < 10000; i++)); do :; done; b=${EPOCHREALTIME/./}
			((least && least < b - a)) || least=$((b - a))
		done
		echo $least`
	var took [2]float64
	for i := range took {
		out, err := exec.Command(program, "run", "--deterministic", "--", "bash", "-c", script).Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(out), &took[i]); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
	}
	if ratio := took[0] / took[1]; ratio < 0.98 || ratio > 1.02 {
		t.Errorf("the same work took %.1f and %.1f M instructions", took[0]/1e3, took[1]/1e3)
	}
	t.Logf("%.2f and %.2f M instructions", took[0]/1e3, took[1]/1e3)
}
