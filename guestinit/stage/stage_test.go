package stage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

func TestCheck(t *testing.T) {
	good := func() *specs.Spec {
		return &specs.Spec{Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	}
	for name, tt := range map[string]struct {
		change func(*specs.Spec)
		want   proto.Code // "" if it is fine
	}{
		"plain":             {func(*specs.Spec) {}, ""},
		"no process":        {func(s *specs.Spec) { s.Process = nil }, proto.CodeInvalid},
		"no arguments":      {func(s *specs.Spec) { s.Process.Args = nil }, proto.CodeInvalid},
		"empty command":     {func(s *specs.Spec) { s.Process.Args = []string{"", "x"} }, proto.CodeInvalid},
		"relative cwd":      {func(s *specs.Spec) { s.Process.Cwd = "x" }, proto.CodeInvalid},
		"no linux":          {func(s *specs.Spec) { s.Linux = nil }, ""},
		"hooks":             {func(s *specs.Spec) { s.Hooks = &specs.Hooks{} }, proto.CodeUnsupported},
		"seccomp":           {func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} }, proto.CodeUnsupported},
		"AppArmor":          {func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }, proto.CodeUnsupported},
		"scheduler":         {func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }, proto.CodeUnsupported},
		"long host name":    {func(s *specs.Spec) { s.Hostname = strings.Repeat("x", 65) }, proto.CodeUnsupported},
		"block I/O":         {func(s *specs.Spec) { s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{} }, proto.CodeUnsupported},
		"rules for devices": {func(s *specs.Spec) { s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}} }, ""},
		"namespaces": {func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.MountNamespace}}
		}, ""},
		"user namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}}
		}, proto.CodeUnsupported},
		"another's namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.IPCNamespace, Path: "/proc/1/ns/ipc"}, {Type: specs.IPCNamespace}}
		}, proto.CodeUnsupported},
	} {
		spec := good()
		tt.change(spec)
		err := Check(spec)
		var e *proto.Error
		errors.As(err, &e)
		if (tt.want == "") != (err == nil) || (e != nil && e.Code != tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestParseOptions(t *testing.T) {
	for in, want := range map[string]parsedMount{
		"":                          {},
		"nosuid,noexec,ro,rw":       {flags: unix.MS_NOSUID | unix.MS_NOEXEC},
		"size=64k,mode=755,noatime": {flags: unix.MS_NOATIME, data: "size=64k,mode=755"},
		"rbind,rslave,ro":           {flags: unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY, propagation: []uintptr{unix.MS_SLAVE | unix.MS_REC}},
		"defaults,exec":             {},
	} {
		got := parseOptions(strings.Split(in, ","))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(parsedMount{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

func TestLookupUser(t *testing.T) {
	passwd, err := parsePasswd(strings.NewReader("root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/srv:\n\nshort:x:1\nbad:x:one:two:::\nhuge:x:4294967295:1:::\n7:x:70:71::/seven:\n"))
	if err != nil {
		t.Fatal(err)
	}
	group, err := parseGroup(strings.NewReader("root:x:0:\nlogs:x:55:other,web\nmore:x:66:web\n# no:x:1:web\nbad:x:y:web\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		user specs.User
		want *identity // nil: an error
	}{
		{specs.User{}, &identity{0, 0, nil, "/root"}},
		{specs.User{Username: "web"}, &identity{33, 44, []int{55, 66}, "/srv"}},
		{specs.User{Username: "web:"}, &identity{33, 44, []int{55, 66}, "/srv"}},
		{specs.User{Username: "web:logs"}, &identity{33, 55, nil, "/srv"}},
		{specs.User{Username: ":logs"}, &identity{0, 55, nil, "/"}},
		{specs.User{Username: "33:9"}, &identity{33, 9, nil, "/srv"}},
		{specs.User{Username: "7"}, &identity{70, 71, nil, "/seven"}}, // a name first
		{specs.User{Username: "8"}, &identity{8, 0, nil, "/"}},
		{specs.User{UID: 33, GID: 1, AdditionalGids: []uint32{3, 2, 3}}, &identity{33, 1, []int{2, 3}, "/srv"}},
		{specs.User{Username: "nemo"}, nil},
		{specs.User{Username: "short"}, nil},
		{specs.User{Username: "huge"}, nil},
		{specs.User{Username: "root:nemo"}, nil},
		{specs.User{Username: "4294967295"}, nil},
		{specs.User{Username: "-1"}, nil},
		{specs.User{Username: "1:-1"}, nil},
		{specs.User{UID: 1 << 31}, nil},
		{specs.User{GID: 1 << 31}, nil},
		{specs.User{AdditionalGids: []uint32{1 << 31}}, nil},
	} {
		got, err := lookupUser(tt.user, passwd, group)
		if (err == nil) != (tt.want != nil) {
			t.Errorf("%+v: %+v, %v", tt.user, got, err)
		} else if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(identity{})); err == nil && diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.user, diff)
		}
	}
}

func FuzzUsers(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", "a:x:1:b,c\n", "root:a")
	f.Fuzz(func(t *testing.T, p, g, user string) {
		passwd, err1 := parsePasswd(strings.NewReader(p))
		group, err2 := parseGroup(strings.NewReader(g))
		if err1 != nil || err2 != nil {
			return
		}
		id, err := lookupUser(specs.User{Username: user}, passwd, group)
		if err == nil && (id.uid < 0 || id.gid < 0) {
			t.Errorf("%q: %+v", user, id)
		}
	})
}

func TestParseCapabilities(t *testing.T) {
	sets, err := parseCapabilities(&specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}, Ambient: []string{"CAP_KILL"}})
	if err != nil || sets.bounding != 1|1<<unix.CAP_CHECKPOINT_RESTORE || sets.ambient != 1<<unix.CAP_KILL || sets.effective != 0 {
		t.Errorf("%+v, %v", sets, err)
	}
	for _, name := range []string{"", "CHOWN", "cap_chown", "CAP_41"} {
		if _, err := parseCapabilities(&specs.LinuxCapabilities{Effective: []string{name}}); err == nil {
			t.Errorf("%q is a capability", name)
		}
	}
}

func TestEnvironment(t *testing.T) {
	env := []string{"A=1", "HOME=", "A=2"}
	if got := withDefault(env, "HOME", "/root"); len(got) != 3 {
		t.Errorf("replaced a variable: %q", got)
	}
	if got := withDefault(env, "HOM", "/x"); len(got) != 4 || got[3] != "HOM=/x" {
		t.Errorf("got %q", got)
	}
	if got := lookupEnv(env, "A"); got != "2" {
		t.Errorf("A is %q", got)
	}
}

func TestRoot(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"abs": dir, "up": "../..", "loop": "loop", "dangling": "/x/y", "file/": ""} {
		var err error
		if target == "" {
			err = os.WriteFile(filepath.Join(dir, "root", "file"), nil, 0o600)
		} else {
			err = os.Symlink(target, filepath.Join(dir, "root", name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := openRoot(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(r.fd)
	for path, want := range map[string]string{
		"/a/b": "/a/b", "/abs/c": dir + "/c", "/up/d": "/d", "/../../e": "/e", "/dangling/z": "/x/y/z",
		"/loop/x": "", "/file/x": "", "/file": "",
	} {
		fd, err := r.mkdir(path, 0o755)
		if (err == nil) != (want != "") {
			t.Errorf("mkdir %s: %v", path, err)
			continue
		}
		if err != nil {
			continue
		}
		got, err := os.Readlink(fdPath(fd))
		unix.Close(fd)
		if err != nil || got != filepath.Join(dir, "root", want) {
			t.Errorf("mkdir %s made %s, %v", path, got, err)
		}
	}
	fd, err := r.touch("/up/abs/new/file")
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if _, err := os.Stat(filepath.Join(dir, "root", dir, "new/file")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("beside the root there are %v (%v)", entries, err)
	}
}
