package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pack archives a path below dir.
func pack(t *testing.T, dir, from, name string) []byte {
	t.Helper()
	root := openRoot(t, dir)
	var out bytes.Buffer
	w := NewWriter(&out)
	if err := w.Pack(root, from, name); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openRoot(t *testing.T, dir string) *Root {
	t.Helper()
	root, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// list names the entries of an archive with what they are.
func list(t *testing.T, raw []byte) []string {
	t.Helper()
	var all []string
	in := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := in.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		entry := string(h.Typeflag) + " " + h.Name
		if h.Linkname != "" {
			entry += " -> " + h.Linkname
		}
		all = append(all, entry)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from+"/tree/dir/file", "content")
	write(t, from+"/tree/empty", "")
	big, err := os.Create(from + "/tree/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	const size = 64 << 20
	if _, err := big.WriteAt([]byte("end"), size-3); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Link(from+"/tree/dir/file", from+"/tree/hard"), os.Symlink("/absolute", from+"/tree/soft"),
		unix.Mkfifo(from+"/tree/fifo", 0o600), os.Chmod(from+"/tree/dir", 0o500|fs.ModeSticky),
		os.Chtimes(from+"/tree/dir", time.Unix(0, 0), time.Unix(1e9, 0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	raw := pack(t, from, "tree", "copy")
	want := "5 copy/|5 copy/dir/|0 copy/dir/file|0 copy/empty|6 copy/fifo|1 copy/hard -> copy/dir/file|2 copy/soft -> /absolute|0 copy/sparse"
	if got := strings.Join(list(t, raw), "|"); got != want {
		t.Errorf("archive:\n%s, want\n%s", got, want)
	}
	if err := Unpack(t.Context(), bytes.NewReader(raw), openRoot(t, to), "/", UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to + "/copy/hard"); err != nil || string(got) != "content" {
		t.Errorf("hard link: %q, %v", got, err)
	}
	a, b := stat(t, to+"/copy/hard"), stat(t, to+"/copy/dir/file")
	if a.Ino != b.Ino || a.Mode&0o7777 != 0o640 {
		t.Errorf("hard link: inodes %d and %d, mode %o", a.Ino, b.Ino, a.Mode)
	}
	if d := stat(t, to+"/copy/dir"); d.Mode&0o7777 != 0o1500 || d.Mtim.Sec != 1e9 {
		t.Errorf("directory: mode %o, time %d", d.Mode, d.Mtim.Sec)
	}
	if s := stat(t, to+"/copy/sparse"); s.Size != size || s.Blocks*512 > 1<<20 {
		t.Errorf("sparse file: %d bytes in %d blocks", s.Size, s.Blocks)
	}
	if got, err := os.Readlink(to + "/copy/soft"); err != nil || got != "/absolute" {
		t.Errorf("symbolic link: %q, %v", got, err)
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

// What is packed, by how its path is written.
func TestPackPaths(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/d/f", "x")
	if err := os.Symlink("/d", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ from, name, want string }{
		{"d", "n", "5 n/|0 n/f"},
		{"/d/", "n", "5 n/|0 n/f"},
		{"/d/.", ".", "5 ./|0 ./f"},
		{"d/f", "g", "0 g"},
		{"link", "l", "2 l -> /d"},
		{"link/", "l", "5 l/|0 l/f"},
		{"link/f", "f", "0 f"},
		{"../../d", "n", "5 n/|0 n/f"},
		{"d/..", "", "5 d/|0 d/f|2 link -> /d"},
	} {
		if got := strings.Join(list(t, pack(t, dir, tt.from, tt.name)), "|"); got != tt.want {
			t.Errorf("%s as %q: %s, want %s", tt.from, tt.name, got, tt.want)
		}
	}
}

func TestStat(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/d/f", "xyz")
	for name, target := range map[string]string{"out": "../../../../etc/passwd", "chain": "d/two", "d/two": "/d/f"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root := openRoot(t, dir)
	for _, tt := range []struct {
		path   string
		want   Info
		absent bool
	}{
		{path: "d/f", want: Info{Name: "f", Size: 3, Mode: 0o640}},
		{path: "/", want: Info{Name: "/", Mode: fs.ModeDir}},
		{path: "chain", want: Info{Name: "chain", Mode: fs.ModeSymlink, Target: "/d/f"}},
		{path: "out", want: Info{Name: "out", Mode: fs.ModeSymlink, Target: "/etc/passwd"}}, // in the root
		{path: "out/", absent: true},
		{path: "d/f/", absent: true},
		{path: "nope", absent: true},
		{path: "d/f/x", absent: true},
	} {
		got, err := root.Stat(tt.path)
		if tt.absent {
			if !IsNotExist(err) {
				t.Errorf("%s: %+v, %v", tt.path, got, err)
			}
			continue
		}
		if err != nil || got.Name != tt.want.Name || got.Target != tt.want.Target || got.Mode.Type() != tt.want.Mode.Type() || tt.want.Size != 0 && got.Size != tt.want.Size {
			t.Errorf("%s: %+v, %v; want %+v", tt.path, got, err, tt.want)
		}
	}
	if _, err := root.Stat("a\x00b"); err == nil {
		t.Error("a path with a zero byte was taken")
	}
}

// entries makes an archive.
func entries(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		content := strings.Repeat("x", int(h.Size))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Nothing that an archive names is outside of the directory it is unpacked to.
func TestUnpackStaysInside(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"dots":           {{Typeflag: tar.TypeReg, Name: "../../outside/new", Size: 1, Mode: 0o644}},
		"absolute":       {{Typeflag: tar.TypeReg, Name: "/outside/new", Size: 1, Mode: 0o644}},
		"through a link": {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../outside"}, {Typeflag: tar.TypeReg, Name: "l/new", Size: 1, Mode: 0o644}},
		"over a link":    {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../outside/secret"}, {Typeflag: tar.TypeReg, Name: "l", Size: 1, Mode: 0o644}},
		"directory over a link": {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../outside"}, {Typeflag: tar.TypeDir, Name: "l", Mode: 0o777},
			{Typeflag: tar.TypeReg, Name: "l/new", Size: 1}},
		"hard link":        {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../outside/secret"}, {Typeflag: tar.TypeReg, Name: "h", Size: 1, Mode: 0o644}},
		"hard link by one": {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../outside"}, {Typeflag: tar.TypeLink, Name: "h", Linkname: "l/secret"}},
		"link replaces a directory": {{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755}, {Typeflag: tar.TypeSymlink, Name: "d", Linkname: "../outside"},
			{Typeflag: tar.TypeReg, Name: "d/new", Size: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			write(t, base+"/outside/secret", "secret")
			if err := os.Mkdir(base+"/inside", 0o755); err != nil {
				t.Fatal(err)
			}
			root := openRoot(t, base+"/inside")
			err := Unpack(t.Context(), bytes.NewReader(entries(t, headers...)), root, "/", UnpackOptions{})
			t.Log(err) // some of it is refused, some is put inside
			if got, err := os.ReadFile(base + "/outside/secret"); err != nil || string(got) != "secret" {
				t.Errorf("the file outside: %q, %v", got, err)
			}
			found, err := os.ReadDir(base + "/outside")
			if err != nil || len(found) != 1 {
				t.Errorf("outside there are %v, %v", found, err)
			}
			if st := stat(t, base+"/outside/secret"); st.Nlink != 1 || st.Mode&0o7777 != 0o640 {
				t.Errorf("the file outside: %d links, mode %o", st.Nlink, st.Mode)
			}
		})
	}
}

// What is not trusted becomes no device, has no set-user-ID bit and no attributes.
func TestUnpackUntrusted(t *testing.T) {
	raw := entries(t,
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666},
		tar.Header{Typeflag: tar.TypeReg, Name: "su", Size: 1, Mode: 0o6755, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "1"}},
		tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o2775},
	)
	dir := t.TempDir()
	var skipped []string
	err := Unpack(t.Context(), bytes.NewReader(raw), openRoot(t, dir), "/", UnpackOptions{Skipped: func(name string) { skipped = append(skipped, name) }})
	if err != nil || len(skipped) != 1 || skipped[0] != "null" {
		t.Errorf("%v, skipped %q", err, skipped)
	}
	if _, err := os.Lstat(dir + "/null"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("device: %v", err)
	}
	if st := stat(t, dir+"/su"); st.Mode&0o7777 != 0o755 {
		t.Errorf("file of mode %o", st.Mode)
	}
	if st := stat(t, dir+"/d"); st.Mode&0o7777 != 0o775 {
		t.Errorf("directory of mode %o", st.Mode)
	}
	if n, _ := unix.Llistxattr(dir+"/su", nil); n != 0 {
		t.Errorf("file with %d bytes of names of attributes", n)
	}
}

func TestUnpackTrusted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for owners and devices")
	}
	raw := entries(t,
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666, Uid: 5, Gid: 6},
		tar.Header{Typeflag: tar.TypeReg, Name: "su", Size: 1, Mode: 0o6755, Uid: 5, Gid: 6},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "su", Uid: 5, Gid: 6},
	)
	dir := t.TempDir()
	if err := Unpack(t.Context(), bytes.NewReader(raw), openRoot(t, dir), "/", UnpackOptions{Trusted: true, KeepOwners: true}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"null", "su", "l"} {
		if st := stat(t, dir+"/"+name); st.Uid != 5 || st.Gid != 6 {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
	}
	if st := stat(t, dir+"/su"); st.Mode&0o7777 != 0o6755 {
		t.Errorf("file of mode %o", st.Mode)
	}
	if st := stat(t, dir+"/null"); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device of mode %o, number %#x", st.Mode, st.Rdev)
	}
}

// What is in the way is merged or replaced, by docker's rules.
func TestUnpackOver(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/d/kept", "kept")
	write(t, dir+"/f", "old")
	root := openRoot(t, dir)
	over := func(h tar.Header) error {
		return Unpack(t.Context(), bytes.NewReader(entries(t, h)), root, "/", UnpackOptions{})
	}
	if err := over(tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 2, Mode: 0o600}); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(dir + "/f"); string(got) != "xx" {
		t.Errorf("file is %q", got)
	}
	if err := over(tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o700}); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(dir + "/d/kept"); string(got) != "kept" || stat(t, dir+"/d").Mode&0o777 != 0o700 {
		t.Errorf("directory has %q, mode %o", got, stat(t, dir+"/d").Mode)
	}
	if err := over(tar.Header{Typeflag: tar.TypeReg, Name: "d", Mode: 0o600}); !errors.Is(err, errDirInTheWay) {
		t.Errorf("file over a directory: %v", err)
	}
	if err := over(tar.Header{Typeflag: tar.TypeDir, Name: "f/", Mode: 0o700}); !errors.Is(err, errFileInTheWay) {
		t.Errorf("directory over a file: %v", err)
	}
	if err := over(tar.Header{Typeflag: tar.TypeReg, Name: "new/way/file", Size: 1, Mode: 0o600}); err != nil || stat(t, dir+"/new/way/file").Size != 1 {
		t.Errorf("without directories: %v", err)
	}
	if err := Unpack(t.Context(), bytes.NewReader(nil), root, "/f", UnpackOptions{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("into a file: %v", err)
	}
}

// An archive that ends too soon is not taken for a whole one.
func TestUnpackCut(t *testing.T) {
	raw := entries(t, tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 3000, Mode: 0o600})
	for _, n := range []int{100, 512, 600, 3000} {
		if err := Unpack(t.Context(), bytes.NewReader(raw[:n]), openRoot(t, t.TempDir()), "/", UnpackOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// Files of the kernel's own file systems are not copied as if they had contents.
func TestPackPseudo(t *testing.T) {
	w := NewWriter(io.Discard)
	root := openRoot(t, "/")
	if err := w.Pack(root, "/proc/self/stat", "x"); !errors.Is(err, errPseudo) {
		t.Errorf("a file of proc: %v", err)
	}
	var out bytes.Buffer
	w = NewWriter(&out)
	if err := w.Pack(root, "/proc", "proc"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, out.Bytes()); len(got) != 1 {
		t.Errorf("proc as %q", got)
	}
}

// A tree that is deeper than a path is long ends in an error.
func TestPackDeep(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 255)
	for range 20 {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	if err := NewWriter(io.Discard).Pack(openRoot(t, dir), "/", "."); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a deep tree: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(entries(f, tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Size: 3, Mode: 0o644}))
	f.Add(entries(f, tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}, tar.Header{Typeflag: tar.TypeSymlink, Name: "d/l", Linkname: "/"},
		tar.Header{Typeflag: tar.TypeReg, Name: "d/l/x", Size: 1}))
	f.Add(entries(f, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../outside"}, tar.Header{Typeflag: tar.TypeFifo, Name: "p"}))
	f.Add(entries(f, tar.Header{Typeflag: tar.TypeReg, Name: "long" + strings.Repeat("/x", 200), Uid: 1 << 30}))
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 1<<16 {
			return
		}
		base := t.TempDir()
		if err := os.Mkdir(base+"/in", 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, base+"/outside", "secret")
		root := openRoot(t, base+"/in")
		_ = Unpack(t.Context(), io.LimitReader(bytes.NewReader(raw), 1<<16), root, "/", UnpackOptions{})
		found, err := os.ReadDir(base)
		if err != nil || len(found) != 2 {
			t.Errorf("beside the directory there are %v, %v", found, err)
		}
		if st := stat(t, base+"/outside"); st.Nlink != 1 || st.Size != 6 {
			t.Errorf("the file outside has %d links and %d bytes", st.Nlink, st.Size)
		}
		_ = filepath.WalkDir(base+"/in", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(path, 0o700) // so that it can be removed
			}
			return nil
		})
	})
}

// Holes that are not in the archive could make a few bytes a file that takes years to write.
func TestUnpackSparseEntry(t *testing.T) {
	raw := entries(t, tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o600})
	sparse := func() []byte {
		b := bytes.Clone(raw)
		b[156] = tar.TypeGNUSparse
		copy(b[257:], "ustar  \x00")
		copy(b[483:], "77777777777\x00") // real size
		copy(b[386:], "77777777777\x0000000000000\x00")
		copy(b[148:], "        ") // the checksum is summed up as spaces
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}()
	if err := Unpack(t.Context(), bytes.NewReader(sparse), openRoot(t, t.TempDir()), "/", UnpackOptions{}); err == nil || !strings.Contains(err.Error(), "holes") {
		t.Errorf("got %v", err)
	}
}
