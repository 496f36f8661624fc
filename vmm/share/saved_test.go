package share

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// saved is what another process's share goes on with.
func (g guest) saved() []byte {
	g.t.Helper()
	p, err := g.Save()
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

func (g guest) appendTo(fh uint64, data string) fuse.Status {
	_, s := g.Writev(nil, &fuse.WriteIn{Fh: fh, Flags: unix.O_APPEND, Size: uint32(len(data))}, [][]byte{[]byte(data)})
	return s
}

// names reads a directory from an offset, room bytes at most, and returns what comes, and where to go on.
func (g guest) names(fh, off uint64, most int) (names []string, next uint64, s fuse.Status) {
	next = off
	s = g.list(&fuse.ReadIn{Fh: fh, Offset: off, Size: 4096}, func(_ *node, e fuse.DirEntry) bool {
		if len(names) == most {
			return false
		}
		names, next = append(names, e.Name), e.Off
		return true
	})
	return names, next, s
}

// TestRestore: nodes, files and directories that are open go on, with the names that they have by then.
func TestRestore(t *testing.T) {
	dir := tree(t)
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(dir, "sub", fmt.Sprint("many", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	odd := "odd \xff\n"
	if err := os.WriteFile(filepath.Join(dir, "sub", odd), []byte("odd"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := serve(t, dir, Config{})
	file, sub, link := a.lookup(root, "file"), a.lookup(root, "sub"), a.lookup(root, "link")
	a.lookup(root, "file")
	strange := a.lookup(sub, odd)
	log, reader := a.open(file, unix.O_WRONLY|unix.O_APPEND), a.open(file, unix.O_RDONLY)
	if s := a.appendTo(log, " one"); !s.Ok() {
		t.Fatal(s)
	}
	var opened fuse.OpenOut
	if s := a.OpenDir(nil, &fuse.OpenIn{InHeader: header(sub)}, &opened); !s.Ok() {
		t.Fatal(s)
	}
	first, middle, _ := a.names(opened.Fh, 0, 20)
	if err := os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "sub", "file")); err != nil { // behind the guest's back
		t.Fatal(err)
	}

	p := a.saved()
	b := serve(t, dir, Config{})
	if err := b.Restore(p); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if s := b.appendTo(log, " two"); !s.Ok() {
		t.Error(s)
	}
	if got, s := b.read(reader); got != "content one two" {
		t.Errorf("the open file has %q, %v", got, s)
	}
	if s := b.write(reader, 0, "x"); s.Ok() {
		t.Error("a file that was open for reading can be written")
	}
	if got := b.content(file) + b.content(strange); got != "content one twoodd" {
		t.Errorf("the nodes have %q", got)
	}
	h := header(link)
	if got, s := b.Readlink(nil, &h); string(got) != "../outside/secret" {
		t.Errorf("the link is %q, %v", got, s)
	}
	rest, _, s := b.names(opened.Fh, middle, 1000)
	if all := append(first, rest...); len(first) != 20 || len(all) != 52+2+2 || !s.Ok() { // 50, the odd, other, up, file, . and ..
		t.Logf("%q", all)
		if len(all) < 50 {
			t.Errorf("%d and %d names, %v", len(first), len(rest), s)
		}
	}
	if n := b.lookup(root, "sub"); n != sub {
		t.Errorf("the directory is node %d now, and was %d", n, sub)
	}
	if fresh := b.lookup(sub, "other"); fresh <= opened.Fh {
		t.Errorf("number %d was given out before", fresh)
	}
	for _, fh := range []uint64{log, reader} {
		b.Release(nil, &fuse.ReleaseIn{Fh: fh})
	}
	b.ReleaseDir(&fuse.ReleaseIn{Fh: opened.Fh})
	b.Forget(file, 1)
	b.content(file) // it was looked up twice
	b.Forget(file, 1)
	if _, s := b.tryOpen(file, 0); s != fuse.Status(unix.ESTALE) {
		t.Errorf("a forgotten node: %v", s)
	}
}

// TestRestoreWithoutTheFiles: what is not there any more is stale, stays so in the next snapshot, and can be closed.
func TestRestoreWithoutTheFiles(t *testing.T) {
	dir := tree(t)
	a := serve(t, dir, Config{})
	file, sub := a.lookup(root, "file"), a.lookup(root, "sub")
	other := a.lookup(sub, "other")
	fh, last := a.open(file, unix.O_RDWR), a.open(other, unix.O_RDONLY)
	var opened fuse.OpenOut
	if s := a.OpenDir(nil, &fuse.OpenIn{InHeader: header(sub)}, &opened); !s.Ok() {
		t.Fatal(s)
	}
	p := a.saved()
	for _, err := range []error{
		os.Remove(filepath.Join(dir, "file")), os.Mkdir(filepath.Join(dir, "file"), 0o755), // of another kind
		os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "../outside/sub")), os.Symlink("../outside/sub", filepath.Join(dir, "sub")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		b := serve(t, dir, Config{})
		if err := b.Restore(p); err != nil {
			t.Fatal(err)
		}
		for _, id := range []uint64{file, sub, other} {
			if _, s := b.tryOpen(id, 0); s != fuse.Status(unix.ESTALE) {
				t.Errorf("node %d: %v", id, s)
			}
		}
		for _, id := range []uint64{fh, last} {
			if _, s := b.read(id); s != fuse.Status(unix.ESTALE) {
				t.Errorf("file %d: %v", id, s)
			}
		}
		if _, _, s := b.names(opened.Fh, 0, 10); s != fuse.Status(unix.ESTALE) {
			t.Errorf("the directory: %v", s)
		}
		p = b.saved()
		b.Release(nil, &fuse.ReleaseIn{Fh: fh})
		if _, s := b.read(fh); s != fuse.EBADF {
			t.Errorf("a file that was closed: %v", s)
		}
	}
}

// TestWhatCannotBeSaved: what is open and has no name in the share is named.
func TestWhatCannotBeSaved(t *testing.T) {
	for what, lose := range map[string]func(dir string) error{
		"removed": func(dir string) error { return os.Remove(filepath.Join(dir, "file")) },
		"moved out": func(dir string) error {
			return os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "../outside/file"))
		},
		"replaced": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "file")), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		},
	} {
		dir := tree(t)
		g := serve(t, dir, Config{})
		fh := g.open(g.lookup(root, "file"), unix.O_RDONLY)
		if err := lose(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Save(); !errors.Is(err, errNoPath) || !strings.Contains(err.Error(), `/file" open`) {
			t.Errorf("%s: %v", what, err)
		}
		if got, s := g.read(fh); got != "content" {
			t.Errorf("%s: it reads as %q, %v", what, got, s)
		}
		g.Release(nil, &fuse.ReleaseIn{Fh: fh})
		g.saved()
	}
}

// TestRestoreOfASingleFile.
func TestRestoreOfASingleFile(t *testing.T) {
	path := filepath.Join(tree(t), "file")
	a := serve(t, path, Config{})
	file := a.lookup(root, FileName)
	fh := a.open(file, unix.O_RDONLY)
	var opened fuse.OpenOut
	if s := a.OpenDir(nil, &fuse.OpenIn{InHeader: header(root)}, &opened); !s.Ok() {
		t.Fatal(s)
	}
	b := serve(t, path, Config{})
	if err := b.Restore(a.saved()); err != nil {
		t.Fatal(err)
	}
	if got, s := b.read(fh); got != "content" || b.content(file) != got {
		t.Errorf("%q, %v", got, s)
	}
	if names, _, s := b.names(opened.Fh, 1, 10); len(names) != 2 {
		t.Errorf("%q, %v", names, s)
	}
}

// TestRestoreToAReadOnlyShare: nothing is open for writing.
func TestRestoreToAReadOnlyShare(t *testing.T) {
	dir := tree(t)
	a := serve(t, dir, Config{})
	fh := a.open(a.lookup(root, "file"), unix.O_RDWR)
	b := serve(t, dir, Config{ReadOnly: true})
	if err := b.Restore(a.saved()); err != nil {
		t.Fatal(err)
	}
	if _, s := b.read(fh); s != fuse.Status(unix.ESTALE) {
		t.Error(s)
	}
	if s := b.write(fh, 0, "x"); s != fuse.EROFS {
		t.Error(s)
	}
}

// TestHostileStates are refused, and nothing stays behind.
func TestHostileStates(t *testing.T) {
	g := serve(t, tree(t), Config{MaxNodes: 3, MaxFiles: 2})
	node := func(id uint64, path string) savedNode { return savedNode{id, []byte(path), unix.S_IFREG, 1} }
	file := func(id uint64, path string, access int) savedFile {
		return savedFile{ID: id, Path: []byte(path), Access: access}
	}
	for what, s := range map[string]savedTable{
		"no last number":       {},
		"a last number too":    {Last: 1 << 62},
		"the root":             {Last: 9, Nodes: []savedNode{node(1, "file")}},
		"zero":                 {Last: 9, Files: []savedFile{file(0, "file", 0)}},
		"behind the last":      {Last: 9, Nodes: []savedNode{node(10, "file")}},
		"twice":                {Last: 9, Nodes: []savedNode{node(2, "file"), node(2, "link")}},
		"twice, another table": {Last: 9, Nodes: []savedNode{node(2, "file")}, Files: []savedFile{file(2, "file", 0)}},
		"upwards":              {Last: 9, Nodes: []savedNode{node(2, "../outside/secret")}},
		"upwards later":        {Last: 9, Files: []savedFile{file(2, "sub/../../outside/secret", 0)}},
		"absolute":             {Last: 9, Files: []savedFile{file(2, "/etc/passwd", 0)}},
		"empty":                {Last: 9, Nodes: []savedNode{node(2, "")}},
		"with a zero":          {Last: 9, Nodes: []savedNode{node(2, "fi\x00le")}},
		"long":                 {Last: 9, Nodes: []savedNode{node(2, strings.Repeat("x/", 3000)+"x")}},
		"a long name":          {Last: 9, Nodes: []savedNode{node(2, strings.Repeat("x", 300))}},
		"many nodes":           {Last: 9, Nodes: []savedNode{node(2, "file"), node(3, "file"), node(4, "file"), node(5, "file")}},
		"many files":           {Last: 9, Files: []savedFile{file(2, "file", 0), file(3, "file", 0), file(4, "file", 0)}},
		"no access":            {Last: 9, Files: []savedFile{file(2, "file", 3)}},
		"more access":          {Last: 9, Files: []savedFile{file(2, "file", unix.O_TRUNC)}},
		"less access":          {Last: 9, Files: []savedFile{file(2, "file", -1)}},
	} {
		p, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Restore(p); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if err := g.Restore([]byte("{")); err == nil {
		t.Error("half of one was taken")
	}
	if len(g.nodes)+len(g.handles) > 0 {
		t.Error("something stays behind")
	}
	// Symbolic links are not followed, at the end or before it.
	p, err := json.Marshal(savedTable{Last: 9, Files: []savedFile{file(2, "link", 0), file(3, "dirlink/secret", 0)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Restore(p); err != nil {
		t.Fatal(err)
	}
	for _, fh := range []uint64{2, 3} {
		if got, s := g.read(fh); s != fuse.Status(unix.ESTALE) {
			t.Errorf("%q, %v", got, s)
		}
	}
}

// FuzzRestore: whatever was saved, nobody gets out of the share.
func FuzzRestore(f *testing.F) {
	dir := tree(f)
	g := serve(f, dir, Config{})
	file, sub := g.lookup(root, "file"), g.lookup(root, "sub")
	g.lookup(sub, "up")
	g.open(file, unix.O_RDWR)
	var opened fuse.OpenOut
	g.OpenDir(nil, &fuse.OpenIn{InHeader: header(sub)}, &opened)
	f.Add(g.saved())
	f.Add([]byte(`{"last":9,"nodes":[{"id":2,"path":"bGluaw==","kind":40960,"lookups":0}],"files":[{"id":3,"path":"ZmlsZQ==","access":2},{"id":4,"dir":true,"node":2},{"id":5,"gone":true}]}`))
	f.Add([]byte(`{"last":4,"nodes":[{"id":2,"path":"Li4=","kind":16384,"lookups":1}]}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		g := serve(t, dir, Config{MaxNodes: 8, MaxFiles: 8})
		if g.Restore(p) != nil {
			return
		}
		inside, err := g.readlink(g.base)
		if err != nil {
			t.Fatal(err)
		}
		check := func(fd int) {
			if path, err := g.readlink(fd); fd >= 0 && (err != nil || path != inside && !strings.HasPrefix(path, inside+"/")) {
				t.Errorf("%q is open, %v", path, err)
			}
		}
		for _, n := range g.nodes {
			check(n.fd)
		}
		for _, h := range g.handles {
			check(h.fd)
		}
		again, err := g.Save()
		if err != nil {
			t.Fatal(err)
		}
		b := serve(t, dir, Config{MaxNodes: 8, MaxFiles: 8})
		if err := b.Restore(again); err != nil {
			t.Fatalf("%s became %s: %v", p, again, err)
		}
	})
}
