package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// running runs a container that waits, until the test ends.
func running(t *testing.T, e *Engine, c Config) *Record {
	t.Helper()
	c.Image, c.Args, c.AutoRemove = "test", []string{"sleep", "1000"}, true
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = container.Run(ctx, Attach{}, nil) // canceled
		if err := container.Release(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		r, err := e.Get(t.Context(), container.ID())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", r, err)
		}
		if r.State.Status == StatusRunning {
			return r
		}
	}
}

// ended makes a container that has run.
func ended(t *testing.T, e *Engine, c Config) *Record {
	t.Helper()
	c.Image, c.Args = "test", []string{"true"}
	container, err := e.Create(t.Context(), "", c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := container.Run(t.Context(), Attach{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := container.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := e.Get(t.Context(), container.ID())
	if err != nil || r.State.Status != StatusExited {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

func TestExec(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{Env: []string{"MINE=1"}})
	in, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, test := range []struct {
		exec   Exec
		stdout string
		code   int
		err    int // exit code of the error
	}{
		{exec: Exec{Args: []string{"sh", "-c", "echo $MINE $IMAGE $X; cat; exit 7"}, Env: []string{"X=2"}}, stdout: "1 yes 2\n", code: 7},
		{exec: Exec{Args: []string{"sh", "-c", "kill -TERM $$"}}, code: 143},
		{exec: Exec{Args: []string{"no-such-program"}}, err: 127},
		{exec: Exec{Args: []string{"/etc/passwd"}}, err: 126},
		{exec: Exec{Args: []string{"sh", "-c", "exit 3"}, Detach: true}},
	} {
		var out bytes.Buffer
		exit, err := e.Exec(t.Context(), r.Name, test.exec, Attach{Stdin: in, Stdout: &out})
		if test.err != 0 {
			if err == nil || ExitCode(err) != test.err {
				t.Errorf("%q: %v, want exit code %d", test.exec.Args, err, test.err)
			}
			continue
		}
		if err != nil || exit.Code != test.code || out.String() != test.stdout {
			t.Errorf("%q: %+v, %q, %v; want %d, %q", test.exec.Args, exit, out.String(), err, test.code, test.stdout)
		}
	}
}

// Many at once do not get in each other's way.
func TestExecMany(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	const many = 20
	errs := make(chan error, many)
	for i := range many {
		go func() {
			var out bytes.Buffer
			exit, err := e.Exec(t.Context(), r.ID, Exec{Args: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}}, Attach{Stdout: &out})
			if err == nil && (exit.Code != i || out.String() != fmt.Sprintln(i)) {
				err = fmt.Errorf("%d: %+v, %q", i, exit, out.String())
			}
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestExecNotRunning(t *testing.T) {
	e := newTestEngine(t)
	r := ended(t, e, Config{})
	if _, err := e.Exec(t.Context(), r.Name, Exec{Args: []string{"true"}}, Attach{}); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), r.ID) {
		t.Errorf("got %v", err)
	}
	if _, err := e.Exec(t.Context(), "nope", Exec{Args: []string{"true"}}, Attach{}); !errors.Is(err, ErrNoContainer) {
		t.Errorf("got %v", err)
	}
}

// A container whose VM has just gone is one that does not run, whatever its record says yet.
func TestExecEnding(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	if _, err := r.State.VM.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Exec(t.Context(), r.ID, Exec{Args: []string{"true"}}, Attach{}); !errors.Is(err, ErrNotRunning) && !errors.Is(err, ErrNoContainer) {
		t.Errorf("got %v", err)
	}
}

// A command ends with its container.
func TestExecContainerEnds(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	out := writerFunc(func(p []byte) (int, error) {
		_, err := r.State.VM.Kill(unix.SIGKILL)
		return len(p), err
	})
	exit, err := e.Exec(t.Context(), r.ID, Exec{Args: []string{"sh", "-c", "echo up; exec sleep 1000"}}, Attach{Stdout: out})
	if err != nil || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// A signal to the command's front end ends that, and not the command.
func TestExecInterrupted(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	signals := make(chan os.Signal, 1)
	out := writerFunc(func(p []byte) (int, error) {
		select {
		case signals <- unix.SIGINT:
		default:
		}
		return len(p), nil
	})
	_, err := e.Exec(t.Context(), r.Name, Exec{Args: []string{"sh", "-c", "echo up; exec sleep 1000"}}, Attach{Stdout: out, Signals: signals})
	if ExitCode(err) != 130 {
		t.Errorf("got %v", err)
	}
}

func TestExecDetachKeys(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	terminal, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	defer theirs.Close()
	keys, err := ParseDetachKeys(DefaultDetachKeys)
	if err != nil {
		t.Fatal(err)
	}
	out := &typeOnWrite{terminal: terminal}
	exit, err := e.Exec(t.Context(), r.Name, Exec{Args: []string{"sh", "-c", "echo up; cat"}, Terminal: true, DetachKeys: keys}, Attach{Stdin: theirs, Stdout: out, Terminal: theirs})
	if err != nil || exit.Code != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// typeOnWrite types the keys to detach, with others before them, when the command has said something.
type typeOnWrite struct {
	terminal *os.File
	typed    bool
}

func (w *typeOnWrite) Write(p []byte) (int, error) {
	if !w.typed {
		w.typed = true
		if _, err := w.terminal.WriteString("a\x10b\x10\x11"); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// tree makes files in a directory: a path that ends in a slash is a directory, "a -> b" a link.
func tree(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		at, target, isLink := strings.Cut(p, " -> ")
		at = filepath.Join(dir, at)
		var err error
		switch {
		case isLink:
			err = os.Symlink(target, at)
		case strings.HasSuffix(p, "/"):
			err = os.MkdirAll(at, 0o755)
		default:
			err = errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(p), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// find lists what is below a directory, files with their contents.
func find(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		switch {
		case d.IsDir():
			name += "/"
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			name += " -> " + target
		default:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name += "=" + string(content)
		}
		list = append(list, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// copyCases are docker's rules for source and destination, the same in both directions.
func copyCases() []struct {
	name     string
	to       []string // at the destination before
	from, at string
	follow   bool
	want     []string // at the destination, besides
	err      string
} {
	return []struct {
		name     string
		to       []string
		from, at string
		follow   bool
		want     []string
		err      string
	}{
		{name: "file to a new name", from: "f", at: "new", want: []string{"new=f"}},
		{name: "file over a file", to: []string{"old"}, from: "f", at: "old", want: []string{"old=f"}},
		{name: "file into a directory", to: []string{"d/"}, from: "f", at: "d", want: []string{"d/", "d/f=f"}},
		{name: "file into a directory with a slash", to: []string{"d/"}, from: "f", at: "d/", want: []string{"d/", "d/f=f"}},
		{name: "file into a directory that is not there", from: "f", at: "d/", err: "no such directory"},
		{name: "file below what is not there", from: "f", at: "no/where", err: "no"},
		{name: "directory to a new name", from: "dir", at: "new", want: []string{"new/", "new/g=dir/g", "new/l -> g"}},
		{name: "directory to a new name with a slash", from: "dir", at: "new/", want: []string{"new/", "new/g=dir/g", "new/l -> g"}},
		{name: "directory into a directory", to: []string{"d/"}, from: "dir", at: "d", want: []string{"d/", "d/dir/", "d/dir/g=dir/g", "d/dir/l -> g"}},
		{name: "contents into a directory", to: []string{"d/"}, from: "dir/.", at: "d", want: []string{"d/", "d/g=dir/g", "d/l -> g"}},
		{name: "contents to a new name", from: "dir/.", at: "new", want: []string{"new/", "new/g=dir/g", "new/l -> g"}},
		{name: "directory over a file", to: []string{"old"}, from: "dir", at: "old", err: "cannot copy directory", want: []string{"old=old"}},
		{name: "merged", to: []string{"d/dir/mine"}, from: "dir", at: "d", want: []string{"d/", "d/dir/", "d/dir/g=dir/g", "d/dir/l -> g", "d/dir/mine=d/dir/mine"}},
		{name: "directory in the way of a file", to: []string{"d/f/"}, from: "f", at: "d", err: "cannot overwrite directory with non-directory", want: []string{"d/", "d/f/"}},
		{name: "file in the way of a directory", to: []string{"d/dir"}, from: "dir", at: "d", err: "cannot overwrite non-directory with directory", want: []string{"d/", "d/dir=d/dir"}},
		{name: "link as it is", from: "link", at: "new", want: []string{"new -> f"}},
		{name: "link followed", from: "link", follow: true, at: "new", want: []string{"new=f"}},
		{name: "link followed into a directory", to: []string{"d/"}, from: "link", follow: true, at: "d", want: []string{"d/", "d/link=f"}},
		{name: "link to a directory followed", from: "dirlink", follow: true, at: "new", want: []string{"new/", "new/g=dir/g", "new/l -> g"}},
		{name: "link with a slash", to: []string{"d/"}, from: "dirlink/", at: "d", want: []string{"d/", "d/dirlink/", "d/dirlink/g=dir/g", "d/dirlink/l -> g"}},
		{name: "to a link to a directory", to: []string{"d/", "to -> d"}, from: "f", at: "to", want: []string{"d/", "d/f=f", "to -> d"}},
		{name: "to a link to a file", to: []string{"old", "to -> old"}, from: "f", at: "to", want: []string{"old=f", "to -> old"}},
		{name: "to a link to nothing", to: []string{"to -> new"}, from: "f", at: "to", want: []string{"new=f", "to -> new"}},
		{name: "to a file with a slash", to: []string{"old"}, from: "f", at: "old/", err: "director", want: []string{"old=old"}},
		{name: "nothing", from: "nope", at: "new", err: "no"},
		{name: "file with a slash", from: "f/", at: "new", err: "f/"},
	}
}

func sourceTree() []string {
	return []string{"f", "dir/g", "dir/l -> g", "link -> f", "dirlink -> dir"}
}

func TestCopy(t *testing.T) {
	e := newTestEngine(t)
	guest := t.TempDir()
	r := running(t, e, Config{Append: "files=" + guest})
	for i, c := range copyCases() {
		t.Run(c.name, func(t *testing.T) {
			host, box := t.TempDir(), fmt.Sprintf("%d", i)
			in := filepath.Join(guest, box)
			check := func(where, at string, err error) {
				t.Helper()
				if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("%s: %v, want %q", where, err, c.err)
				}
				if got := find(t, at); !slices.Equal(got, c.want) && !(len(got) == 0 && len(c.want) == 0) {
					t.Errorf("%s: there is %q, want %q", where, got, c.want)
				}
			}
			o := CopyOptions{FollowLinks: c.follow}
			tree(t, filepath.Join(in, "from"), sourceTree()...)
			tree(t, host, c.to...)
			n, err := e.CopyFrom(t.Context(), r.Name, box+"/from/"+c.from, host+"/"+c.at, o)
			check("from the container", host, err)
			if c.err == "" && n == 0 {
				t.Error("nothing was counted")
			}
			tree(t, filepath.Join(host+"2", "from"), sourceTree()...)
			defer os.RemoveAll(host + "2")
			tree(t, filepath.Join(in, "to"), append([]string{"./"}, c.to...)...)
			_, err = e.CopyTo(t.Context(), r.Name, host+"2/from/"+c.from, "/"+box+"/to/"+c.at, o)
			check("to the container", filepath.Join(in, "to"), err)
		})
	}
}

// Archives go through as they are.
func TestCopyTar(t *testing.T) {
	e := newTestEngine(t)
	guest := t.TempDir()
	r := running(t, e, Config{Append: "files=" + guest})
	tree(t, guest, "d/f", "to/", "file")
	var out bytes.Buffer
	if err := e.CopyFromTar(t.Context(), r.Name, "/d", &out, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(bytes.NewReader(out.Bytes()))
	var names []string
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if !slices.Equal(names, []string{"d/", "d/f"}) {
		t.Errorf("the archive has %q", names)
	}
	if err := e.CopyToTar(t.Context(), r.Name, bytes.NewReader(out.Bytes()), "/to"); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(guest + "/to/d/f"); err != nil || string(got) != "d/f" {
		t.Errorf("unpacked %q, %v", got, err)
	}
	if err := e.CopyToTar(t.Context(), r.Name, &out, "/file"); err == nil || !strings.Contains(err.Error(), "must be a directory") {
		t.Errorf("to a file: %v", err)
	}
	if err := e.CopyToTar(t.Context(), r.Name, strings.NewReader("no tar"), "/to"); err == nil {
		t.Error("what is no archive was taken")
	}
	if err := e.CopyFromTar(t.Context(), r.Name, "/nope", io.Discard, CopyOptions{}); err == nil || !strings.Contains(err.Error(), "could not find the file /nope in container") {
		t.Errorf("nothing: %v", err)
	}
	// A failure of this side is told as that.
	if err := e.CopyFromTar(t.Context(), r.Name, "/d", writerFunc(func([]byte) (int, error) { return 0, errTest }), CopyOptions{}); !errors.Is(err, errTest) {
		t.Errorf("got %v", err)
	}
}

var errTest = errors.New("no room")

// A container that does not run is booted for it, and left as it was.
func TestCopyStopped(t *testing.T) {
	e := newTestEngine(t)
	guest := t.TempDir()
	tree(t, guest, "f")
	r := ended(t, e, Config{Append: "files=" + guest})
	out := t.TempDir()
	if _, err := e.CopyFrom(t.Context(), r.Name, "/f", out+"/f", CopyOptions{}); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(out + "/f"); err != nil || string(got) != "f" {
		t.Errorf("copied %q, %v", got, err)
	}
	now, err := e.Get(t.Context(), r.ID)
	if err != nil || now.State.Status != StatusExited || now.State.VM.PID != 0 {
		t.Errorf("%+v, %v", now, err)
	}
	// Two at once wait for each other.
	errs := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := e.CopyTo(t.Context(), r.Name, out+"/f", fmt.Sprintf("/copy%d", i), CopyOptions{})
			errs <- err
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Error(err)
	}
	if got := find(t, guest); !slices.Equal(got, []string{"copy0=f", "copy1=f", "f=f"}) {
		t.Errorf("in the container there is %q", got)
	}
	if err := e.Remove(t.Context(), r.ID, false); err != nil {
		t.Error(err)
	}
	mustBeEmpty(t, e)
}

// When the VM of a container that is looked into cannot be had, the container is left alone.
func TestServeFails(t *testing.T) {
	e := newTestEngine(t)
	for _, behave := range []string{"error", "crash", "panic", "old"} {
		r := ended(t, e, Config{})
		r.Config.Append = "fake=" + behave
		if err := r.write(e.store.dir(r.ID)); err != nil {
			t.Fatal(err)
		}
		if err := e.Diff(t.Context(), r.ID, func(FileChange) error { return nil }); err == nil || !strings.Contains(err.Error(), "booting the container's VM") {
			t.Errorf("%s: %v", behave, err)
		}
		if err := e.Remove(t.Context(), r.ID, false); err != nil {
			t.Errorf("%s: %v", behave, err)
		}
	}
	mustBeEmpty(t, e)
}

// What cannot be kept is not taken.
func TestCopyRefused(t *testing.T) {
	e := newTestEngine(t)
	file := filepath.Join(t.TempDir(), "f")
	tree(t, filepath.Dir(file), "f")
	for want, c := range map[string]Config{"marked read-only": {ReadOnly: true}, "in memory": {TmpfsRoot: true}} {
		r := ended(t, e, c)
		if _, err := e.CopyTo(t.Context(), r.ID, file, "/f", CopyOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		c.Mounts = []Mount{{Target: "/data/"}}
		for path, above := range map[string]bool{"/data": true, "data/x": true, "/data/../x": false, "/database": false} {
			if c.mountedAbove(path) != above {
				t.Errorf("%s is in what is mounted: want %v", path, above)
			}
		}
	}
}

func TestOldAgent(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{Append: "fake=old"})
	_, exec := e.Exec(t.Context(), r.ID, Exec{Args: []string{"true"}}, Attach{})
	_, processes := e.Processes(t.Context(), r.ID)
	_, meter := e.Meter(t.Context(), r)
	for _, err := range []error{exec, processes, meter, e.Export(t.Context(), r.ID, io.Discard)} {
		if !errors.Is(err, errOldAgent) {
			t.Errorf("got %v", err)
		}
	}
}

func TestDiff(t *testing.T) {
	e := newTestEngine(t)
	collect := func(c Config) ([]FileChange, error) {
		r := running(t, e, c)
		var got []FileChange
		err := e.Diff(t.Context(), r.ID, func(c FileChange) error {
			got = append(got, c)
			return nil
		})
		return got, err
	}
	dir := t.TempDir()
	if got, err := collect(Config{Append: "files=" + dir}); err != nil || !slices.Equal(got, []FileChange{{"A", "/new"}, {"D", "/old"}}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := collect(Config{Append: "fake=garbage files=" + dir}); err == nil || len(got) != 0 {
		t.Errorf("garbage: %v, %v", got, err)
	}
}

func TestMeter(t *testing.T) {
	e := newTestEngine(t)
	r := running(t, e, Config{})
	m, err := e.Meter(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := m.Read(t.Context())
	if err != nil || s.Guest.Memory != 5 {
		t.Errorf("%+v, %v", s, err)
	}
	list, err := e.Processes(t.Context(), r.ID)
	if err != nil || len(list.List) != 1 || list.List[0].PID != 7 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestCommitConfig(t *testing.T) {
	image := v1.Config{Env: []string{"A=1", "B=1"}, Cmd: []string{"cmd"}, Entrypoint: []string{"entry"}, User: "u", WorkingDir: "/w"}
	c := commitConfig(&Record{Config: Config{Env: []string{"B=2", "C=3", "A"}, Args: []string{"x"}, User: "v", Labels: map[string]string{"k": "v"}}}, image)
	if !slices.Equal(c.Env, []string{"B=2", "C=3"}) || !slices.Equal(c.Cmd, []string{"x"}) || !slices.Equal(c.Entrypoint, []string{"entry"}) || c.User != "v" || c.WorkingDir != "/w" || c.Labels["k"] != "v" {
		t.Errorf("%+v", c)
	}
	c = commitConfig(&Record{Config: Config{Entrypoint: []string{""}}}, image)
	if c.Entrypoint != nil || c.Cmd != nil {
		t.Errorf("without an entrypoint: %+v", c)
	}
	if !slices.Equal(image.Env, []string{"A=1", "B=1"}) {
		t.Errorf("the image's environment became %q", image.Env)
	}
}

func FuzzReadChanges(f *testing.F) {
	frame := func(v any) []byte {
		var b bytes.Buffer
		if err := proto.WriteFrame(&b, v); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(frame(proto.Change{Kind: "A", Path: "/x"}))
	f.Add(append(frame(proto.Change{Kind: "D", Path: "/x"}), frame(proto.Change{Kind: "C", Path: "y"})...))
	f.Add(frame(proto.Change{Kind: "A", Path: "/" + strings.Repeat("x", 5000)}))
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = readChanges(bytes.NewReader(raw), func(c FileChange) error {
			if !strings.HasPrefix(c.Path, "/") || len(c.Path) > maxChangedPath || !slices.Contains([]string{"A", "C", "D"}, c.Kind) {
				t.Errorf("took %q", c)
			}
			return nil
		})
	})
}
