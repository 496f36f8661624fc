package layerdisk

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHostile: archives that must be refused, and why.
func TestHostile(t *testing.T) {
	deep := strings.Repeat("d/", 2000)
	for name, c := range map[string]struct {
		entries []entry
		want    string
		is      error
	}{
		"dot dot":                 {[]entry{file("../f", "")}, "leads out of the layer", ErrLayer},
		"dot dot inside":          {[]entry{file("a/../../f", "")}, "leads out of the layer", ErrLayer},
		"absolute dot dot":        {[]entry{file("/../f", "")}, "leads out of the layer", ErrLayer},
		"whiteout of dot dot":     {[]entry{file("a/.wh...", "")}, `whiteout of ".."`, ErrLayer},
		"whiteout of dot":         {[]entry{file("a/.wh..", "")}, `whiteout of "."`, ErrLayer},
		"whiteout of nothing":     {[]entry{file("a/.wh.", "")}, `whiteout of ""`, ErrLayer},
		"link outside":            {[]entry{link("a", "../../etc/passwd")}, "leads out of the layer", ErrLayer},
		"link to nothing":         {[]entry{link("a", "b")}, "no such file", ErrLayer},
		"link to a later file":    {[]entry{link("a", "b"), file("b", "")}, "no such file", ErrLayer},
		"link to a directory":     {[]entry{dir("d"), link("a", "d")}, "is a directory", ErrLayer},
		"link to the root":        {[]entry{link("a", ".")}, "is a directory", ErrLayer},
		"link to itself":          {[]entry{file("a", ""), link("a", "./a")}, "to itself", ErrLayer},
		"file as a directory":     {[]entry{file("a", ""), file("a/b", "")}, "not a directory", ErrLayer},
		"device as a directory":   {[]entry{device("a", tar.TypeChar, 1, 3), file("a/b", "")}, "not a directory", ErrLayer},
		"symlink loop":            {[]entry{symlinkTo("a", "b"), symlinkTo("b", "a"), file("a/c", "")}, "too many symbolic links", ErrLayer},
		"symlink to itself":       {[]entry{symlinkTo("a", "a"), file("a/c", "")}, "too many symbolic links", ErrLayer},
		"a root that is a file":   {[]entry{file(".", "x")}, "must be a directory", ErrLayer},
		"a root that is a link":   {[]entry{symlinkTo("/", "x")}, "must be a directory", ErrLayer},
		"long component":          {[]entry{file(strings.Repeat("x", 256), "")}, "longer than 255", ErrLayer},
		"long name":               {[]entry{file(strings.Repeat("x/", 2048)+"f", "")}, "longer than 4095", ErrLayer},
		"long path through links": {[]entry{dir(deep), symlinkTo("s", deep), file("s/"+deep+"f", "")}, "path that is too long", ErrLayer},
		"empty symlink":           {[]entry{symlinkTo("a", "")}, "target of 0 bytes", ErrLayer},
		"long symlink":            {[]entry{symlinkTo("a", strings.Repeat("x", 4096))}, "target of 4096 bytes", ErrLayer},
		"big device":              {[]entry{device("a", tar.TypeBlock, 4096, 0)}, "out of range", ErrLayer},
		"big minor":               {[]entry{device("a", tar.TypeChar, 0, 1<<20)}, "out of range", ErrLayer},
		"negative owner":          {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: -1, Format: tar.FormatGNU}, ""}}, "out of range", ErrLayer},
		"big owner":               {[]entry{file("a", "").owner(math.MaxUint32, 0)}, "out of range", ErrLayer},
		"unknown type":            {[]entry{{tar.Header{Typeflag: 'V', Name: "a"}, ""}}, "unknown entry type", ErrLayer},
		"bad ACL":                 {[]entry{file("a", "").xattr(aclAccess, "\x02\x00\x00\x00\x01")}, "access control list", ErrLayer},
		"bad ACL version":         {[]entry{file("a", "").xattr(aclAccess, "\x03\x00\x00\x00")}, "version 3", ErrLayer},
		"bad ACL tag":             {[]entry{file("a", "").xattr(aclAccess, "\x02\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00")}, "unknown tag", ErrLayer},
		"xattr without a name":    {[]entry{file("a", "").xattr("user.", "")}, "extended attribute", ErrLayer},
		"xattr with a long name":  {[]entry{file("a", "").xattr("user."+strings.Repeat("x", 300), "")}, "extended attribute", ErrLayer},
		"xattr too large":         {[]entry{file("a", "").xattr("user.a", strings.Repeat("x", 5000))}, "could not fit", ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := write(t, archive(t, c.entries...))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.is) {
				t.Errorf("error %v; want one with %q that is %q", err, c.want, c.is)
			}
		})
	}
}

// TestHostileLinksBelow: links that the layers below cannot satisfy.
func TestHostileLinksBelow(t *testing.T) {
	base := archive(t, dir("d"), file("d/f", "1"), file("g", "2"))
	for name, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"missing":   {[]entry{link("a", "d/x")}, "no such file"},
		"directory": {[]entry{link("a", "d")}, "is a directory"},
		"through":   {[]entry{link("a", "g/x")}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := write(t, base, archive(t, c.entries...))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrLayer) {
				t.Errorf("error %v; want one with %q", err, c.want)
			}
		})
	}
}

// rawHeader is a tar header that archive/tar would not write.
func rawHeader(name string, size uint64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	h[124] = 0x80 // base 256
	binary.BigEndian.PutUint64(h[128:], size)
	copy(h[136:], "00000000000\x00")
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func TestCutShort(t *testing.T) {
	whole := archive(t, dir("d"), file("d/f", strings.Repeat("x", 3000)), file("g", "1").xattr("user.a", "b"))
	for n := 1; n < len(whole)-1024; n++ {
		tree, err := Scan(t.Context(), bytes.NewReader(whole[:n]), Limits{})
		if err == nil && !tree.EndMarker() {
			continue // between two entries: what the end marker is for
		}
		if !errors.Is(err, ErrLayer) {
			t.Fatalf("cut after %d bytes: tree %v, error %v", n, tree != nil, err)
		}
	}
	tree, err := Scan(t.Context(), bytes.NewReader(whole), Limits{})
	if err != nil || !tree.EndMarker() {
		t.Fatalf("the whole: %v", err)
	}
	if _, err := Scan(t.Context(), strings.NewReader(strings.Repeat("not a tar", 100)), Limits{}); !errors.Is(err, ErrLayer) {
		t.Errorf("not a tar: %v", err)
	}
}

// TestNULInName: only the extended headers of PAX could hold one.
func TestNULInName(t *testing.T) {
	for _, e := range []entry{
		{tar.Header{Typeflag: tar.TypeReg, Name: "a/NUL/b" + strings.Repeat("z", 200)}, ""},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "x/NUL/y" + strings.Repeat("z", 200)}, ""},
	} {
		e.Format = tar.FormatPAX
		b := bytes.Replace(archive(t, e), []byte("/NUL/"), []byte("/N\x00L/"), 1)
		if _, err := Scan(t.Context(), bytes.NewReader(b), Limits{}); !errors.Is(err, ErrLayer) {
			t.Errorf("%q: %v", e.Name, err)
		}
	}
	if _, err := cleanName("a\x00b"); !errors.Is(err, ErrLayer) {
		t.Errorf("error %v", err)
	}
}

func TestHugeSizes(t *testing.T) {
	for _, size := range []uint64{1 << 40, 1<<63 - 1, 1 << 63, math.MaxUint64, uint64(maxFileSize) + 1} {
		_, err := Scan(t.Context(), bytes.NewReader(rawHeader("f", size)), Limits{})
		if !errors.Is(err, ErrLimit) && !errors.Is(err, ErrLayer) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	// Several that are too much only together; the archive needs not be there.
	two := append(rawHeader("f", 512), make([]byte, 512)...)
	two = append(two, rawHeader("g", 1<<20)...)
	if _, err := Scan(t.Context(), bytes.NewReader(two), Limits{Unpacked: 1 << 20}); !errors.Is(err, ErrLimit) {
		t.Errorf("over the limit together: %v", err)
	}
}

func TestLimits(t *testing.T) {
	entries := []entry{file("a/b/c", "12345"), file("d", "67890")}
	for name, c := range map[string]struct {
		limits Limits
		want   error
	}{
		"enough":   {Limits{Unpacked: 10, Entries: 4, Metadata: 100}, nil},
		"bytes":    {Limits{Unpacked: 9}, ErrLimit},
		"entries":  {Limits{Entries: 3}, ErrLimit},
		"metadata": {Limits{Metadata: 8}, ErrLimit},
	} {
		if _, err := Scan(t.Context(), bytes.NewReader(archive(t, entries...)), c.limits); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWalkIsBounded: entries that each go through long symbolic links.
func TestWalkIsBounded(t *testing.T) {
	w := walker{root: newDirectory(), steps: maxSteps - 10}
	w.root.children["s"] = &node{inode: &inode{kind: symlink, target: strings.Repeat("./", 2000)}}
	if _, err := w.directory([]string{"s"}, nil); !errors.Is(err, ErrLimit) {
		t.Errorf("error %v", err)
	}
}

// TestChangedArchive: the second reading must find what the first one did.
func TestChangedArchive(t *testing.T) {
	tree, err := Scan(t.Context(), bytes.NewReader(archive(t, file("a", "1"), file("f", "12345"))), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRecipe([]*Tree{tree})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken disk")
	for name, c := range map[string]struct {
		open func(int) (io.ReadCloser, error)
		want error
	}{
		"other size":  {opener([][]byte{archive(t, file("a", "1"), file("f", "123456"))}), ErrLayer},
		"shorter":     {opener([][]byte{archive(t, file("a", "1"))}), ErrLayer},
		"empty":       {opener([][]byte{nil}), ErrLayer},
		"cut":         {opener([][]byte{archive(t, file("a", "1"), file("f", "12345"))[:1538]}), ErrLayer},
		"other kind":  {opener([][]byte{archive(t, file("a", "1"), dir("f"))}), ErrLayer},
		"cannot open": {func(int) (io.ReadCloser, error) { return nil, broken }, broken},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Write(t.Context(), f, [32]byte{}, c.open); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}

func TestCancel(t *testing.T) {
	layer := archive(t, file("f", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Scan(ctx, bytes.NewReader(layer), Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Scan: %v", err)
	}
	tree, _ := Scan(t.Context(), bytes.NewReader(layer), Limits{})
	r, _ := NewRecipe([]*Tree{tree})
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.Write(ctx, f, [32]byte{}, opener([][]byte{layer})); !errors.Is(err, context.Canceled) {
		t.Errorf("Write: %v", err)
	}
}

// TestFullDisk: errors of the file come through as they are.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no /dev/full on this host")
	}
	defer full.Close()
	layer := archive(t, file("f", strings.Repeat("x", 1<<20)))
	tree, _ := Scan(t.Context(), bytes.NewReader(layer), Limits{})
	r, _ := NewRecipe([]*Tree{tree})
	if err := r.Write(t.Context(), full, [32]byte{}, opener([][]byte{layer})); err == nil || !isSystemError(err) {
		t.Errorf("error %v", err)
	}
}

// TestManyEntries: a directory of 100,000 files, and deep ones.
func TestManyEntries(t *testing.T) {
	n, depth := 100_000, 2000
	if raceEnabled {
		n, depth = 5_000, 200
	}
	entries := []entry{dir("many")}
	for i := range n {
		entries = append(entries, file(fmt.Sprintf("many/file-%06d", i), ""))
	}
	entries = append(entries, file(strings.Repeat("d/", depth)+"f", "deep"))
	files, _ := mustWrite(t, archive(t, entries...))
	if len(files) != n+depth+3 {
		t.Errorf("%d files", len(files))
	}
	if files[strings.Repeat("d/", depth)+"f"].data != "deep" {
		t.Error("the deep file")
	}
}

func TestSparse(t *testing.T) {
	const size = 64 << 20
	data := make([]byte, size)
	copy(data[size/2:], "in the middle")
	layer := archive(t, file("sparse", string(data)), file("f", "1"))
	name, _, err := write(t, layer)
	if err != nil {
		t.Fatal(err)
	}
	checkDisk(t, name)
	if files := readDisk(t, name); files["sparse"].data != string(data) || files["f"].data != "1" {
		t.Error("contents differ")
	}
	if used := allocated(t, name); used > 1<<20 {
		t.Errorf("%d bytes allocated", used)
	}
}
