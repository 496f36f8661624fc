package agent

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/proto"
)

func ptr[T any](v T) *T { return &v }

// users is an image with users and groups of its own.
func users(t *testing.T) func(dir string) {
	return func(dir string) {
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv/web:/bin/sh\nodd:x:1:2\n# web:x:0:0::/:\n",
			"group":  "root:x:0:\nweb:x:44:\nlogs:x:55:other,web\nmore:x:66:web\nadmin:x:77:\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestUser(t *testing.T) {
	for _, tt := range []struct {
		user specs.User
		want string // uid, gid, groups, home
	}{
		{specs.User{}, "0 0 0 /root"},
		{specs.User{UID: 33, GID: 5, AdditionalGids: []uint32{9, 8, 9}}, "33 5 5 8 9 /srv/web"},
		{specs.User{UID: 1234, GID: 1}, "1234 1 1 /"},
		{specs.User{Username: "web"}, "33 44 44 55 66 /srv/web"},
		{specs.User{Username: "33"}, "33 44 44 55 66 /srv/web"},
		{specs.User{Username: "web:admin"}, "33 77 77 /srv/web"},
		{specs.User{Username: "web:5"}, "33 5 5 /srv/web"},
		{specs.User{Username: "1234"}, "1234 0 0 /"},
		{specs.User{Username: "1234:admin", AdditionalGids: []uint32{3}}, "1234 77 77 3 /"},
		{specs.User{Username: "root"}, "0 0 0 /root"},
	} {
		got := sh(t, func(s *proto.Start) { s.Spec.Process.User = tt.user }, users(t), "echo $(id -u) $(id -g) $(id -G) $HOME")
		if trim(got) != tt.want {
			t.Errorf("%+v: %q, want %q", tt.user, trim(got), tt.want)
		}
	}
}

// /etc/passwd is the image's: it may be anything.
func TestHostilePasswd(t *testing.T) {
	image := func(dir string) {
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/dev/zero", filepath.Join(dir, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("group", filepath.Join(dir, "etc/group")); err != nil {
			t.Fatal(err)
		}
	}
	if got := sh(t, func(s *proto.Start) { s.Spec.Process.User = specs.User{Username: "5:6"} }, image, "echo $(id -u) $(id -g)"); trim(got) != "5 6" {
		t.Errorf("got %q", got)
	}
}

func TestProcessSettings(t *testing.T) {
	change := func(s *proto.Start) {
		p := s.Spec.Process
		p.Cwd = "/new/dir"
		p.Env = append(p.Env, "A=b c")
		p.NoNewPrivileges = true
		p.OOMScoreAdj = ptr(500)
		p.User.Umask = ptr[uint32](0o027)
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
		p.Capabilities = &specs.LinuxCapabilities{
			Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"},
			Effective:   []string{"CAP_CHOWN", "CAP_KILL"},
			Permitted:   []string{"CAP_CHOWN", "CAP_KILL"},
			Inheritable: []string{"CAP_KILL"},
			Ambient:     []string{"CAP_KILL"},
		}
		p.User.UID = 7
	}
	got := sh(t, change, nil, `
		pwd; echo "$A"; umask; ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj
		grep -E '^(Cap|NoNewPrivs)' /proc/self/status`)
	want := "/new/dir\nb c\n0027\n100\n200\n0\n500\n" +
		"CapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\nCapBnd:\t0000000000002021\nCapAmb:\t0000000000000020\n" +
		"NoNewPrivs:\t1\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRootCapabilities(t *testing.T) {
	change := func(s *proto.Start) {
		caps := []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
		s.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	}
	got := sh(t, change, nil, "grep -E '^Cap(Eff|Bnd)' /proc/self/status; mount -t tmpfs x /mnt 2>/dev/null || echo denied")
	if want := "CapEff:\t0000000000000401\nCapBnd:\t0000000000000401\ndenied\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSurroundings(t *testing.T) {
	change := func(s *proto.Start) {
		s.Hosts, s.ResolvConf, s.Hostname = ptr("1.2.3.4 box\n"), ptr("nameserver 5.6.7.8\n"), ptr("box\n")
		s.Spec.Domainname = "example.org"
		s.Spec.Linux.Sysctl = map[string]string{"kernel.shmmni": "1234"}
		s.Spec.Linux.MaskedPaths = []string{"/proc/timer_list", "/usr/lib", "/no/such/path", "/proc/meminfo"}
		s.Spec.Linux.ReadonlyPaths = []string{"/proc/sys", "/usr/share", "/no/such/path"}
		s.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/extra", Type: "c", Major: 1, Minor: 3, FileMode: ptr(os.FileMode(0o640)), GID: ptr[uint32](9)}}
	}
	script := `
		hostname; cat /proc/sys/kernel/domainname /etc/hosts /etc/resolv.conf /etc/hostname /proc/sys/kernel/shmmni
		wc -c < /proc/meminfo
		echo 1 > /proc/sys/kernel/shmmni 2>/dev/null || echo sealed
		touch /usr/share/x 2>/dev/null || echo sealed
		touch /usr/x && echo open
		stat -c '%n %t:%T %a %g' /dev/null /dev/extra
		readlink /dev/fd /dev/stdout /dev/ptmx
		test -e /proc/1/root/lost && echo leak; exit 0`
	want := "box\nexample.org\n1.2.3.4 box\nnameserver 5.6.7.8\nbox\n1234\n0\nsealed\nsealed\nopen\n" +
		"/dev/null 1:3 666 0\n/dev/extra 1:3 640 9\n/proc/self/fd\n/proc/self/fd/1\npts/ptmx\n"
	change2 := func(s *proto.Start) {
		change(s)
		s.Spec.Linux.MaskedPaths = []string{"/proc/timer_list", "/no/such/path", "/proc/meminfo"}
	}
	if diff := cmp.Diff(want, sh(t, change2, nil, script)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMaskedDirectory(t *testing.T) {
	change := func(s *proto.Start) { s.Spec.Linux.MaskedPaths = []string{"/usr/share"} }
	if got := sh(t, change, nil, "ls -A /usr/share | wc -l; touch /usr/share/x 2>/dev/null || echo sealed"); got != "0\nsealed\n" {
		t.Errorf("got %q", got)
	}
}

func TestReadOnlyRoot(t *testing.T) {
	change := func(s *proto.Start) {
		s.Root.ReadOnly = true
		s.Spec.Mounts = append(s.Spec.Mounts, specs.Mount{Destination: "/scratch/dir", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}})
	}
	got := sh(t, change, nil, "touch /x 2>/dev/null || echo sealed; echo 1 > /scratch/dir/x && cat /scratch/dir/x; echo > /dev/null && echo null")
	if got != "sealed\n1\nnull\n" {
		t.Errorf("got %q", got)
	}
}

func TestBindMounts(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	change := func(s *proto.Start) {
		s.Spec.Mounts = append(s.Spec.Mounts,
			specs.Mount{Destination: "/data", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}},
			specs.Mount{Destination: "/one/file", Source: filepath.Join(dir, "file"), Options: []string{"bind"}},
		)
	}
	got := sh(t, change, nil, "cat /data/file /one/file; touch /data/x 2>/dev/null || echo sealed; echo more >> /one/file")
	if want := "from outside\nfrom outside\nsealed\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(raw) != "from outside\nmore\n" {
		t.Errorf("%q, %v", raw, err)
	}
}

// Links in the image lead nowhere but into the image.
func TestHostileLinks(t *testing.T) {
	outside := t.TempDir()
	image := func(dir string) {
		for name, target := range map[string]string{
			"abs": outside, "up": "../../../../../../../.." + outside, "loop": "loop", "dangling": "/made/by/mount",
			"proc-link": "/proc/1/root",
		} {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(outside, "hosts"), filepath.Join(dir, "etc/hosts")); err != nil {
			t.Fatal(err)
		}
	}
	change := func(s *proto.Start) {
		s.Hosts = ptr("hosts\n")
		s.Spec.Process.Cwd = "/abs/cwd"
		for _, at := range []string{"/abs/new", "/up/new", "/dangling", "/up/../../../../etc/mnt"} {
			s.Spec.Mounts = append(s.Spec.Mounts, specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs"})
		}
		s.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/abs/device", Type: "c", Major: 1, Minor: 3}}
	}
	got := sh(t, change, image, "cat /etc/hosts; pwd -P; for d in /abs/new /up/new /dangling /etc/mnt; do mountpoint -q $d || echo not mounted: $d; done; ls -d /made/by/mount")
	if want := "hosts\n" + outside + "/cwd\n/made/by/mount\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside of the container there are %v (%v)", entries, err)
	}
	start := &proto.Start{Spec: testSpec("true")}
	start.Spec.Mounts = append(start.Spec.Mounts, specs.Mount{Destination: "/loop/x", Type: "tmpfs", Source: "tmpfs"})
	if _, err := newGuest(t, image).run(start, ""); err == nil {
		t.Error("a mount at the end of a loop of links")
	}
}

func TestTerminal(t *testing.T) {
	g := newGuest(t, nil)
	conn := g.stream(proto.InitProcess, proto.StreamTerminal)
	defer conn.Close()
	spec := testSpec("sh", "-c", "trap 'stty size; exit 3' WINCH; tty; stty size; id -u; echo ready; while :; do sleep 0.02; done")
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Height: 30, Width: 100}
	spec.Process.User.UID = 1000
	p, err := g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: spec, Streams: []string{proto.StreamTerminal}})
	if err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	buf := make([]byte, 256)
	for !strings.Contains(seen.String(), "ready") {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("after %q: %v", seen.String(), err)
		}
		seen.Write(buf[:n])
	}
	if want := "/dev/pts/0\r\n30 100\r\n1000\r\nready"; !strings.HasPrefix(seen.String(), want) {
		t.Errorf("printed %q, want %q", seen.String(), want)
	}
	if err := g.client.Resize(t.Context(), proto.InitProcess, 50, 132); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(rest), "50 132") {
		t.Errorf("after the resize: %q, %v", rest, err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code() != 3 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// Ctrl-C on a terminal is a signal, for an exec too.
func TestTerminalInterrupt(t *testing.T) {
	g := newGuest(t, nil)
	if _, err := g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: testSpec("sleep", "100")}); err != nil {
		t.Fatal(err)
	}
	conn := g.stream("shell", proto.StreamTerminal)
	defer conn.Close()
	process := testSpec("cat").Process
	process.Terminal = true
	p, err := g.client.Exec(t.Context(), "shell", process, proto.StreamTerminal)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	// The terminal's echo, and cat's, which by then runs.
	if _, err := io.ReadFull(conn, make([]byte, len("x\r\nx\r\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code() != 130 {
		t.Errorf("%+v, %v", exit, err)
	}
}
