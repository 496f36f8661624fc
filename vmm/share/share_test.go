package share

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree makes a directory to share, with a few things in it, and one beside it that must stay as it is.
func tree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shared")
	for _, d := range []string{dir, dir + "/sub", dir + "/../outside"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"file": "content", "sub/other": "other", "../outside/secret": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "../outside/secret", "dirlink": "../outside", "sub/up": ".."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// guest is a share as its guest sees it.
type guest struct {
	*FileSystem
	t testing.TB
}

// serve shares a path by a descriptor opened with O_PATH, which is the least there can be.
func serve(t testing.TB, path string, cfg Config) guest {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cfg.File = f
	if cfg.MaxNodes == 0 {
		cfg.MaxNodes, cfg.MaxFiles = 1000, 100
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return guest{s, t}
}

const root = fuse.FUSE_ROOT_ID

func header(node uint64) fuse.InHeader { return fuse.InHeader{NodeId: node} }

// lookup returns a node, or 0 with a status.
func (g guest) tryLookup(dir uint64, name string) (uint64, fuse.Status) {
	h := header(dir)
	var out fuse.EntryOut
	s := g.Lookup(nil, &h, name, &out)
	return out.NodeId, s
}

func (g guest) lookup(dir uint64, name string) uint64 {
	g.t.Helper()
	id, s := g.tryLookup(dir, name)
	if !s.Ok() {
		g.t.Fatalf("lookup of %q in %d: %v", name, dir, s)
	}
	return id
}

func (g guest) tryOpen(node uint64, flags uint32) (uint64, fuse.Status) {
	var out fuse.OpenOut
	s := g.Open(nil, &fuse.OpenIn{InHeader: header(node), Flags: flags}, &out)
	return out.Fh, s
}

func (g guest) open(node uint64, flags uint32) uint64 {
	g.t.Helper()
	fh, s := g.tryOpen(node, flags)
	if !s.Ok() {
		g.t.Fatalf("open node %d: %v", node, s)
	}
	return fh
}

func (g guest) read(fh uint64) (string, fuse.Status) {
	r, s := g.Read(nil, &fuse.ReadIn{Fh: fh, Size: 1000}, nil)
	if !s.Ok() {
		return "", s
	}
	defer r.Done()
	b, s := r.Bytes(make([]byte, 1000))
	return string(b), s
}

// content opens and reads.
func (g guest) content(node uint64) string {
	g.t.Helper()
	fh := g.open(node, unix.O_RDONLY)
	defer g.Release(nil, &fuse.ReleaseIn{Fh: fh})
	b, s := g.read(fh)
	if !s.Ok() {
		g.t.Fatal(s)
	}
	return b
}

func (g guest) want(what string, got, want fuse.Status) {
	g.t.Helper()
	if got != want {
		g.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func onHost(t testing.TB, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); string(got) != want || err != nil {
		t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func TestNames(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	for name, want := range map[string]fuse.Status{
		"": fuse.EINVAL, ".": fuse.EINVAL, "..": fuse.EINVAL, "/": fuse.EINVAL, "a/b": fuse.EINVAL, "../outside": fuse.EINVAL,
		"sub/../../outside": fuse.EINVAL, "a\x00b": fuse.EINVAL, strings.Repeat("x", 256): fuse.Status(unix.ENAMETOOLONG),
		strings.Repeat("x", 255): fuse.ENOENT, "nothing": fuse.ENOENT, "...": fuse.ENOENT,
	} {
		_, s := g.tryLookup(root, name)
		g.want("lookup of "+name, s, want)
		if want == fuse.ENOENT {
			continue
		}
		var entry fuse.EntryOut
		h := header(root)
		g.want("mkdir "+name, g.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o755}, name, &entry), want)
		g.want("mknod "+name, g.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFREG | 0o644}, name, &entry), want)
		g.want("symlink "+name, g.Symlink(nil, &h, "x", name, &entry), want)
		g.want("link "+name, g.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: g.lookup(root, "file")}, name, &entry), want)
		g.want("unlink "+name, g.Unlink(nil, &h, name), want)
		g.want("rmdir "+name, g.Rmdir(nil, &h, name), want)
		g.want("rename of "+name, g.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: root}, name, "x"), want)
		g.want("rename to "+name, g.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: root}, "file", name), want)
		var created fuse.CreateOut
		g.want("create "+name, g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR}, name, &created), want)
	}
	// What is no directory has nothing in it.
	for _, name := range []string{"file", "link", "dirlink"} {
		_, s := g.tryLookup(g.lookup(root, name), "secret")
		g.want("lookup in "+name, s, fuse.ENOTDIR)
	}
	_, s := g.tryLookup(12345, "file")
	g.want("lookup in a node that is not there", s, fuse.Status(unix.ESTALE))
	onHost(t, dir+"/../outside/secret", "secret")
}

// A link is something to read, and nowhere followed.
func TestSymlinks(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	link := g.lookup(root, "link")
	h := header(link)
	if target, s := g.Readlink(nil, &h); string(target) != "../outside/secret" || !s.Ok() {
		t.Errorf("%q, %v", target, s)
	}
	_, s := g.tryOpen(link, unix.O_RDONLY)
	g.want("open", s, fuse.Status(unix.ELOOP))
	var attr fuse.AttrOut
	g.want("truncate", g.SetAttr(nil, setAttr(link, fuse.FATTR_SIZE), &attr), fuse.Status(unix.ELOOP))
	g.want("chmod", g.SetAttr(nil, setAttr(link, fuse.FATTR_MODE), &attr), fuse.ENOTSUP)
	in := setAttr(link, fuse.FATTR_MTIME)
	in.Mtime = 1000
	g.want("utimes", g.SetAttr(nil, in, &attr), fuse.OK)
	if os.Geteuid() == 0 {
		in := setAttr(link, fuse.FATTR_UID|fuse.FATTR_GID)
		in.Uid, in.Gid = 1234, 1234
		g.want("chown", g.SetAttr(nil, in, &attr), fuse.OK)
		if attr.Uid != 1234 || attr.Mtime != 1000 {
			t.Errorf("attributes of the link: %+v", attr.Attr)
		}
	}
	// Created through, over, and hard-linked: the link itself, each time.
	var out fuse.CreateOut
	g.want("create", g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: unix.O_WRONLY | unix.O_TRUNC, Mode: 0o644}, "link", &out), fuse.Status(unix.ELOOP))
	var entry fuse.EntryOut
	g.want("link", g.Link(nil, &fuse.LinkIn{InHeader: header(root), Oldnodeid: link}, "link2", &entry), fuse.OK)
	if target, err := os.Readlink(dir + "/link2"); target != "../outside/secret" {
		t.Error(target, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/../outside/secret", &st); err != nil || st.Uid == 1234 || st.Mtim.Sec == 1000 || st.Nlink != 1 {
		t.Errorf("what the link leads to: %+v, %v", st, err)
	}
	onHost(t, dir+"/../outside/secret", "secret")
}

// setAttr asks for a change of what is in valid, to zero.
func setAttr(node uint64, valid uint32) *fuse.SetAttrIn {
	in := &fuse.SetAttrIn{}
	in.NodeId, in.Valid = node, valid
	return in
}

// Another goroutine swaps a directory for a link that leads out, and a file likewise, while the guest is at work: it
// never gets outside.
func TestSwappedSymlinks(t *testing.T) {
	dir := tree(t)
	for _, d := range []string{"/swap", "/../outside/deep"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	must(os.Symlink("../outside", dir+"/swaplink"))
	must(os.WriteFile(dir+"/swap/secret", []byte("inside"), 0o644))
	must(os.WriteFile(dir+"/plain", []byte("inside"), 0o644))
	must(os.Symlink("../outside/secret", dir+"/plainlink"))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				must(unix.Renameat2(unix.AT_FDCWD, dir+"/swap", unix.AT_FDCWD, dir+"/swaplink", unix.RENAME_EXCHANGE))
				must(unix.Renameat2(unix.AT_FDCWD, dir+"/plain", unix.AT_FDCWD, dir+"/plainlink", unix.RENAME_EXCHANGE))
			}
		}
	}()
	g := serve(t, dir, Config{})
	inside, links := 0, 0
	for i := 0; i < 20000 && (i < 2000 || inside == 0 || links == 0); i++ {
		if id, s := g.tryLookup(root, "swap"); s.Ok() {
			if file, s := g.tryLookup(id, "secret"); s.Ok() {
				inside++
				if got := g.content(file); got != "inside" {
					t.Fatalf("read %q", got)
				}
				g.Forget(file, 1)
			} else {
				links++
			}
			g.Forget(id, 1)
		}
		var out fuse.CreateOut
		if s := g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: unix.O_RDWR, Mode: 0o600}, "plain", &out); s.Ok() {
			if got, s := g.read(out.Fh); got != "inside" || !s.Ok() {
				t.Fatalf("created, and read %q, %v", got, s)
			}
			g.Release(nil, &fuse.ReleaseIn{Fh: out.Fh})
			g.Forget(out.NodeId, 1)
		}
	}
	close(stop)
	<-done
	if inside == 0 || links == 0 {
		t.Errorf("the directory was met %d times, the link %d times: both were to be tried", inside, links)
	}
	onHost(t, dir+"/../outside/secret", "secret")
}

// FIFOs, sockets and devices are looked at, made where that is harmless, and never opened.
func TestSpecialFiles(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	var entry fuse.EntryOut
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK} {
		g.want("mknod "+name, g.Mknod(nil, &fuse.MknodIn{InHeader: header(root), Mode: mode | 0o644}, name, &entry), fuse.OK)
		id := g.lookup(root, name)
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			_, s := g.tryOpen(id, flags)
			g.want("open "+name, s, fuse.Status(unix.ENXIO))
			var out fuse.CreateOut
			g.want("create over "+name, g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: flags, Mode: 0o644}, name, &out), fuse.Status(unix.ENXIO))
		}
		var attr fuse.AttrOut
		g.want("truncate "+name, g.SetAttr(nil, setAttr(id, fuse.FATTR_SIZE), &attr), fuse.Status(unix.ENXIO))
		h := header(id)
		_, s := g.GetXAttr(nil, &h, "user.a", nil)
		g.want("attribute of "+name, s, fuse.ENODATA)
	}
	for _, mode := range []uint32{unix.S_IFCHR | 0o666, unix.S_IFBLK | 0o666, unix.S_IFDIR | 0o755, unix.S_IFLNK | 0o777, 0, unix.S_IFREG | 0o4755, unix.S_IFREG | 0o2755} {
		in := &fuse.MknodIn{InHeader: header(root), Mode: mode, Rdev: 0x103}
		g.want("mknod", g.Mknod(nil, in, "device", &entry), fuse.EPERM)
	}
	// A device node that is there is no way to the device.
	if err := unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); errors.Is(err, unix.EPERM) {
		t.Log("cannot make device nodes here")
	} else if err != nil {
		t.Fatal(err)
	} else {
		_, s := g.tryOpen(g.lookup(root, "null"), unix.O_RDWR)
		g.want("open a device", s, fuse.Status(unix.ENXIO))
	}
	_, s := g.tryOpen(g.lookup(root, "sub"), unix.O_RDONLY)
	g.want("open a directory", s, fuse.EISDIR)
	_, s = g.tryOpen(g.lookup(root, "file"), unix.O_ACCMODE)
	g.want("open for nothing", s, fuse.EINVAL)
}

// Nobody can be made to run a guest's program as somebody else.
func TestSetUserID(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	file := g.lookup(root, "file")
	var attr fuse.AttrOut
	for _, mode := range []uint32{0o4755, 0o2755, 0o6755} {
		in := setAttr(file, fuse.FATTR_MODE)
		in.Mode = mode
		g.want("chmod", g.SetAttr(nil, in, &attr), fuse.EPERM)
		var out fuse.CreateOut
		g.want("create", g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: unix.O_WRONLY, Mode: mode}, "new", &out), fuse.EPERM)
	}
	// On a directory the bit means something else.
	in := setAttr(g.lookup(root, "sub"), fuse.FATTR_MODE)
	in.Mode = 0o2755
	g.want("chmod of a directory", g.SetAttr(nil, in, &attr), fuse.OK)
	// One that is there goes when the guest writes.
	if err := unix.Chmod(dir+"/file", 0o6755); err != nil {
		t.Fatal(err)
	}
	in = setAttr(file, fuse.FATTR_MODE)
	in.Mode = 0o4711
	g.want("chmod that keeps it", g.SetAttr(nil, in, &attr), fuse.OK)
	g.open(file, unix.O_RDONLY)
	if st, err := os.Stat(dir + "/file"); err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Errorf("after a look: %v, %v", st.Mode(), err)
	}
	g.open(file, unix.O_WRONLY)
	if st, err := os.Stat(dir + "/file"); err != nil || st.Mode() != 0o711 {
		t.Errorf("after a write: %v, %v", st.Mode(), err)
	}
}

// Every request that changes something is refused, before anything else is looked at.
func TestReadOnly(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{ReadOnly: true})
	file, sub := g.lookup(root, "file"), g.lookup(root, "sub")
	fh := g.open(file, unix.O_RDONLY)
	h, fileHeader := header(root), header(file)
	var entry fuse.EntryOut
	var created fuse.CreateOut
	var attr fuse.AttrOut
	written, ws := g.Writev(nil, &fuse.WriteIn{Fh: fh, Size: 1}, [][]byte{{1}})
	copied, cs := g.CopyFileRange(nil, &fuse.CopyFileRangeIn{FhIn: fh, FhOut: fh, OffOut: 100, Len: 1})
	for what, s := range map[string]fuse.Status{
		"CREATE":           g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR, Mode: 0o644}, "new", &created),
		"CREATE existing":  g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDONLY}, "file", &created),
		"MKNOD":            g.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFREG}, "new", &entry),
		"MKNOD device":     g.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFCHR}, "new", &entry),
		"MKDIR":            g.Mkdir(nil, &fuse.MkdirIn{InHeader: h}, "new", &entry),
		"SYMLINK":          g.Symlink(nil, &h, "x", "new", &entry),
		"LINK":             g.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: file}, "new", &entry),
		"UNLINK":           g.Unlink(nil, &h, "file"),
		"RMDIR":            g.Rmdir(nil, &h, "sub"),
		"RENAME":           g.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: sub}, "file", "new"),
		"SETATTR size":     g.SetAttr(nil, setAttr(file, fuse.FATTR_SIZE), &attr),
		"SETATTR mode":     g.SetAttr(nil, setAttr(file, fuse.FATTR_MODE), &attr),
		"SETATTR owner":    g.SetAttr(nil, setAttr(file, fuse.FATTR_UID|fuse.FATTR_GID), &attr),
		"SETATTR times":    g.SetAttr(nil, setAttr(file, fuse.FATTR_MTIME|fuse.FATTR_ATIME_NOW), &attr),
		"SETATTR nothing":  g.SetAttr(nil, setAttr(file, 0), &attr),
		"SETXATTR":         g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: fileHeader}, "user.a", nil),
		"REMOVEXATTR":      g.RemoveXAttr(nil, &fileHeader, "user.a"),
		"WRITE":            ws,
		"FALLOCATE":        g.Fallocate(nil, &fuse.FallocateIn{Fh: fh, Length: 1000}),
		"COPY_FILE_RANGE":  cs,
		"OPEN for writing": second(g.tryOpen(file, unix.O_WRONLY)),
		"OPEN for both":    second(g.tryOpen(file, unix.O_RDWR)),
		"OPEN to truncate": second(g.tryOpen(file, unix.O_RDONLY|unix.O_TRUNC)),
		"OPEN to append":   second(g.tryOpen(file, unix.O_WRONLY|unix.O_APPEND)),
	} {
		g.want(what, s, fuse.EROFS)
	}
	if written != 0 || copied != 0 {
		t.Errorf("%d bytes written, %d copied", written, copied)
	}
	if flags, err := unix.FcntlInt(uintptr(g.handles[fh].fd), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
		t.Errorf("flags of the open file: %#x, %v", flags, err)
	}
	// Reading goes on as ever.
	if got := g.content(file); got != "content" {
		t.Errorf("read %q", got)
	}
	onHost(t, dir+"/file", "content")
	if list, err := os.ReadDir(dir); len(list) != 4 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}

func second(_ uint64, s fuse.Status) fuse.Status { return s }

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestLimits(t *testing.T) {
	dir := tree(t)
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(dir, "n"+string(rune('a'+i))), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := openFiles(t)
	g := serve(t, dir, Config{MaxNodes: 10, MaxFiles: 5})
	base := openFiles(t)
	var nodes []uint64
	for i := range 10 {
		nodes = append(nodes, g.lookup(root, "n"+string(rune('a'+i))))
	}
	_, s := g.tryLookup(root, "nz")
	g.want("lookup of nothing", s, fuse.ENOENT)
	_, s = g.tryLookup(root, "nk")
	g.want("one node more", s, fuse.Status(unix.ENFILE))
	if g.lookup(root, "na") != nodes[0] {
		t.Error("a file has two nodes")
	}
	var handles []uint64
	for range 5 {
		handles = append(handles, g.open(nodes[0], unix.O_RDONLY))
	}
	_, s = g.tryOpen(nodes[0], unix.O_RDONLY)
	g.want("one file more", s, fuse.Status(unix.ENFILE))
	var out fuse.OpenOut
	g.want("one directory more", g.OpenDir(nil, &fuse.OpenIn{InHeader: header(root)}, &out), fuse.Status(unix.ENFILE))
	if n := openFiles(t); n != base+15 {
		t.Errorf("%d descriptors more, want 15", n-base)
	}
	// Closing and forgetting make room. What is forgotten too often, or was never known, is no matter.
	g.Release(nil, &fuse.ReleaseIn{Fh: handles[0]})
	g.Release(nil, &fuse.ReleaseIn{Fh: handles[0]})
	g.Release(nil, &fuse.ReleaseIn{Fh: 999})
	handles[0] = g.open(nodes[0], unix.O_RDONLY)
	g.Forget(nodes[0], 1) // was looked up twice
	g.want("once forgotten", g.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(nodes[0])}, &fuse.AttrOut{}), fuse.OK)
	g.Forget(nodes[0], 1<<63)
	g.want("forgotten", g.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(nodes[0])}, &fuse.AttrOut{}), fuse.Status(unix.ESTALE))
	g.Forget(nodes[0], 1)
	g.Forget(999, 1)
	g.Forget(root, 1<<64-1)
	g.want("the root, forgotten", g.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(root)}, &fuse.AttrOut{}), fuse.OK)
	g.lookup(root, "nk")
	if got, s := g.read(handles[0]); got != "" || !s.Ok() {
		t.Errorf("a file whose node is forgotten: %q, %v", got, s)
	}
	g.Reset()
	if n := openFiles(t); n != base {
		t.Errorf("%d descriptors after a reset, %d before", n, base)
	}
	g.lookup(root, "na")
	g.Close()
	if n := openFiles(t); n != before {
		t.Errorf("%d descriptors after the end, %d before", n, before)
	}
}

// A descriptor that a request uses is not closed under it, nor used again for another file.
func TestForgetWhileInUse(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3000 {
			if id, s := g.tryLookup(root, "sub"); s.Ok() {
				g.Forget(id, 1)
			}
			if id, s := g.tryLookup(root, "file"); s.Ok() {
				if fh, s := g.tryOpen(id, unix.O_RDONLY); s.Ok() {
					g.Release(nil, &fuse.ReleaseIn{Fh: fh})
				}
				g.Forget(id, 1)
			}
		}
	}()
	for last := uint64(0); ; {
		select {
		case <-done:
			return
		default:
		}
		g.mu.Lock()
		last = g.last
		g.mu.Unlock()
		for id := last - min(last, 3); id <= last+1; id++ {
			if n, s := g.tryLookup(id, "other"); s.Ok() && id != root {
				if got := g.content(n); got != "other" {
					t.Errorf("read %q", got)
				}
				g.Forget(n, 1)
			}
			if got, s := g.read(id); s.Ok() && got != "content" {
				t.Errorf("read %q", got)
			}
		}
	}
}
