package layerdisk

import (
	"archive/tar"
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSemantics holds what a layer becomes against what docker would have
// unpacked, with whiteouts the way overlayfs knows them.
func TestSemantics(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"plain": {
			[]entry{dir("a"), file("a/f", "1"), file("g", "2"), symlinkTo("s", "a/f"), device("p", tar.TypeFifo, 0, 0)},
			"a=d; a/f=- 1; g=- 2; s=l a/f; p=p",
		},
		"names": {
			[]entry{file("./a//b/./c", "1"), file("/abs/f", "2"), file("x/../y", "3"), file(`back\slash`, "4"), file("\xff\xfe", "5"), file("new\nline", "6")},
			"a=d; a/b=d; a/b/c=- 1; abs=d; abs/f=- 2; y=- 3; back\\slash=- 4; \xff\xfe=- 5; new\nline=- 6",
		},
		"last wins": {
			[]entry{file("f", "old"), file("f", "new"), dir("d"), file("d/x", "1"), dir("d").perm(0o700), file("e", "file"), dir("e"), file("e/x", "2"), dir("g"), file("g/x", "3"), file("g", "4")},
			"f=- new; d=d; d/x=- 1; e=d; e/x=- 2; g=- 4",
		},
		"last wins, symlinks": {
			[]entry{symlinkTo("s", "t"), file("s", "1"), file("r", "2"), symlinkTo("r", "u")},
			"s=- 1; r=l u",
		},
		"hard links": {
			[]entry{file("a", "1"), link("b", "a"), link("c", "/b"), link("d/e", "./a"), symlinkTo("s", "nowhere"), link("t", "s")},
			"a=- 1; b=- 1; c=- 1; d=d; d/e=- 1; s=l nowhere; t=l nowhere",
		},
		"a replaced file lives on in its links": {
			[]entry{file("a", "old"), link("b", "a"), file("a", "new")},
			"a=- new; b=- old",
		},
		"a link replaces a file": {
			[]entry{file("a", "1"), file("b", "2"), link("b", "a"), dir("d"), file("d/x", "3"), link("d", "a")},
			"a=- 1; b=- 1; d=- 1",
		},
		"parents through symlinks stay inside": {
			[]entry{dir("usr"), dir("usr/lib"), symlinkTo("lib", "usr/lib"), file("lib/f", "1"), symlinkTo("abs", "/usr"), file("abs/g", "2"), symlinkTo("up", "../../../../usr"), file("up/h", "3")},
			"usr=d; usr/lib=d; usr/lib/f=- 1; lib=l usr/lib; abs=l /usr; usr/g=- 2; up=l ../../../../usr; usr/h=- 3",
		},
		"a symlink to what is not there": {
			[]entry{symlinkTo("lib", "usr/lib"), file("lib/f", "1")},
			"lib=l usr/lib; usr=d; usr/lib=d; usr/lib/f=- 1",
		},
		"absolute and escaping symlinks are data": {
			[]entry{symlinkTo("passwd", "/etc/passwd"), symlinkTo("up", "../../../etc")},
			"passwd=l /etc/passwd; up=l ../../../etc",
		},
		"opaque": {
			[]entry{dir("d"), file("d/.wh..wh..opq", ""), file("d/f", "1"), file("d/.wh.g", ""), dir("e"), dir("e/f"), file("e/.wh..wh..opq", "")},
			"d=d opaque; d/f=- 1; e=d opaque; e/f=d",
		},
		"aufs leftovers": {
			[]entry{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), link("f", ".wh..wh.plnk/1.2"), file(".wh..wh.aufs", ""), dir("d"), file("d/.wh..wh.orph", "")},
			"f=- x; d=d",
		},
		"devices": {
			[]entry{device("null", tar.TypeChar, 1, 3), device("sda", tar.TypeBlock, 8, 0)},
			"null=c; sda=b",
		},
		"lost+found of its own": {
			[]entry{dir("lost+found").perm(0o711), file("lost+found/x", "1")},
			"lost+found=d; lost+found/x=- 1",
		},
		"lost+found is a file": {
			[]entry{file("lost+found", "1"), link("b", "lost+found"), file("lost000000", "2")},
			"lost+found=- 1; b=- 1; lost000000=- 2",
		},
		"nothing": {nil, ""},
		"a global header": {
			[]entry{{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""}, file("f", "1")},
			"f=- 1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, _ := mustWrite(t, archive(t, c.entries...))
			if d := cmp.Diff(want(c.want), summary(files)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestContext checks layers that need to know those below.
func TestContext(t *testing.T) {
	base := []entry{dir("etc").perm(0o700).owner(5, 6).xattr("user.a", "b"), file("etc/f", "1"), dir("var"), dir("var/lib"), file("var/lib/x", "2"), file("lib", "a file")}
	for name, c := range map[string]struct {
		layers  [][]entry
		want    string
		context bool
		flat    bool
	}{
		"whiteouts where they are needed": {
			[][]entry{base, {dir("etc"), file("etc/.wh.f", ""), file(".wh.lib", ""), file(".wh.absent", "")}},
			"etc=d; etc/f=whiteout; lib=whiteout; absent=whiteout", false, false,
		},
		"whiteouts in the lowest layer": {
			[][]entry{{dir("d"), file("d/.wh.x", ""), file("d/y", "1"), file(".wh.z", "")}},
			"d=d; d/y=- 1", true, false,
		},
		"a whiteout in a new directory": {
			[][]entry{base, {dir("new"), file("new/.wh.x", ""), file("new/y", "1")}},
			"new=d; new/y=- 1", true, false,
		},
		"a whiteout in a directory deleted in between": {
			[][]entry{base, {file(".wh.var", "")}, {dir("var"), file("var/.wh.lib", ""), file("var/y", "1")}},
			"var=d; var/y=- 1", true, false,
		},
		"whiteout and the same name, both orders": {
			[][]entry{base, {file(".wh.var", ""), dir("var"), file("var/n", "1"), dir("etc"), file("etc/n", "2"), file(".wh.etc", ""), file("lib", "3"), file(".wh.lib", "")}},
			"var=d opaque; var/n=- 1; etc=d opaque; etc/n=- 2; lib=- 3", false, false,
		},
		"a whiteout in a directory that replaced a file": {
			[][]entry{{file("d", "a file")}, {file("d/x", "1")}, {file("d/.wh.x", "")}},
			"d=d; d/x=whiteout", false, false,
		},
		"a device 0:0 is a whiteout": {
			[][]entry{base, {device("lib", tar.TypeChar, 0, 0)}},
			"lib=whiteout", false, false,
		},
		"missing parents": {
			[][]entry{base, {file("etc/g", "1"), file("none/h", "2")}},
			"etc=d; etc/g=- 1; none=d; none/h=- 2", true, false,
		},
		"missing parents nobody knows": {
			[][]entry{base, {file("none/such/h", "2")}},
			"none=d; none/such=d; none/such/h=- 2", false, false,
		},
		"hard link to a lower layer": {
			[][]entry{base, {file(".wh.var", "")}, {dir("bin"), link("bin/f", "etc/f"), file("lib", "new")}},
			"etc=d; etc/f=- 1; bin=d; bin/f=- 1; lib=- new", true, true,
		},
		"hard link to what the layer itself deletes": {
			[][]entry{base, {file(".wh.lib", ""), link("bin", "lib"), dir("etc"), file("etc/.wh..wh..opq", ""), link("etc/g", "etc/f")}},
			"bin=- a file; etc=d; etc/g=- 1; var=d; var/lib=d; var/lib/x=- 2", true, true,
		},
		"hard link through a symlink below": {
			[][]entry{{dir("usr"), dir("usr/lib"), file("usr/lib/a", "1"), symlinkTo("lib", "usr/lib")}, {link("b", "lib/a")}},
			"usr=d; usr/lib=d; usr/lib/a=- 1; lib=l usr/lib; b=- 1", true, true,
		},
		"hard links to what has no contents": {
			[][]entry{{file("empty", ""), symlinkTo("s", "x"), device("null", tar.TypeChar, 1, 3)}, {link("a", "empty"), link("b", "s"), link("c", "null")}},
			"empty=- ; s=l x; null=c; a=- ; b=l x; c=c", true, true,
		},
		"flat: replaced both ways": {
			[][]entry{
				{dir("d"), file("d/a", "1"), file("f", "2"), file("keep", "k")},
				{file("d", "file now"), dir("f"), file("f/b", "3")},
				{link("l", "keep")},
			},
			"d=- file now; f=d; f/b=- 3; keep=- k; l=- k", true, true,
		},
		"flat: what comes back is empty": {
			[][]entry{
				{dir("d"), file("d/a", "1"), file("keep", "k")},
				{file(".wh.d", "")},
				{dir("d"), file("d/b", "2"), link("l", "keep")},
			},
			"d=d; d/b=- 2; keep=- k; l=- k", true, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var layers [][]byte
			for _, entries := range c.layers {
				layers = append(layers, archive(t, entries...))
			}
			files, r := mustWrite(t, layers...)
			if d := cmp.Diff(want(c.want), summary(files)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if r.InContext() != c.context || r.Flat() != c.flat {
				t.Errorf("in context %v, flat %v; want %v, %v", r.InContext(), r.Flat(), c.context, c.flat)
			}
		})
	}
}

// TestInheritedAttributes: a directory that the layer does not list looks as below.
func TestInheritedAttributes(t *testing.T) {
	base := archive(t, dir("etc").perm(0o1700).owner(5, 6).xattr("user.a", "b"), dir("etc/sub").perm(0o750))
	middle := archive(t, file("etc/sub/1", "1"))
	files, _ := mustWrite(t, base, middle, archive(t, file("etc/sub/2", "2")))
	etc, sub := files["etc"], files["etc/sub"]
	if etc.mode != 0o1700 || etc.uid != 5 || etc.gid != 6 || etc.xattrs["user.a"] != "b" || !etc.mtime.Equal(when) || sub.mode != 0o750 {
		t.Errorf("etc %+v, etc/sub %+v", etc, sub)
	}
	// But not when the one below is gone.
	files, _ = mustWrite(t, base, archive(t, file(".wh.etc", ""), file("etc/f", "")))
	if etc := files["etc"]; etc.mode != 0o755 || etc.uid != 0 || etc.xattrs[opaqueXattr.name] != "y" {
		t.Errorf("etc after a whiteout: %+v", etc)
	}
	// An opaque marker says nothing about attributes.
	files, _ = mustWrite(t, base, archive(t, file("etc/.wh..wh..opq", ""), file("etc/sub/f", "")))
	if etc, sub := files["etc"], files["etc/sub"]; etc.mode != 0o1700 || etc.xattrs[opaqueXattr.name] != "y" || sub.mode != 0o755 {
		t.Errorf("opaque etc: %+v, etc/sub: %+v", etc, sub)
	}
}

func TestAttributes(t *testing.T) {
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
	diskForm := "\x01\x00\x00\x00" + "\x01\x00\x06\x00" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00" + "\x10\x00\x04\x00" + "\x20\x00\x04\x00"
	long := strings.Repeat("v", 200)
	accessed := file("accessed", "x")
	accessed.AccessTime = when.Add(time.Hour)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	files, _ := mustWrite(t, archive(t,
		dir(".").perm(0o701).owner(1, 2),
		file("suid", "x").perm(0o4755).owner(1000, 1001),
		file("big", "x").perm(0o2755).owner(4_000_000_000, 3_000_000_000),
		dir("sticky").perm(0o1777),
		file("nano", "x").at(time.Unix(1_600_000_000, 123_456_789)),
		file("old", "x").at(time.Unix(-1_000_000_000, 0)),
		file("1901", "x").at(time.Unix(-1<<40, 0)),
		file("2040", "x").at(time.Unix(2_208_988_800, 5)),
		file("2200", "x").at(time.Unix(7_258_118_400, 0)),
		file("9999", "x").at(time.Unix(253_402_300_799, 0)),
		accessed,
		file("caps", "x").xattr("security.capability", capability),
		file("acl", "x").xattr(aclAccess, acl),
		dir("dacl").xattr(aclDefault, acl),
		// Out of order for the writer: it compares indices, lengths and names all at once.
		file("many", "x").xattr("security.b", long).xattr("user.aaaaaaaaaa", long).xattr("trusted.c", long).xattr("user.z", long),
		file("odd", "x").xattr("system.nfs4_acl", "1").xattr("trusted.overlay.redirect", "/etc").xattr("nonsense", "1").xattr("user.nul", "a\x00b"),
		device("tty", tar.TypeChar, 4095, 1048575),
		symlinkTo("long", strings.Repeat("x/", 1000)),
	))
	mode := func(name string, mode uint16, uid, gid uint32) {
		t.Helper()
		if f := files[name]; f.mode != mode || f.uid != uid || f.gid != gid {
			t.Errorf("%s: mode %o, owner %d:%d", name, f.mode, f.uid, f.gid)
		}
	}
	mode(".", 0o701, 1, 2)
	mode("suid", 0o4755, 1000, 1001)
	mode("big", 0o2755, 4_000_000_000, 3_000_000_000)
	mode("sticky", 0o1777, 0, 0)
	for name, want := range map[string]time.Time{
		"nano": time.Unix(1_600_000_000, 123_456_789), "old": time.Unix(-1_000_000_000, 0), "1901": time.Unix(minTime, 0),
		"2040": time.Unix(2_208_988_800, 5), "2200": time.Unix(7_258_118_400, 0), "9999": time.Unix(maxTime, 0),
	} {
		if f := files[name]; !f.mtime.Equal(want) || !f.ctime.Equal(want) || !f.atime.Equal(want) {
			t.Errorf("%s: mtime %v, ctime %v, atime %v; want %v", name, f.mtime, f.ctime, f.atime, want)
		}
	}
	if f := files["accessed"]; !f.atime.Equal(when.Add(time.Hour)) || !f.mtime.Equal(when) {
		t.Errorf("accessed: %v", f.atime)
	}
	for name, want := range map[string]map[string]string{
		"caps": {"security.capability": capability}, "acl": {aclAccess: diskForm}, "dacl": {aclDefault: diskForm},
		"many": {"security.b": long, "user.aaaaaaaaaa": long, "trusted.c": long, "user.z": long},
		"odd":  {"user.nul": "a\x00b"},
	} {
		if d := cmp.Diff(want, files[name].xattrs); d != "" {
			t.Errorf("%s (-want +got)\n%s", name, d)
		}
	}
	if f := files["tty"]; f.major != 4095 || f.minor != 1048575 {
		t.Errorf("tty: %d:%d", f.major, f.minor)
	}
	if files["long"].target != strings.Repeat("x/", 1000) {
		t.Error("long symlink")
	}
	if _, ok := files["lost+found"]; ok {
		t.Error("lost+found is there")
	}
}

func TestHardLinksShareAnInode(t *testing.T) {
	files, _ := mustWrite(t, archive(t, file("a", "x").perm(0o4711), link("b", "a"), link("c", "b"), file("e", ""), link("f", "e")))
	a, b, c := files["a"], files["b"], files["c"]
	if a.inode != b.inode || b.inode != c.inode || a.links != 3 || c.mode != 0o4711 || files["e"].inode != files["f"].inode {
		t.Errorf("%+v %+v %+v", a, b, c)
	}
}

// TestReproducible: the same layer becomes the same bytes, and the ID only changes the UUID.
func TestReproducible(t *testing.T) {
	var entries []entry
	for _, name := range strings.Fields("q w e r t y u i o p") {
		entries = append(entries, dir(name), file(name+"/f", name).xattr("user."+name, "1").xattr("user.b", "2"), link(name+"/g", name+"/f"))
	}
	layer := archive(t, entries...)
	var images [][]byte
	for range 2 {
		name, _, err := write(t, layer)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, b)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two images of one layer differ")
	}
	if uuid := images[0][superOffset+sUUID:][:16]; !bytes.HasPrefix(uuid, []byte{1, 2, 3}) {
		t.Errorf("UUID % x", uuid)
	}
}
