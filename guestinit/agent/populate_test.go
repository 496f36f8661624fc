package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// imageTree makes a tree with files of all kinds, in the directory etc of an image.
func imageTree(t *testing.T, image string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(image, "etc", name) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(at("sub/closed"), 0o755))
	check(os.WriteFile(at("sub/closed/file"), []byte("content"), 0o600))
	check(os.WriteFile(at("program"), []byte("#!"), 0o755))
	check(os.Symlink("/etc/passwd", at("out")))
	check(os.Symlink("etc", filepath.Join(image, "link")))
	check(os.Symlink("/../../..", filepath.Join(image, "up")))
	check(unix.Mkfifo(at("fifo"), 0o640))
	check(os.Chmod(at("sub/closed"), 0o500))
	old := time.Unix(1_000_000_000, 5)
	check(os.Chtimes(at("program"), old, old))
	check(os.Chtimes(at("sub"), old, old))
	if os.Geteuid() == 0 {
		check(os.Lchown(at("program"), 1234, 5678))
		check(os.Lchown(at("out"), 1234, 5678))
		check(os.Chmod(at("program"), 0o755|os.ModeSetuid))
	}
	check(os.Chmod(filepath.Join(image, "etc"), 0o711))
	t.Cleanup(func() { _ = os.Chmod(at("sub/closed"), 0o700) })
}

// like tells in what a copy is not like what it is of.
func like(t *testing.T, a, b string) {
	t.Helper()
	err := filepath.WalkDir(a, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(a, path)
		var x, y unix.Stat_t
		if err := unix.Lstat(path, &x); err != nil {
			return err
		}
		if err := unix.Lstat(filepath.Join(b, rel), &y); err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		if x.Mode != y.Mode || x.Uid != y.Uid || x.Gid != y.Gid || x.Mtim != y.Mtim || !d.IsDir() && x.Size != y.Size {
			t.Errorf("%s: mode %o, owner %d:%d, time %v, size %d; want %o, %d:%d, %v, %d", rel, y.Mode, y.Uid, y.Gid, y.Mtim, y.Size, x.Mode, x.Uid, x.Gid, x.Mtim, x.Size)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPopulate(t *testing.T) {
	image := t.TempDir()
	imageTree(t, image)
	for _, path := range []string{"/etc", "etc/../etc/", "/link", "/up/etc"} {
		volume := t.TempDir()
		if err := populate(image, path, volume); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		like(t, filepath.Join(image, "etc"), volume)
		if got, err := os.ReadFile(filepath.Join(volume, "sub/closed/file")); string(got) != "content" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(volume, "sub/closed"), 0o700) })
	}
	// Whatever an end in between has left is made good.
	for name, before := range map[string]func(volume string) error{
		"while copying": func(volume string) error {
			return errors.Join(os.MkdirAll(filepath.Join(volume, filling, "sub"), 0o755), os.WriteFile(filepath.Join(volume, filling, "program"), []byte("hal"), 0o600))
		},
		"while moving": func(volume string) error {
			err := populate(image, "/etc", volume)
			return errors.Join(err, os.Mkdir(filepath.Join(volume, filled), 0o700), os.Rename(filepath.Join(volume, "sub"), filepath.Join(volume, filled, "sub")))
		},
	} {
		volume := t.TempDir()
		if err := before(volume); err != nil {
			t.Fatal(err)
		}
		if err := populate(image, "/etc", volume); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		entries, err := os.ReadDir(volume)
		if err != nil || len(entries) != 4 {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
		like(t, filepath.Join(image, "etc"), volume)
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(volume, "sub/closed"), 0o700) })
	}
	// Nothing happens to one that has something, nor where the image has nothing.
	volume := t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := populate(image, "/etc", volume); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(volume); len(entries) != 1 {
		t.Errorf("a volume with something in it was filled: %v", entries)
	}
	empty := t.TempDir()
	for _, path := range []string{"/none", "/etc/program", "/etc/program/x", "/up/nothing/here"} {
		if err := populate(image, path, empty); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if entries, _ := os.ReadDir(empty); len(entries) != 0 {
		t.Errorf("filled from nothing: %v", entries)
	}
}

// Volumes, shared or on a disk, are filled on first use, before the container runs; others are not.
func TestVolumes(t *testing.T) {
	g := newGuest(t, func(dir string) { imageTree(t, filepath.Join(dir, "made")) })
	for _, name := range []string{"one", "two", "vdx", "vdy"} {
		if err := os.Mkdir(filepath.Join(g.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	spec := testSpec("/bin/sh", "-c", "cd /made; for d in etc copied; do ls -A $d; done; ls -A /db; echo new >/db/new; ls -A /ro; touch /ro/x 2>/dev/null || echo refused")
	spec.Mounts = append(spec.Mounts, bind("/made/etc"), bind("/made/copied"), bind("/db"), bind("/ro"))
	if err := os.Mkdir(filepath.Join(g.dir, "vdy/data"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := g.run(&proto.Start{
		Spec:    spec,
		Shares:  []proto.Share{{Tag: "one", Destination: "/made/etc", Copy: true}, {Tag: "two", Destination: "/made/copied"}},
		Volumes: []proto.Volume{{Disk: "vdx", Destination: "/db", Copy: true}, {Disk: "vdy", Destination: "/ro", ReadOnly: true}},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	if want := "fifo\nout\nprogram\nsub\nrefused\n"; r.stdout != want || r.exit.Code() != 0 {
		t.Errorf("%q, stderr %q, status %d; want %q", r.stdout, r.stderr, r.exit.Code(), want)
	}
	if got, err := os.ReadFile(filepath.Join(g.dir, "vdx/data/new")); string(got) != "new\n" {
		t.Errorf("on the volume's disk: %q, %v", got, err)
	}
	_, err = newGuest(t, nil).run(&proto.Start{Spec: testSpec("/bin/true"), Volumes: []proto.Volume{{Disk: "vdx", Destination: "/nowhere"}}}, "")
	wantCode(t, "no mount", err, proto.CodeInvalid)
	failing := testSpec("/bin/true")
	failing.Mounts = append(failing.Mounts, bind("/db"))
	_, err = newGuest(t, nil).run(&proto.Start{Spec: failing, Volumes: []proto.Volume{{Disk: "missing", Destination: "/db"}}}, "")
	if err == nil || !strings.Contains(err.Error(), "mounting the volume at /db") {
		t.Errorf("a disk that is not there: %v", err)
	}
}
