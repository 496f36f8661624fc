package layerdisk

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mountable skips a test that needs what only root has.
func mountable(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("no loop devices on this host")
	}
	if _, err := exec.LookPath("mount"); err != nil {
		t.Skip("mount(8) is not installed")
	}
}

// mountDisk mounts a disk image read-only for the time of the test.
func mountDisk(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	mount(t, "-t", "ext4", "-o", "loop,ro", file, dir)
	return dir
}

func mount(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Fatalf("mount %v: %v\n%s", args, err, out)
	}
	dir := args[len(args)-1]
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v\n%s", dir, err, out)
		}
	})
}

// tree describes all files below a directory: type, mode, owner, time, device,
// number of links, extended attributes and contents.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil || rel == "." {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		s := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" links %d %q", st.Nlink, b)
		case syscall.S_IFLNK:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			s += " -> " + target
		case syscall.S_IFCHR, syscall.S_IFBLK:
			s += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		out[rel] = s + xattrsOf(t, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func xattrsOf(t *testing.T, name string) string {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(name, buf)
	if err != nil {
		t.Fatalf("list extended attributes of %s: %v", name, err)
	}
	var s string
	for _, attr := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if attr == "" || strings.HasPrefix(attr, overlayXattrs) {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			t.Errorf("extended attribute %s of %s: %v", attr, name, err)
			continue
		}
		s += fmt.Sprintf(" %s=%q", attr, value[:n])
	}
	return s
}

// TestKernelReadsIt mounts an image with all kinds of attributes: the kernel
// must see in it what was in the archive.
func TestKernelReadsIt(t *testing.T) {
	mountable(t)
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
	long := strings.Repeat("v", 200)
	name, _, err := write(t, archive(t,
		dir("d").perm(0o1777).owner(7, 8), file("d/f", "contents").perm(0o6755).owner(70000, 80000), link("d/g", "d/f"),
		file("acl", "").perm(0o644).xattr(aclAccess, acl),
		file("many", "").xattr("security.b", long).xattr("user.aaaaaaaaaa", long).xattr("trusted.c", long).xattr("user.z", long).xattr("trusted.dddd", "1"),
		symlinkTo("s", "d/f"), symlinkTo("l", strings.Repeat("y", 100)), device("null", tar.TypeChar, 1, 3), device("big", tar.TypeBlock, 259, 70000), device("p", tar.TypeFifo, 0, 0),
		file("large", strings.Repeat("0123456789abcdef", 1<<16)),
	))
	if err != nil {
		t.Fatal(err)
	}
	got := tree(t, mountDisk(t, name))
	for name, want := range map[string]string{
		"d": "41777 7:8 1700000000.000000000", "d/f": `106755 70000:80000 1700000000.000000000 links 2 "contents"`, "d/g": `106755 70000:80000 1700000000.000000000 links 2 "contents"`,
		"acl":  fmt.Sprintf(`100644 0:0 1700000000.000000000 links 1 "" %s=%q`, aclAccess, acl),
		"s":    "120777 0:0 1700000000.000000000 -> d/f",
		"l":    "120777 0:0 1700000000.000000000 -> " + strings.Repeat("y", 100),
		"null": "20600 0:0 1700000000.000000000 1:3", "big": "60600 0:0 1700000000.000000000 259:70000", "p": "10600 0:0 1700000000.000000000",
	} {
		if got[name] != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], want)
		}
	}
	for _, attr := range []string{"security.b", "user.aaaaaaaaaa", "trusted.c", "user.z"} {
		if !strings.Contains(got["many"], fmt.Sprintf(" %s=%q", attr, long)) {
			t.Errorf("many has no %s: %s", attr, got["many"])
		}
	}
	if len(got) != 11 {
		t.Errorf("%d files", len(got))
	}
}

// TestOverlay stacks a five-layer image with overlayfs, the way the guest does,
// and compares all of it with what umoci unpacks.
func TestOverlay(t *testing.T) {
	mountable(t)
	var stack [][]entry
	stack = append(stack,
		[]entry{ // 0
			dir("bin"), file("bin/sh", "#!").perm(0o755), dir("etc").perm(0o750).owner(3, 4), file("etc/passwd", "root"), file("etc/group", "x"), dir("etc/conf.d"), file("etc/conf.d/a", "a"), file("etc/conf.d/b", "b"),
			dir("var"), dir("var/cache"), file("var/cache/1", "1"), file("var/cache/2", "2"), dir("var/cache/sub"), file("var/cache/sub/3", "3"), dir("opt"), dir("opt/a"), file("opt/a/x", "x"), file("file", "a file"), symlinkTo("link", "etc"),
		},
		[]entry{ // 1: deletes, replaces
			dir("etc").perm(0o755).owner(3, 4), file("etc/.wh.passwd", ""), file("etc/group", "y"), dir("var"), dir("var/cache"), file("var/cache/.wh..wh..opq", ""), file("var/cache/new", "n"),
			file(".wh.file", ""), file(".wh.link", ""), dir("link"), file("link/in", "1"), dir("usr"), dir("usr/new"), file("usr/new/.wh.nothing", ""), file("usr/new/f", "1"),
		},
		[]entry{ // 2: comes back, kind changes
			dir("etc"), file("etc/passwd", "again"), dir("opt"), file("opt/.wh.a", ""), dir("file"), file("file/f", "now a directory"), dir("var"), dir("var/cache"), file("var/cache/.wh.new", ""),
		},
		[]entry{ // 3: without parents, a directory again
			file("etc/conf.d/c", "c"), file("opt/a/y", "y"), file("usr/bin/tool", "t").perm(0o4711), file("etc/conf.d/.wh.a", ""),
		},
		[]entry{ // 4: opaque with contents, and the parent replaced
			dir("etc"), dir("etc/conf.d"), file("etc/conf.d/.wh..wh..opq", ""), file("etc/conf.d/d", "d"), file("link", "a file again"), file(".wh.bin", ""), dir("bin"), file("bin/ls", "ls"),
		},
	)
	var layers [][]byte
	var lower []string
	for i, entries := range stack {
		layers = append(layers, archive(t, entries...))
		file, r, err := write(t, layers...)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("layer %d: in context %v", i, r.InContext())
		checkDisk(t, file)
		lower = append([]string{mountDisk(t, file)}, lower...)
	}
	got := overlay(t, lower)
	compareTrees(t, umociUnpack(t, layers), got)

	// The same with all of it in one image, because the last layer links to the first.
	layers = append(layers, archive(t, link("linked", "etc/group")))
	file, r, err := write(t, layers...)
	if err != nil || !r.Flat() {
		t.Fatalf("flat %v, %v", r != nil && r.Flat(), err)
	}
	checkDisk(t, file)
	compareTrees(t, umociUnpack(t, layers), tree(t, mountDisk(t, file)))
}

// overlay mounts directories over each other, the first on top, and describes the result.
func overlay(t *testing.T, lower []string) map[string]string {
	t.Helper()
	work := t.TempDir()
	// The upper directory of an overlay cannot be on another one.
	mount(t, "-t", "tmpfs", "tmpfs", work)
	for _, name := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(work, "merged")
	mount(t, "-t", "overlay", "-o", "lowerdir="+strings.Join(lower, ":")+",upperdir="+work+"/upper,workdir="+work+"/work", "overlay", merged)
	return tree(t, merged)
}

func compareTrees(t *testing.T, want, got map[string]string) {
	t.Helper()
	// umoci leaves the time of unpacking on directories that it made, or put something in, without the archive saying so.
	for name, s := range want {
		mode, rest, _ := strings.Cut(s, " ")
		owner, stamp, _ := strings.Cut(rest, " ")
		seconds, _, _ := strings.Cut(stamp, ".")
		n, err := strconv.ParseInt(seconds, 10, 64)
		if err == nil && strings.HasPrefix(mode, "4") && time.Since(time.Unix(n, 0)) < time.Hour && strings.HasPrefix(got[name], mode+" "+owner+" ") {
			want[name] = got[name]
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-umoci +hull)\n%s", d)
	}
}

// umociUnpack unpacks layers with umoci's raw unpack on an OCI layout written for it.
func umociUnpack(t *testing.T, layers [][]byte) map[string]string {
	t.Helper()
	umoci, err := exec.LookPath("umoci")
	if err != nil {
		t.Skip("umoci is not installed")
	}
	layout := filepath.Join(t.TempDir(), "layout")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(umoci, args...).CombinedOutput(); err != nil {
			t.Fatalf("umoci %v: %v\n%s", args, err, out)
		}
	}
	run("init", "--layout", layout)
	run("new", "--image", layout+":x")
	for i, b := range layers {
		name := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.WriteFile(name, bytes.Clone(b), 0o600); err != nil {
			t.Fatal(err)
		}
		run("raw", "add-layer", "--image", layout+":x", name)
	}
	root := filepath.Join(t.TempDir(), "root")
	run("raw", "unpack", "--image", layout+":x", root)
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		t.Fatal("umoci unpacked nothing")
	}
	return tree(t, root)
}
