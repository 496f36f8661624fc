package share

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func (g guest) write(fh, off uint64, pieces ...string) fuse.Status {
	var data [][]byte
	size := 0
	for _, p := range pieces {
		data = append(data, []byte(p))
		size += len(p)
	}
	n, s := g.Writev(nil, &fuse.WriteIn{Fh: fh, Offset: off, Size: uint32(size)}, data)
	if s.Ok() && int(n) != size {
		g.t.Errorf("%d bytes written of %d", n, size)
	}
	return s
}

func TestFiles(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	var created fuse.CreateOut
	g.want("create", g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: unix.O_RDWR, Mode: 0o666}, "new", &created), fuse.OK)
	fh, node := created.Fh, created.NodeId
	if created.Attr.Mode != unix.S_IFREG|0o666 { // no umask but the guest's
		t.Errorf("mode %#o", created.Attr.Mode)
	}
	if g.lookup(root, "new") != node {
		t.Error("what was created is another file")
	}
	g.want("write", g.write(fh, 0, "hello ", "", "world"), fuse.OK)
	onHost(t, dir+"/new", "hello world")
	g.want("write at the end of all", g.write(fh, 1<<63-1, "x"), fuse.EINVAL)
	g.want("write beyond", g.write(fh, 1<<63, "x"), fuse.EINVAL)
	g.want("read-only write", g.write(g.open(node, unix.O_RDONLY), 0, "x"), fuse.EBADF)
	if err := os.WriteFile(dir+"/new", []byte("by the host"), 0); err != nil {
		t.Fatal(err)
	}
	if got, s := g.read(fh); got != "by the host" || !s.Ok() {
		t.Errorf("%q, %v", got, s)
	}
	// Appended where the end is now; what comes from a mapping stays in its place.
	log := g.open(node, unix.O_WRONLY|unix.O_APPEND)
	appending := &fuse.WriteIn{Fh: log, Offset: 2, Size: 1, Flags: unix.O_WRONLY | unix.O_APPEND}
	if n, s := g.Writev(nil, appending, [][]byte{[]byte("+")}); n != 1 || !s.Ok() {
		t.Errorf("append: %d, %v", n, s)
	}
	onHost(t, dir+"/new", "by the host+")
	appending.WriteFlags = fuse.WRITE_CACHE
	if n, s := g.Writev(nil, appending, [][]byte{[]byte("-")}); n != 1 || !s.Ok() {
		t.Errorf("write back: %d, %v", n, s)
	}
	onHost(t, dir+"/new", "by-the host+")
	for _, flags := range []uint32{0, 1} {
		g.want("fsync", g.Fsync(nil, &fuse.FsyncIn{Fh: fh, FsyncFlags: flags}), fuse.OK)
	}
	g.want("flush", g.Flush(nil, &fuse.FlushIn{Fh: fh}), fuse.OK)

	// An existing file: opened as it is, truncated if asked for, refused if it is to be new.
	g.want("create existing", g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: unix.O_WRONLY, Mode: 0o644}, "file", &created), fuse.OK)
	onHost(t, dir+"/file", "content")
	g.want("create and truncate", g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: unix.O_WRONLY | unix.O_TRUNC, Mode: 0o644}, "file", &created), fuse.OK)
	onHost(t, dir+"/file", "")
	g.want("create new", g.Create(nil, &fuse.CreateIn{InHeader: header(root), Flags: unix.O_WRONLY | unix.O_EXCL, Mode: 0o644}, "file", &created), fuse.Status(unix.EEXIST))

	// Holes.
	g.want("allocate", g.Fallocate(nil, &fuse.FallocateIn{Fh: fh, Length: 1 << 20}), fuse.OK)
	g.want("punch a hole", g.Fallocate(nil, &fuse.FallocateIn{Fh: fh, Offset: 4096, Length: 1 << 19, Mode: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}), fuse.OK)
	g.want("collapse", g.Fallocate(nil, &fuse.FallocateIn{Fh: fh, Length: 4096, Mode: unix.FALLOC_FL_COLLAPSE_RANGE}), fuse.ENOTSUP)
	g.want("allocate too much", g.Fallocate(nil, &fuse.FallocateIn{Fh: fh, Offset: 1 << 63, Length: 1}), fuse.EINVAL)
	var seek fuse.LseekOut
	g.want("find a hole", g.Lseek(nil, &fuse.LseekIn{Fh: fh, Whence: unix.SEEK_HOLE}, &seek), fuse.OK)
	if seek.Offset > 1<<20 {
		t.Errorf("hole at %d", seek.Offset)
	}
	g.want("seek elsewhere", g.Lseek(nil, &fuse.LseekIn{Fh: fh, Whence: unix.SEEK_END}, &seek), fuse.EINVAL)

	// Copies in one go, with all that the host can do for that.
	other := g.open(g.lookup(g.lookup(root, "sub"), "other"), unix.O_RDONLY)
	n, s := g.CopyFileRange(nil, &fuse.CopyFileRangeIn{FhIn: other, FhOut: fh, OffIn: 1, OffOut: 3, Len: 1 << 62})
	if n != 4 || !s.Ok() {
		t.Errorf("copied %d, %v", n, s)
	}
	if got, _ := g.read(fh); !strings.HasPrefix(got, "by-ther") {
		t.Errorf("read %q", got)
	}
	_, s = g.CopyFileRange(nil, &fuse.CopyFileRangeIn{FhIn: other, FhOut: 999, Len: 1})
	g.want("copy to nothing", s, fuse.EBADF)

	// A handle is of a file, or of a directory.
	var opened fuse.OpenOut
	g.want("open a directory", g.OpenDir(nil, &fuse.OpenIn{InHeader: header(root)}, &opened), fuse.OK)
	_, s = g.read(opened.Fh)
	g.want("read a directory", s, fuse.EBADF)
	g.want("sync a directory", g.FsyncDir(nil, &fuse.FsyncIn{Fh: opened.Fh}), fuse.OK)
	g.want("list a file", g.ReadDir(nil, &fuse.ReadIn{Fh: fh, Size: 1000}, fuse.NewDirEntryList(make([]byte, 1000), 0)), fuse.EBADF)
	g.want("list from nowhere", g.ReadDir(nil, &fuse.ReadIn{Fh: opened.Fh, Size: 1000, Offset: 1 << 63}, fuse.NewDirEntryList(make([]byte, 1000), 0)), fuse.EINVAL)
	g.want("open a file as a directory", g.OpenDir(nil, &fuse.OpenIn{InHeader: header(node)}, &opened), fuse.ENOTDIR)
	var st fuse.StatfsOut
	h := header(root)
	if s := g.StatFs(nil, &h, &st); !s.Ok() || st.Bsize == 0 || st.NameLen == 0 {
		t.Errorf("%+v, %v", st, s)
	}
}

func TestAttributes(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	file := g.lookup(root, "file")
	var out fuse.AttrOut
	in := setAttr(file, fuse.FATTR_MODE|fuse.FATTR_SIZE|fuse.FATTR_ATIME|fuse.FATTR_MTIME)
	in.Mode, in.Size, in.Atime, in.Mtime, in.Mtimensec = 0o640, 3, 111, 222, 5
	g.want("change", g.SetAttr(nil, in, &out), fuse.OK)
	if out.Mode != unix.S_IFREG|0o640 || out.Size != 3 || out.Atime != 111 || out.Mtime != 222 || out.Mtimensec != 5 || out.AttrValid != 0 {
		t.Errorf("%+v", out)
	}
	onHost(t, dir+"/file", "con")
	in = setAttr(file, fuse.FATTR_SIZE|fuse.FATTR_FH)
	in.Fh, in.Size = g.open(file, unix.O_RDWR), 1
	g.want("truncate an open file", g.SetAttr(nil, in, &out), fuse.OK)
	onHost(t, dir+"/file", "c")
	in.Fh = 999
	g.want("truncate what is not open", g.SetAttr(nil, in, &out), fuse.EBADF)
	in = setAttr(file, fuse.FATTR_SIZE)
	in.Size = 1 << 63
	g.want("grow without bounds", g.SetAttr(nil, in, &out), fuse.Status(unix.EFBIG))
	in = setAttr(file, fuse.FATTR_MTIME)
	in.Mtimensec = unix.UTIME_NOW // means something to the host
	g.want("nonsense for a time", g.SetAttr(nil, in, &out), fuse.EINVAL)
	in = setAttr(file, fuse.FATTR_UID)
	in.Uid = 1<<32 - 1
	g.want("nonsense for a user", g.SetAttr(nil, in, &out), fuse.EINVAL)
	g.want("now", g.SetAttr(nil, setAttr(file, fuse.FATTR_MTIME|fuse.FATTR_MTIME_NOW), &out), fuse.OK)
	if out.Mtime < 1e9 {
		t.Errorf("now is %d", out.Mtime)
	}
	cached := serve(t, dir, Config{Cache: true})
	if s := cached.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(root)}, &out); !s.Ok() || out.AttrValid != cacheTime {
		t.Errorf("valid for %d s, %v", out.AttrValid, s)
	}
}

// What the guest's users make is theirs by number, if we are root; the process and its other threads stay who they are.
func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := tree(t)
	if err := os.Chmod(dir, 0o700); err != nil { // the guest's kernel checks who may enter, not ours
		t.Fatal(err)
	}
	g := serve(t, dir, Config{})
	by := func(uid, gid uint32) fuse.InHeader {
		h := header(root)
		h.Uid, h.Gid = uid, gid
		return h
	}
	h := by(1000, 2000)
	var entry fuse.EntryOut
	var created fuse.CreateOut
	g.want("create", g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR, Mode: 0o600}, "new", &created), fuse.OK)
	g.want("mkdir", g.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o777}, "dir", &entry), fuse.OK)
	g.want("symlink", g.Symlink(nil, &h, "x", "sym", &entry), fuse.OK)
	g.want("mknod", g.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFIFO | 0o622}, "fifo", &entry), fuse.OK)
	for name, mode := range map[string]uint32{"new": unix.S_IFREG | 0o600, "dir": unix.S_IFDIR | 0o777, "sym": unix.S_IFLNK | 0o777, "fifo": unix.S_IFIFO | 0o622} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Uid != 1000 || st.Gid != 2000 || st.Mode != mode {
			t.Errorf("%s: mode %#o of %d:%d, %v", name, st.Mode, st.Uid, st.Gid, err)
		}
	}
	h = by(0, 0)
	g.want("mkdir as root", g.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o755}, "roots", &entry), fuse.OK)
	if entry.Uid != 0 || entry.Gid != 0 {
		t.Errorf("root's directory belongs to %d:%d", entry.Uid, entry.Gid)
	}
	for _, h := range []fuse.InHeader{by(1<<32-1, 0), by(0, 1<<32-1)} {
		g.want("mkdir as nobody at all", g.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o755}, "nobodys", &entry), fuse.EINVAL)
	}
	if err := os.WriteFile(dir+"/mine", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	old := unix.Umask(0o022)
	unix.Umask(old)
	if err := unix.Stat(dir+"/mine", &st); err != nil || st.Uid != 0 || st.Mode&0o777 != 0o666&^uint32(old) {
		t.Errorf("this process's own file: mode %#o of %d, %v", st.Mode, st.Uid, err)
	}
}

func TestExtendedAttributes(t *testing.T) {
	dir := tree(t)
	if err := unix.Setxattr(dir+"/file", "user.host", []byte("by the host"), 0); err != nil {
		t.Skipf("the file system here has none: %v", err)
	}
	g := serve(t, dir, Config{})
	for _, name := range []string{"file", "sub"} {
		id := g.lookup(root, name)
		h := header(id)
		g.want("set", g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h}, "user.guest", []byte("value")), fuse.OK)
		g.want("set anew", g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Flags: unix.XATTR_CREATE}, "user.guest", nil), fuse.Status(unix.EEXIST))
		buf := make([]byte, 100)
		n, s := g.GetXAttr(nil, &h, "user.guest", buf)
		if string(buf[:n]) != "value" || !s.Ok() {
			t.Errorf("%q, %v", buf[:n], s)
		}
		if n, s := g.GetXAttr(nil, &h, "user.guest", nil); n != 5 || !s.Ok() {
			t.Errorf("a size of %d, %v", n, s)
		}
		_, s = g.GetXAttr(nil, &h, "user.guest", buf[:1])
		g.want("get into too little", s, fuse.ERANGE)
		n, s = g.ListXAttr(nil, &h, buf)
		if got := strings.Split(string(buf[:n]), "\x00"); !slices.Contains(got, "user.guest") || !s.Ok() {
			t.Errorf("%q, %v", got, s)
		}
		if size, s := g.ListXAttr(nil, &h, nil); size != n || !s.Ok() {
			t.Errorf("a size of %d, %v", size, s)
		}
		_, s = g.ListXAttr(nil, &h, buf[:3])
		g.want("list into too little", s, fuse.ERANGE)
		g.want("remove", g.RemoveXAttr(nil, &h, "user.guest"), fuse.OK)
		_, s = g.GetXAttr(nil, &h, "user.guest", buf)
		g.want("get what was removed", s, fuse.ENODATA)
		// The host's kernel would make something of these.
		for _, name := range []string{"security.capability", "trusted.overlay.opaque", "system.posix_acl_access", "user", ""} {
			_, s := g.GetXAttr(nil, &h, name, buf)
			g.want("get "+name, s, fuse.ENOTSUP)
			g.want("set "+name, g.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h}, name, []byte("x")), fuse.ENOTSUP)
			g.want("remove "+name, g.RemoveXAttr(nil, &h, name), fuse.ENOTSUP)
		}
	}
}

func TestRename(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	sub := g.lookup(root, "sub")
	file := g.lookup(root, "file")
	rename := func(flags uint32, from uint64, old string, to uint64, name string) fuse.Status {
		return g.Rename(nil, &fuse.RenameIn{InHeader: header(from), Newdir: to, Flags: flags}, old, name)
	}
	g.want("without replacing", rename(unix.RENAME_NOREPLACE, root, "file", sub, "other"), fuse.Status(unix.EEXIST))
	g.want("exchange", rename(unix.RENAME_EXCHANGE, root, "file", sub, "other"), fuse.OK)
	onHost(t, dir+"/file", "other")
	g.want("across", rename(0, sub, "other", root, "back"), fuse.OK)
	if got := g.content(file); got != "content" {
		t.Errorf("a node whose file was renamed reads %q", got)
	}
	g.want("whiteout", rename(unix.RENAME_WHITEOUT, root, "back", root, "x"), fuse.EINVAL)
	g.want("into itself", rename(0, root, "sub", sub, "x"), fuse.EINVAL)
	g.want("into a file", rename(0, root, "back", file, "x"), fuse.ENOTDIR)
	g.want("into nothing", rename(0, root, "back", 999, "x"), fuse.Status(unix.ESTALE))
	// Removed on the host, and still there for who has it open.
	fh := g.open(file, unix.O_RDONLY)
	if err := os.Remove(dir + "/back"); err != nil {
		t.Fatal(err)
	}
	if got, s := g.read(fh); got != "content" || !s.Ok() {
		t.Errorf("%q, %v", got, s)
	}
	_, s := g.tryLookup(root, "back")
	g.want("lookup of what is gone", s, fuse.ENOENT)
}

// A single file comes in a directory of its own, and nothing from beside it.
func TestSingleFile(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir+"/file", Config{})
	for _, name := range []string{"sub", "other", "secret"} {
		_, s := g.tryLookup(root, name)
		g.want("lookup of "+name, s, fuse.ENOENT)
	}
	file := g.lookup(root, FileName)
	if got := g.content(file); got != "content" {
		t.Errorf("read %q", got)
	}
	g.want("write", g.write(g.open(file, unix.O_RDWR|unix.O_TRUNC), 0, "new"), fuse.OK)
	onHost(t, dir+"/file", "new")
	var opened fuse.OpenOut
	g.want("opendir", g.OpenDir(nil, &fuse.OpenIn{InHeader: header(root)}, &opened), fuse.OK)
	list := fuse.NewDirEntryList(make([]byte, 1000), 0)
	g.want("list", g.ReadDirPlus(nil, &fuse.ReadIn{InHeader: header(root), Fh: opened.Fh, Size: 1000}, list), fuse.OK)
	if list.Offset != 3 {
		t.Errorf("%d entries, want 3", list.Offset)
	}
	g.want("sync", g.FsyncDir(nil, &fuse.FsyncIn{Fh: opened.Fh}), fuse.OK)
	g.ReleaseDir(&fuse.ReleaseIn{Fh: opened.Fh})
	h := header(root)
	var entry fuse.EntryOut
	var created fuse.CreateOut
	var attr fuse.AttrOut
	for what, s := range map[string]fuse.Status{
		"create":  g.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR}, "x", &created),
		"mkdir":   g.Mkdir(nil, &fuse.MkdirIn{InHeader: h}, "x", &entry),
		"link":    g.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: file}, "x", &entry),
		"unlink":  g.Unlink(nil, &h, FileName),
		"rename":  g.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: root}, FileName, "x"),
		"setattr": g.SetAttr(nil, setAttr(root, fuse.FATTR_MODE), &attr),
	} {
		g.want(what, s, fuse.EPERM)
	}
	if s := g.GetAttr(nil, &fuse.GetAttrIn{InHeader: h}, &attr); !s.Ok() || attr.Mode != unix.S_IFDIR|0o555 {
		t.Errorf("the directory: %+v, %v", attr, s)
	}
	var st fuse.StatfsOut
	g.want("statfs", g.StatFs(nil, &h, &st), fuse.OK)
}

func TestListHidesWhatIsAbove(t *testing.T) {
	dir := tree(t)
	g := serve(t, dir, Config{})
	var above, shared unix.Stat_t
	if err := unix.Stat(dir+"/..", &above); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(dir, &shared); err != nil {
		t.Fatal(err)
	}
	inode := map[string]uint64{}
	var opened fuse.OpenOut
	g.want("opendir", g.OpenDir(nil, &fuse.OpenIn{InHeader: header(root)}, &opened), fuse.OK)
	g.want("list", g.list(&fuse.ReadIn{Fh: opened.Fh, Size: 4096}, func(_ *node, e fuse.DirEntry) bool {
		inode[e.Name] = e.Ino
		return true
	}), fuse.OK)
	if inode[".."] != shared.Ino || inode["."] != shared.Ino || len(inode) != 6 {
		t.Errorf("%v; the directory is %d, that above %d", inode, shared.Ino, above.Ino)
	}
}

// Files on other file systems below the share do not pass for those of the same number on this one.
func TestInodeNumbers(t *testing.T) {
	g := serve(t, tree(t), Config{})
	a, b, c := g.inode(key{g.dev, 7}), g.inode(key{g.dev + 1, 7}), g.inode(key{g.dev + 2, 7})
	if a != 7 || b == a || c == a || b == c || g.inode(key{g.dev + 1, 7}) != b {
		t.Errorf("%d, %d, %d", a, b, c)
	}
	for i := range uint64(1000) {
		g.inode(key{g.dev + i, 7})
	}
	if len(g.devices) > maxDevices {
		t.Errorf("%d devices are remembered", len(g.devices))
	}
}

func TestNewRefuses(t *testing.T) {
	dir := tree(t)
	if err := unix.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	for name, max := range map[string]int{"fifo": 1, "link": 1, "file": 0} {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), name)
		if _, err := New(Config{File: f, MaxNodes: max, MaxFiles: max}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}

func TestRoom(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	for _, shares := range []int{0, 1, 2, 20} {
		nodes, files := Room(shares)
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
			t.Fatal(err)
		}
		if now.Cur < before.Cur || nodes < 1 || files < 1 || uint64(max(shares, 1)*(nodes+files)) > now.Cur {
			t.Errorf("%d shares: %d nodes and %d files each; of %d descriptors, %d before", shares, nodes, files, now.Cur, before.Cur)
		}
	}
}

func TestStatusOfErrors(t *testing.T) {
	for err, want := range map[error]fuse.Status{
		nil: fuse.OK, unix.EXDEV: fuse.EXDEV, &os.PathError{Err: syscall.ENOENT}: fuse.ENOENT, bytes.ErrTooLarge: fuse.EIO,
	} {
		if got := status(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}
