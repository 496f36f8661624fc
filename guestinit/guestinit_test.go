package guestinit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseCommandLine(t *testing.T) {
	for in, want := range map[string]CommandLine{
		"":                                  {},
		"console=ttyS0 quiet\n":             {},
		"quiet hull.mode=run x":             {Mode: "run"},
		"hull.mode=run hull.mode=":          {},
		"hull.root=/dev/vda hull.upper=vdb": {Root: "vda", Upper: "vdb"},
		`hull.exec="a  b; c" hull.init=/x`:  {Exec: "a  b; c", Init: "/x"},
		`"hull.exec=a b"`:                   {Exec: "a b"},
		"hull.tty=24x80":                    {Rows: 24, Cols: 80},
		"hull.tty=24":                       {},
		"hull.tty=24x99999":                 {},
		"hull.tty=-1x5":                     {},
		"hull.mode hull. hull.unknown=1":    {},
		`hull.exec="open end`:               {Exec: "open end"},
	} {
		if diff := cmp.Diff(want, ParseCommandLine(in)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add(`console=ttyS0 hull.mode=run hull.exec="a b" hull.tty=1x2`)
	f.Fuzz(func(t *testing.T, s string) { ParseCommandLine(s) })
}

// What is no module is reported, and the next is tried.
func TestLoadModules(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"002-b.ko", "001-a.ko", "readme"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("no module"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	loadModules(dir, func(line string) { said = append(said, line) })
	if len(said) != 2 || !strings.Contains(said[0], "001-a.ko") || !strings.Contains(said[1], "002-b.ko") {
		t.Errorf("said %q", said)
	}
	loadModules(filepath.Join(dir, "none"), func(line string) { t.Error(line) })
}

func TestAddEntropyRefuses(t *testing.T) {
	for _, n := range []int{0, maxEntropy + 1} {
		if err := addEntropy(bytes.Repeat([]byte{1}, n)); err == nil {
			t.Errorf("%d bytes were taken", n)
		}
	}
}

func TestMountTable(t *testing.T) {
	// No mount point can be made below a file, not even by root.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := mount{target: filepath.Join(file, "a"), kind: "tmpfs"}
	if err := mountTable([]mount{m}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("mount: %v", err)
	}
	m.optional = true
	if err := mountTable([]mount{m}); err != nil {
		t.Errorf("optional mount: %v", err)
	}
}

func TestLinkStandardStreams(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // again does no harm
		if err := linkStandardStreams(dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"fd": "/proc/self/fd", "stdout": "/proc/self/fd/1"} {
		if got, err := os.Readlink(filepath.Join(dir, name)); got != want {
			t.Errorf("%s leads to %q, %v", name, got, err)
		}
	}
}

func TestQueuesByFlow(t *testing.T) {
	for _, cards := range [][]string{{"1\n"}, {"1\n", "2\n"}, {"1\n", "2\n", "4\n"}} {
		dir := t.TempDir()
		file := func(i int) string { return filepath.Join(dir, "queues", fmt.Sprintf("tx-%d", i), "xps_cpus") }
		for i, cpus := range cards {
			if err := os.MkdirAll(filepath.Dir(file(i)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file(i), []byte(cpus), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		queuesByFlow(dir)
		for i, cpus := range cards {
			want := cpus
			if len(cards) > 1 {
				want = "0"
			}
			if got, err := os.ReadFile(file(i)); err != nil || string(got) != want {
				t.Errorf("%d queues, the CPUs of %d: %q, %v; want %q", len(cards), i, got, err, want)
			}
		}
	}
}
