package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

func TestInMachine(t *testing.T) {
	for path, want := range map[string]string{
		"/":             "/",
		"/home/u/hull":  "/home/u/hull",
		"/tmp":          "/run/host/tmp",
		"/tmp/x":        "/run/host/tmp/x",
		"/tmpx":         "/tmpx",
		"/var/lib/hull": "/run/host/var/lib/hull",
		"/var/lib":      "/var/lib",
	} {
		if got := inMachine(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{
		"PATH=/usr/bin", "HOME=/home/u", "TERM=xterm", "XDG_RUNTIME_DIR=/run/user/1000",
		"SSH_AUTH_SOCK=/tmp/s", "TMPDIR=/tmp/u", "EMPTY=", "A=b=c",
	}, "/tmp/build/bin")
	want := []string{
		"TERM=xterm", "EMPTY=", "A=b=c",
		"PATH=/run/host/tmp/build/bin:/usr/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "HULL_LAB=1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !slices.ContainsFunc(environment(nil, "/b"), func(s string) bool { return strings.HasPrefix(s, "PATH=/b:") && strings.HasSuffix(s, "/bin") }) {
		t.Error("no PATH without a PATH")
	}
}

func TestParseCopy(t *testing.T) {
	dir := t.TempDir()
	got, err := parseCopy(dir + ":/a//b/")
	if want := (wire.Copy{Source: dir, Destination: "/a/b"}); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, s := range []string{"", "x", dir, dir + ":", dir + ":rel", ":/x", dir + "/missing:/x"} {
		if _, err := parseCopy(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestStatusLine(t *testing.T) {
	started := time.Unix(1000, 0)
	got := statusLine("default", wire.Status{PID: 7, Started: started, CPUs: 1, Memory: 512, Deterministic: true, Commands: 3}, started.Add(90*time.Second))
	if want := "default\t7\t1\t512 MiB\tinstructions\t1m30s\t3"; got != want {
		t.Errorf("%q", got)
	}
}
