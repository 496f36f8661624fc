package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hullvm/hull/vmm/jail"
)

func TestProtections(t *testing.T) {
	missing := errors.New("not here")
	for name, c := range map[string]struct {
		host  jail.Protections
		warns string // subjects
	}{
		"all":        {jail.Protections{Landlock: 7}, ""},
		"none":       {jail.Protections{NoNewPrivs: missing, Seccomp: missing, UserNS: missing}, "privileges,system calls,file access"},
		"Landlock 1": {jail.Protections{Landlock: 1}, "file access"},
		"no seccomp": {jail.Protections{Landlock: 3, Seccomp: missing}, "system calls"},
		"no mounts":  {jail.Protections{Landlock: 3, Namespaces: jail.ErrNoMounts}, "namespaces"},
		"no spaces":  {jail.Protections{Landlock: 3, Namespaces: missing}, "namespaces"},
		"no user ns": {jail.Protections{Landlock: 3, UserNS: missing}, ""},
		"no users":   {jail.Protections{Landlock: 3, Users: missing}, ""},
	} {
		var warns []string
		for _, f := range protections(c.host) {
			if f.verdict != verdictOK {
				warns = append(warns, f.subject)
				if f.mend == "" {
					t.Errorf("%s: %s: nothing to do about it", name, f.subject)
				}
			}
		}
		if got := strings.Join(warns, ","); got != c.warns {
			t.Errorf("%s: warned of %q, want %q", name, got, c.warns)
		}
	}
}

func TestNeighbours(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "active")
	if f := checkSMT(path); f.verdict != verdictOK {
		t.Errorf("no SMT: %+v", f)
	}
	for text, want := range map[string]verdict{"1\n": verdictWarn, "0\n": verdictOK} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if f := checkSMT(path); f.verdict != want {
			t.Errorf("%q: %+v", text, f)
		}
	}

	dir = t.TempDir()
	write := func(name, state string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("meltdown", "Not affected\n")
	write("spectre_v1", "Mitigation: usercopy\n")
	if f := checkVulnerabilities(dir); f.verdict != verdictOK || !strings.Contains(f.what, "2") {
		t.Errorf("%+v", f)
	}
	write("mds", "Mitigation: Clear CPU buffers; SMT vulnerable\n")
	write("retbleed", "Vulnerable\n")
	if f := checkVulnerabilities(dir); f.verdict != verdictWarn || !strings.Contains(f.what, "mds, retbleed") {
		t.Errorf("%+v", f)
	}
	if f := checkVulnerabilities(filepath.Join(dir, "none")); f.verdict != verdictWarn {
		t.Errorf("%+v", f)
	}
}
