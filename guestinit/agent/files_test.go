package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hullvm/hull/guestinit/proto"
)

// running starts a container that waits, after a script, for its end.
func running(t *testing.T, image func(dir string), script string) *guest {
	t.Helper()
	g := newGuest(t, image)
	out := g.stream(proto.InitProcess, proto.StreamStdout)
	defer out.Close()
	start := &proto.Start{Process: proto.InitProcess, Spec: testSpec("sh", "-c", script+"\necho ready; exec sleep 1000"), Streams: []string{proto.StreamStdout}}
	if _, err := g.client.Start(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 6)
	if _, err := io.ReadFull(out, ready); err != nil || string(ready) != "ready\n" {
		t.Fatalf("the script: %q, %v", ready, err)
	}
	return g
}

// receive has the agent send something and returns it.
func (g *guest) receive(request func(ctx context.Context, transfer string) error) ([]byte, error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 30*time.Second)
	defer cancel()
	conn := g.stream("t", proto.StreamData)
	defer conn.Close()
	answer := make(chan error, 1)
	go func() { answer <- request(ctx, "t") }()
	raw, err := io.ReadAll(conn)
	return raw, errors.Join(<-answer, err)
}

// pack has the agent archive something and lists the entries by name, regular files with their contents.
func (g *guest) pack(p proto.Pack) (map[string]string, error) {
	g.t.Helper()
	raw, err := g.receive(func(ctx context.Context, transfer string) error {
		p.Transfer = transfer
		return g.client.Pack(ctx, &p)
	})
	if err != nil {
		return nil, err
	}
	files := make(map[string]string)
	in := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := in.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		files[h.Name] = string(content) + h.Linkname
	}
}

// unpack has the agent unpack a tar.
func (g *guest) unpack(u proto.Unpack, raw []byte) error {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 30*time.Second)
	defer cancel()
	conn := g.stream("t", proto.StreamData)
	defer conn.Close()
	u.Transfer = "t"
	answer := make(chan error, 1)
	go func() { answer <- g.client.Unpack(ctx, &u) }()
	_, _ = conn.Write(raw) // the answer tells
	_ = conn.CloseWrite()
	return <-answer
}

// changes has the agent list what has changed, as docker writes it.
func (g *guest) changes() ([]string, error) {
	g.t.Helper()
	raw, err := g.receive(g.client.Changes)
	if err != nil {
		return nil, err
	}
	var list []string
	for in := bytes.NewReader(raw); in.Len() > 0; {
		var c proto.Change
		if err := proto.ReadFrame(in, &c); err != nil {
			return nil, err
		}
		list = append(list, c.Kind+" "+c.Path)
	}
	return list, nil
}

func oneFile(t *testing.T, h tar.Header, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	h.Size = int64(len(content))
	for _, err := range []error{w.WriteHeader(&h), func() error { _, err := io.WriteString(w, content); return err }(), w.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestFiles(t *testing.T) {
	g := running(t, nil, `mkdir -p /box/d; echo text > /box/d/f; ln -s /box/d /box/link; ln -s ../../../../etc /box/out; mknod /box/null c 1 3`)
	f, err := g.client.Stat(t.Context(), "/box/link")
	if err != nil || fs.FileMode(f.Mode)&fs.ModeSymlink == 0 || f.Target != "/box/d" {
		t.Errorf("stat of a link: %+v, %v", f, err)
	}
	if f, err = g.client.Stat(t.Context(), "box/link/f"); err != nil || f.Size != 5 || f.Name != "f" {
		t.Errorf("stat through a link: %+v, %v", f, err)
	}
	_, err = g.client.Stat(t.Context(), "/box/nope")
	wantCode(t, "stat of nothing", err, proto.CodeNotFound)

	got, err := g.pack(proto.Pack{Source: proto.SourcePath, Path: "/box/link/.", Name: "n"})
	if err != nil || len(got) != 2 || got["n/f"] != "text\n" {
		t.Errorf("pack: %q, %v", got, err)
	}
	_, err = g.pack(proto.Pack{Source: proto.SourcePath, Path: "/box/nope", Name: "n"})
	wantCode(t, "packing nothing", err, proto.CodeNotFound)
	// What is mounted in the container counts, but for the kernel's own.
	if got, err := g.pack(proto.Pack{Source: proto.SourcePath, Path: "/dev", Name: "dev"}); err != nil || got["dev/fd"] != "/proc/self/fd" {
		t.Errorf("pack of /dev: %q, %v", got, err)
	}
	_, err = g.pack(proto.Pack{Source: proto.SourcePath, Path: "/proc/cpuinfo", Name: "n"})
	wantCode(t, "packing a file of proc", err, proto.CodeIO)
	_, err = g.pack(proto.Pack{Source: "nonsense"})
	wantCode(t, "packing nonsense", err, proto.CodeUnsupported)
	_, err = g.pack(proto.Pack{Source: proto.SourceLayer, Layer: 3})
	wantCode(t, "packing a layer that is not there", err, proto.CodeInvalid)

	if err := g.unpack(proto.Unpack{Path: "/box/link"}, oneFile(t, tar.Header{Name: "new", Mode: 0o4751, Uid: 7}, "new")); err != nil {
		t.Error(err)
	}
	if err := g.unpack(proto.Unpack{Path: "/box/d", KeepOwners: true}, oneFile(t, tar.Header{Name: "mine", Mode: 0o600, Uid: 7, Gid: 8}, "")); err != nil {
		t.Error(err)
	}
	r, err := g.exec("look", testSpec("stat", "-c", "%n %a %u:%g %s", "/box/d/new", "/box/d/mine").Process, "")
	if want := "/box/d/new 4751 0:0 3\n/box/d/mine 600 7:8 0\n"; err != nil || r.stdout != want {
		t.Errorf("unpacked: %q %q, %v", r.stdout, r.stderr, err)
	}
	wantCode(t, "unpacking to nowhere", g.unpack(proto.Unpack{Path: "/box/nope"}, nil), proto.CodeNotFound)
	wantCode(t, "unpacking to a file", g.unpack(proto.Unpack{Path: "/box/d/f"}, nil), proto.CodeNotFound)
	if err := g.unpack(proto.Unpack{Path: "/"}, []byte(strings.Repeat("no tar ", 1000))); err == nil {
		t.Error("what is no tar was unpacked")
	}
	// A link in the container that leads out of it leads nowhere else.
	if err := g.unpack(proto.Unpack{Path: "/box/out"}, oneFile(t, tar.Header{Name: "hull-test-escape", Mode: 0o600}, "")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat("/etc/hull-test-escape"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("outside of the container: %v", err)
	}
	if _, err := g.client.Stat(t.Context(), "/etc/hull-test-escape"); err != nil {
		t.Errorf("inside: %v", err)
	}
}

// The test's image has a layer below, which is this machine's root directory, and one with what a test adds.
func testImage(t *testing.T) func(dir string) {
	return func(dir string) {
		for _, name := range []string{"image/gone", "image/kept", "image/changed", "image/same/deep", "image/again/old", "image/again/both", "image/again/sub/old", "image/again/sub/both"} {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("old"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

const changeScript = `cd /image; rm gone; echo new > changed; chmod 700 same; mkdir new; echo x > new/file
rm -r again; mkdir -p again/sub; echo x > again/both; echo x > again/sub/both; touch temporary; rm temporary`

func TestChanges(t *testing.T) {
	g := running(t, testImage(t), changeScript)
	got, err := g.changes()
	want := []string{"C /image", "C /image/again", "D /image/again/old", "C /image/again/both", "C /image/again/sub", "D /image/again/sub/old",
		"C /image/again/sub/both", "C /image/changed", "D /image/gone", "A /image/new", "A /image/new/file", "C /image/same"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("changes: %v\n%q, want\n%q", err, got, want)
	}
	files, err := g.pack(proto.Pack{Source: proto.SourceChanges, Pause: true})
	if err != nil {
		t.Fatal(err)
	}
	layer := map[string]string{
		"image/": "", "image/again/": "", "image/again/.wh..wh..opq": "", "image/again/both": "x\n", "image/again/sub/": "", "image/again/sub/both": "x\n", "image/changed": "new\n",
		"image/.wh.gone": "", "image/new/": "", "image/new/file": "x\n", "image/same/": "",
	}
	for name, content := range layer {
		if got, ok := files[name]; !ok || got != content {
			t.Errorf("layer has %s as %q (%v), want %q", name, got, ok, content)
		}
	}
	if len(files) != len(layer) {
		t.Errorf("layer has %q", files)
	}
	// It goes on after the pause.
	if r, err := g.exec("after", testSpec("echo", "on").Process, ""); err != nil || r.stdout != "on\n" {
		t.Errorf("after the pause: %+v, %v", r, err)
	}
	files, err = g.pack(proto.Pack{Source: proto.SourceLayer, Layer: 2})
	if err != nil || files["image/gone"] != "old" {
		t.Errorf("the image's layer: %q, %v", files, err)
	}
}

// A container without changes has none, whatever was made to mount something on.
func TestNoChanges(t *testing.T) {
	g := running(t, nil, "")
	if got, err := g.changes(); err != nil || len(got) != 0 {
		t.Errorf("changes %q, %v", got, err)
	}
}

// A name that marks what is gone cannot be in a layer.
func TestChangesWhiteoutName(t *testing.T) {
	g := running(t, nil, "touch /.wh.evil")
	if _, err := g.pack(proto.Pack{Source: proto.SourceChanges}); err == nil || !strings.Contains(err.Error(), ".wh.evil") {
		t.Errorf("got %v", err)
	}
}

// A root filesystem can be looked into without a workload.
func TestMount(t *testing.T) {
	g := newGuest(t, testImage(t))
	_, err := g.client.Stat(t.Context(), "/")
	wantCode(t, "stat before anything is mounted", err, proto.CodeNoProcess)
	if err := g.client.Mount(t.Context(), &proto.Mount{}); err != nil {
		t.Fatal(err)
	}
	if err := g.unpack(proto.Unpack{Path: "/image"}, oneFile(t, tar.Header{Name: "added", Mode: 0o600}, "x")); err != nil {
		t.Error(err)
	}
	if got, err := g.changes(); err != nil || !slices.Equal(got, []string{"C /image", "A /image/added"}) {
		t.Errorf("changes %q, %v", got, err)
	}
	if got, err := g.pack(proto.Pack{Source: proto.SourcePath, Path: "/image/added", Name: "a", Pause: true}); err != nil || got["a"] != "x" {
		t.Errorf("pack: %q, %v", got, err)
	}
	_, err = g.client.Start(t.Context(), &proto.Start{Process: proto.InitProcess, Spec: testSpec("true")})
	wantCode(t, "start after mount", err, proto.CodeInvalid)
	_, err = g.client.Processes(t.Context())
	wantCode(t, "processes of none", err, proto.CodeNoProcess)
	if err := g.client.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-g.ended
}

// What the host shares is seen where the container would have it, and is no part of its root filesystem.
func TestMountShares(t *testing.T) {
	g := newGuest(t, testImage(t))
	for name, content := range map[string]string{"dir/f": "in a directory", "one/data": "a file", "ro/f": "only to read"} {
		path := filepath.Join(g.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	shares := []proto.Share{
		{Tag: "dir", Destination: "/image/new/dir"}, {Tag: "one", Destination: "/image/kept", File: "data"}, {Tag: "ro", Destination: "/image/new/dir/ro", ReadOnly: true},
	}
	if err := os.Mkdir(filepath.Join(g.dir, "dir/ro"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.client.Mount(t.Context(), &proto.Mount{Shares: shares}); err != nil {
		t.Fatal(err)
	}
	got, err := g.pack(proto.Pack{Source: proto.SourcePath, Path: "/image", Name: "i"})
	if err != nil || got["i/new/dir/f"] != "in a directory" || got["i/kept"] != "a file" || got["i/new/dir/ro/f"] != "only to read" || got["i/gone"] != "old" {
		t.Errorf("pack: %q, %v", got, err)
	}
	if err := g.unpack(proto.Unpack{Path: "/image/new/dir"}, oneFile(t, tar.Header{Name: "added", Mode: 0o600}, "x")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(g.dir, "dir/added")); err != nil {
		t.Error(err)
	}
	if err := g.unpack(proto.Unpack{Path: "/image/new/dir/ro"}, oneFile(t, tar.Header{Name: "added", Mode: 0o600}, "x")); err == nil {
		t.Error("a share that is only to read was written to")
	}
	if got, err := g.changes(); err != nil || !slices.Equal(got, []string{"C /image", "A /image/new", "A /image/new/dir"}) {
		t.Errorf("changes %q, %v", got, err)
	}
	if got, err := g.pack(proto.Pack{Source: proto.SourceChanges}); err != nil || len(got) != 3 {
		t.Errorf("layer: %q, %v", got, err)
	}
	if err := g.client.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-g.ended
}

func TestProcesses(t *testing.T) {
	g := running(t, nil, `sh -c 'touch /up; sleep 998; true' "a  b" &
while ! test -e /up; do sleep 0.01; done`)
	list, err := g.client.Processes(t.Context())
	var refused *proto.Error
	if errors.As(err, &refused) && refused.Code == proto.CodeUnsupported {
		t.Skip("this machine has no cgroup v2")
	}
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list.List, func(p proto.ProcessInfo) bool { return slices.Contains(p.Args, "a  b") })
	if i < 0 || !slices.ContainsFunc(list.List, func(p proto.ProcessInfo) bool { return p.PID == list.List[i].PPID && p.SID == p.PID }) ||
		list.List[i].Comm != "sh" || list.Ticks != 100 || list.Memory == 0 {
		t.Errorf("processes: %+v", list)
	}
	u, err := g.client.Usage(t.Context())
	if err != nil || u.CPUs == 0 || u.Limit == 0 || u.Time == 0 {
		t.Errorf("usage: %+v, %v", u, err)
	}
}

func TestParseStat(t *testing.T) {
	line := "42 (a) b (c) S 1 2 3 34816 4 5 6 7 8 9 100 50 0 0 20 -5 3 0 777 4096000 25 18446744073709551615 1 1 0"
	p, err := parseStat([]byte(line))
	want := proto.ProcessInfo{PID: 42, PPID: 1, PGID: 2, SID: 3, TTY: 34816, State: "S", Comm: "a) b (c", User: 100, System: 50, Nice: -5, Threads: 3,
		Start: 777, Virtual: 4096000, RSS: 25 * uint64(os.Getpagesize())}
	if err != nil || p.PID != want.PID || p.Comm != want.Comm || p.Start != want.Start || p.RSS != want.RSS || p.User != 100 || p.System != 50 ||
		p.Nice != -5 || p.Threads != 3 || p.TTY != 34816 || p.State != "S" || p.Virtual != want.Virtual || p.PPID != 1 {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
	for _, bad := range []string{"", "1 (x", "1 )x( S", "1 (x) S 1 2", "x (y) " + strings.Repeat("1 ", 30)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseCounters(t *testing.T) {
	in, out := parseNetDev([]byte("Inter-| Receive\n face |bytes\n    lo: 9 9 9 9 9 9 9 9 9 9\n  eth0: 100 1 0 0 0 0 0 0 50 1 0 0\n  eth1:1 1 0 0 0 0 0 0 2 1\n"))
	if in != 101 || out != 52 {
		t.Errorf("network: %d, %d", in, out)
	}
	r, w := parseDiskstats([]byte(" 254 0 vda 10 0 8 0 1 0 2 0 0\n 254 1 vda1 10 0 8 0 1 0 2 0 0\n 7 0 loop0 1 1 1 1 1 1 1 1\n 254 16 vdb 1 1 2 1 1 1 4 1\n"))
	if r != 10*512 || w != 6*512 {
		t.Errorf("disks: %d, %d", r, w)
	}
}
