package engine

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommand(t *testing.T) {
	image := ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd", "arg"}}
	for _, test := range []struct {
		name             string
		entrypoint, args []string
		image            ImageConfig
		want             []string
	}{
		{"all of the image", nil, nil, image, []string{"/entry", "cmd", "arg"}},
		{"arguments replace the command", nil, []string{"x"}, image, []string{"/entry", "x"}},
		{"an entrypoint drops both", []string{"/mine"}, nil, image, []string{"/mine"}},
		{"entrypoint and arguments", []string{"/mine"}, []string{"x"}, image, []string{"/mine", "x"}},
		{"no entrypoint", []string{""}, []string{"x"}, image, []string{"x"}},
		{"neither", []string{""}, nil, image, nil},
		{"an image without any", nil, nil, ImageConfig{}, nil},
	} {
		got, err := command(&Config{Entrypoint: test.entrypoint, Args: test.args}, &test.image)
		if !slices.Equal(got, test.want) || (test.want == nil) != errors.Is(err, ErrNoCommand) {
			t.Errorf("%s: %q, %v; want %q", test.name, got, err, test.want)
		}
	}
	if _, err := command(&Config{Args: []string{"a\x00b"}}, &image); err == nil {
		t.Error("an argument with a zero byte was taken")
	}
}

func TestEnvironment(t *testing.T) {
	got := environment(
		[]string{"A=user", "EMPTY=", "GONE", "HOSTNAME=mine"},
		[]string{"PATH=/image/bin", "A=image", "B=image", "GONE=x"}, "h", true)
	want := []string{"PATH=/image/bin", "HOSTNAME=mine", "TERM=xterm", "A=user", "EMPTY=", "B=image"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := environment([]string{"PATH"}, nil, "h", false); !slices.Equal(got, []string{"HOSTNAME=h"}) {
		t.Errorf("PATH taken out: %q", got)
	}
}

func testLookup(name string) (string, bool) {
	return "host " + name, strings.HasPrefix(name, "SET")
}

func TestResolveEnv(t *testing.T) {
	for given, want := range map[string]string{"A=b=c": "A=b=c", "A=": "A=", "SET": "SET=host SET", "UNSET": "UNSET"} {
		if got, err := ResolveEnv(given, testLookup); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", given, got, err, want)
		}
	}
	for _, bad := range []string{"", "=x", "A=\x00"} {
		if _, err := ResolveEnv(bad, testLookup); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseEnvFile(t *testing.T) {
	got, err := ParseEnvFile(strings.NewReader("\xef\xbb\xbf# comment\n\n  A=1\nB=\"quoted\" # no comment\nSET1\nUNSET\nE=\r\n"), testLookup)
	want := []string{"A=1", `B="quoted" # no comment`, "SET1=host SET1", "E="}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for bad, text := range map[string]string{
		"A=1\nB C=2": "line 2", "=x": "line 1", "A=\xff": "UTF-8", strings.Repeat("x", maxEnvLine+1): "too long",
	} {
		if _, err := ParseEnvFile(strings.NewReader(bad), testLookup); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%.20q: %v, want %q", bad, err, text)
		}
	}
}

func FuzzParseEnvFile(f *testing.F) {
	f.Add("A=1\n#x\nSET\n")
	f.Add("\xef\xbb\xbfA B=1")
	f.Fuzz(func(t *testing.T, data string) {
		env, err := ParseEnvFile(strings.NewReader(data), testLookup)
		for _, entry := range env {
			if name, _, ok := strings.Cut(entry, "="); err == nil && (!ok || name == "" || strings.ContainsAny(entry, "\x00\n")) {
				t.Errorf("entry %q", entry)
			}
		}
	})
}

func TestCapabilities(t *testing.T) {
	has := func(set []string, name string) bool { return slices.Contains(set, name) }
	for _, test := range []struct {
		add, drop     []string
		with, without string
		n             int
	}{
		{nil, nil, "CAP_CHOWN", "CAP_SYS_ADMIN", 14},
		{[]string{"sys_admin"}, nil, "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", 15},
		{[]string{"CAP_CHOWN"}, []string{"CAP_CHOWN"}, "CAP_CHOWN", "CAP_SYS_ADMIN", 14},
		{nil, []string{"ALL"}, "", "CAP_CHOWN", 0},
		{[]string{"net_raw"}, []string{"all"}, "CAP_NET_RAW", "CAP_CHOWN", 1},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, "CAP_BPF", "CAP_SYS_ADMIN", 40},
	} {
		got, err := capabilities(test.add, test.drop)
		if err != nil || len(got) != test.n || test.with != "" && !has(got, test.with) || has(got, test.without) {
			t.Errorf("+%v -%v: %v, %v", test.add, test.drop, got, err)
		}
	}
	for _, bad := range [][2][]string{{{"NOPE"}, nil}, {nil, {"CAP_"}}, {{"ALL"}, {"ALL"}}} {
		if _, err := capabilities(bad[0], bad[1]); err == nil {
			t.Errorf("+%v -%v was taken", bad[0], bad[1])
		}
	}
}

func TestTmpfs(t *testing.T) {
	mounts, err := tmpfsMounts(map[string]string{"/run/sub": "exec,size=64m,mode=755", "/run": "", "/tmp/": "rw,suid"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mounts {
		got = append(got, m.Destination+" "+strings.Join(m.Options, ","))
	}
	want := []string{"/run noexec,nosuid,nodev", "/run/sub nosuid,nodev,exec,size=64m,mode=755", "/tmp noexec,nodev,rw,suid"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for path, options := range map[string]string{"relative": "", "/": "", "/a": "loop", "/b": "size=", "/c": "ro,,"} {
		if _, err := tmpfsMounts(map[string]string{path: options}); err == nil {
			t.Errorf("--tmpfs %s:%s was taken", path, options)
		}
	}
}

func TestBuildSpec(t *testing.T) {
	r := &Record{
		ID: newID(),
		Config: Config{
			CPUs: 1.5, Terminal: true, ReadOnly: true, User: "1000:10", Args: []string{"x"},
			Ulimits: []Ulimit{{"nofile", 10, 20}}, Tmpfs: map[string]string{"/tmp": ""},
		},
		ImageConfig: ImageConfig{User: "nobody", WorkingDir: "srv/../app", Entrypoint: []string{"/e"}},
	}
	spec, err := buildSpec(r)
	if err != nil {
		t.Fatal(err)
	}
	p := spec.Process
	if p.User.Username != "1000:10" || p.Cwd != "/app" || !p.Terminal || !spec.Root.Readonly || spec.Hostname != ShortID(r.ID) {
		t.Errorf("process %+v, root %+v, hostname %q", p, spec.Root, spec.Hostname)
	}
	if cpu := spec.Linux.Resources.CPU; *cpu.Quota != 150_000 || *cpu.Period != 100_000 || vcpus(1.5) != 2 {
		t.Errorf("CPU %+v", cpu)
	}
	if l := p.Rlimits[0]; l.Type != "RLIMIT_NOFILE" || l.Soft != 10 || l.Hard != 20 {
		t.Errorf("rlimit %+v", l)
	}
	if last := spec.Mounts[len(spec.Mounts)-1]; last.Destination != "/tmp" {
		t.Errorf("last mount %+v", last)
	}
	r.Config.CPUs, r.Config.User, r.Config.WorkingDir = 2, "", "rel"
	if _, err := buildSpec(r); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("relative working directory: %v", err)
	}
	r.Config.WorkingDir = ""
	if spec, err = buildSpec(r); err != nil || spec.Linux.Resources.CPU != nil || spec.Process.User.Username != "nobody" {
		t.Errorf("%v, %v", spec, err)
	}
}

func TestHosts(t *testing.T) {
	got, err := hostsFile("h", netip.MustParseAddr("127.0.1.1"), []string{"a:10.0.0.1", "b=::1", "c:[fe80::1]"})
	if err != nil || !strings.HasSuffix(got, "127.0.1.1\th\n10.0.0.1\ta\n::1\tb\nfe80::1\tc\n") {
		t.Errorf("%v\n%s", err, got)
	}
	for _, bad := range []string{"", "a", ":1.2.3.4", "a:", "a:b", "a b:1.2.3.4", "a\nb:1.2.3.4", "a:1.2.3"} {
		if _, _, err := SplitHost(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestConfigFill(t *testing.T) {
	var c Config
	if err := c.fill(); err != nil || c.CPUs != 1 || c.Memory != 512<<20 || c.BootTimeout != DefaultBootTimeout {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	for _, bad := range []Config{
		{CPUs: 1000}, {CPUs: -1}, {CPUs: 0.001}, {Memory: 1}, {Memory: 1 << 20}, {Memory: 1 << 60},
		{BootTimeout: -1}, {Hostname: "a b"}, {Hostname: "-a"}, {Hostname: strings.Repeat("a", 64)},
	} {
		if err := bad.fill(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
