package layerdisk

import (
	"archive/tar"
	"bytes"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// FuzzConvert turns two layers into disk images. Whatever they are, the result
// is an error or an image without damage, and never a panic.
func FuzzConvert(f *testing.F) {
	base := archive(f, dir("etc"), file("etc/f", "1"), symlinkTo("lib", "usr/lib"), file("g", "2"), link("h", "g"))
	for _, top := range [][]byte{
		archive(f, file("etc/g", "x"), file(".wh.g", ""), file("etc/.wh..wh..opq", "")),
		archive(f, link("a", "etc/f"), file(".wh.lib", ""), file("lib/x", "1")),
		archive(f, file("lib/x", "1"), symlinkTo("s", "../.."), file("s/y", "2"), device("n", tar.TypeChar, 0, 0)),
		archive(f, file("f", "data").xattr("user.a", "b").xattr("security.capability", "12345678901234567890"), file("lost+found", "x")),
		archive(f, dir("d"), file("d", "x"), dir("d"), link("e", "d"), file("../x", "")),
		{},
	} {
		f.Add(base, top)
		f.Add(top, base)
	}
	limits := Limits{Unpacked: 1 << 20, Entries: 500, Metadata: 1 << 20}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		layers := [][]byte{a, b}
		var trees []*Tree
		for i, layer := range layers {
			tree, err := Scan(t.Context(), bytes.NewReader(layer), limits)
			if err != nil {
				if !errors.Is(err, ErrLayer) && !errors.Is(err, ErrLimit) {
					t.Fatalf("layer %d: an error of no kind: %v", i, err)
				}
				return
			}
			trees = append(trees, tree)
			r, err := NewRecipe(trees)
			if err != nil {
				if !errors.Is(err, ErrLayer) {
					t.Fatalf("layer %d: an error of no kind: %v", i, err)
				}
				return
			}
			disk, err := os.Create(filepath.Join(t.TempDir(), "disk"))
			if err != nil {
				t.Fatal(err)
			}
			err = r.Write(t.Context(), disk, [32]byte{}, opener(layers))
			disk.Close()
			if err != nil {
				if !errors.Is(err, ErrLayer) && !errors.Is(err, ErrLimit) {
					t.Fatalf("layer %d: an error of no kind: %v", i, err)
				}
				return
			}
			// Starting e2fsck takes most of the time; one in eight inputs pays for it.
			if crc32.ChecksumIEEE(layer)%8 == 0 {
				checkDisk(t, disk.Name())
			}
			readDisk(t, disk.Name())
		}
	})
}
