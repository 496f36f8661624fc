package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The test program is the shell when it is told to be.
func TestMain(m *testing.M) {
	if os.Getenv("BE_SH") != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func TestShell(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo $0:$1; exit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		stdin  string
		stdout string
		status int
	}{
		{[]string{"-c", "exit 7"}, "", "", 7},
		{[]string{"-c", "echo $0 $1 $#", "a", "b", "c"}, "", "a b 2\n", 0},
		{[]string{"-c", "cat"}, "in", "in", 0},
		{[]string{"-c", "echo a b | wc -w | tr -d ' '"}, "", "2\n", 0},
		{[]string{"-c", "echo x > f; echo y >> f; cat < f; rm f"}, "", "x\ny\n", 0},
		{[]string{"-c", "echo no >&2; echo yes"}, "", "yes\n", 0},
		{[]string{"-c", "sleep 0.01 & wait; echo done"}, "", "done\n", 0},
		{[]string{"-c", "trap 'echo bye' EXIT; false"}, "", "bye\n", 1},
		{[]string{"-ec", "false; echo not reached"}, "", "", 1},
		{[]string{"-uc", "echo $unset_variable"}, "", "", 1},
		{[]string{"-c", "umask 027; umask"}, "", "0027\n", 0},
		{[]string{"-c", "umask nine"}, "", "", 1},
		{[]string{"-c", "for i in 1 2; do echo $((i * 2)); done"}, "", "2\n4\n", 0},
		{[]string{"-c", "no-such-command"}, "", "", 127},
		{[]string{"-c", "/etc/passwd"}, "", "", 126},
		{[]string{"-c", "kill -9 $$"}, "", "", -1},
		{[]string{"-c", "sh -c 'kill -9 $$'; echo $?"}, "", "137\n", 0},
		{[]string{"-c", script + " one"}, "", script + ":one\n", 9},
		{[]string{"-c", "if"}, "", "", 2},
		{[]string{"-c"}, "", "", 2},
		{[]string{"-Z"}, "", "", 2},
		{[]string{"/nonexistent"}, "", "", 127},
		{[]string{"/"}, "", "", 126},
		{[]string{script, "two"}, "", script + ":two\n", 9},
		{[]string{"-s", "three"}, "echo $1; exit 4\necho no\n", "three\n", 4},
		{nil, "echo a\ntrap 'echo b' EXIT\n", "a\nb\n", 0},
		{nil, "", "", 0},
	} {
		cmd := exec.Command(os.Args[0], tt.args...)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "BE_SH=1")
		cmd.Stdin = strings.NewReader(tt.stdin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		status := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			status = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if string(out) != tt.stdout || status != tt.status {
			t.Errorf("sh %q: printed %q, status %d; want %q, %d (stderr: %s)", tt.args, out, status, tt.stdout, tt.status, stderr.String())
		}
	}
}

func TestComplete(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"alpha", "alphabet", "beta"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "gamma"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := newShell("sh", &invocation{}, true)
	if err != nil {
		t.Fatal(err)
	}
	s.runner.Dir = dir
	for _, tt := range []struct{ line, want string }{
		{"cat al", "cat alpha"},
		{"cat be", "cat beta "},
		{"cd ga", "cd gamma/"},
		{"cat x", "cat x"},
		{"cat ", "cat "},
	} {
		got, pos, ok := s.complete(tt.line, len(tt.line), keyTab)
		if !ok || got != tt.want || pos != len(tt.want) {
			t.Errorf("%q completes to %q (cursor %d), want %q", tt.line, got, pos, tt.want)
		}
	}
}
