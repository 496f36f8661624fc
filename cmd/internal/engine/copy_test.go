package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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
