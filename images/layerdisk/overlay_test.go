package layerdisk

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// stacked is what overlayfs would show of disk images, lowest first
// (Documentation/filesystems/overlayfs.rst): kind, contents and, of
// directories, mode. A whiteout that would be listed is an error of the image.
func stacked(t *rapid.T, disks []map[string]found) map[string]string {
	out := make(map[string]string)
	for i, d := range disks {
		names := make([]string, 0, len(d))
		for name := range d {
			names = append(names, name)
		}
		sort.Strings(names) // parents first
		for _, name := range names {
			f := d[name]
			_, isDir := out[name]
			isDir = isDir && strings.HasPrefix(out[name], "d")
			whiteout := f.kind == 'c' && f.major == 0 && f.minor == 0
			if f.kind != 'd' || f.xattrs[opaqueXattr.name] == "y" || !isDir {
				for below := range out {
					if strings.HasPrefix(below, name+"/") && !inLayer(d, below) {
						delete(out, below)
					}
				}
			}
			switch {
			case whiteout:
				if pure(disks[:i], path.Dir(name), d) {
					t.Fatalf("layer %d: the whiteout %s would be listed", i, name)
				}
				delete(out, name)
			case f.kind == 'd':
				out[name] = fmt.Sprintf("d %o", f.mode)
			default:
				out[name] = fmt.Sprintf("%c %s%s", f.kind, f.data, f.target)
			}
		}
	}
	delete(out, ".")
	return out
}

func inLayer(d map[string]found, name string) bool { _, ok := d[name]; return ok }

// pure tells whether a directory of layer top is not merged with one below.
func pure(lower []map[string]found, dir string, top map[string]found) bool {
	for d := dir; ; d = path.Dir(d) {
		if top[d].xattrs[opaqueXattr.name] == "y" {
			return true
		}
		if d == "." {
			break
		}
	}
	for i := len(lower) - 1; i >= 0; i-- {
		hidden := false
		for _, part := range prefixes(dir) {
			f, ok := lower[i][part]
			switch {
			case !ok:
				return pureBelow(lower[:i], dir, hidden)
			case f.kind != 'd':
				return true
			case part == dir:
				return false
			}
			hidden = hidden || f.xattrs[opaqueXattr.name] == "y"
		}
	}
	return true
}

func pureBelow(lower []map[string]found, dir string, hidden bool) bool {
	return hidden || pure(lower, dir, nil)
}

// prefixes lists a path and all above it, the topmost first, with the root.
func prefixes(name string) []string {
	out := []string{"."}
	if name == "." {
		return out
	}
	parts := strings.Split(name, "/")
	for i := range parts {
		out = append(out, strings.Join(parts[:i+1], "/"))
	}
	return out
}

// randomLayer draws entries over few names, so that they meet.
func randomLayer(t *rapid.T) []entry {
	name := rapid.Custom(func(t *rapid.T) string {
		return path.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3).Draw(t, "name")...)
	})
	var all []entry
	for range rapid.IntRange(0, 8).Draw(t, "entries") {
		n := name.Draw(t, "path")
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0, 1, 2:
			all = append(all, file(n, rapid.StringMatching(`[a-z]{0,3}`).Draw(t, "data")))
		case 3, 4, 5:
			all = append(all, dir(n).perm(int64(rapid.SampledFrom([]int{0o700, 0o755, 0o1777}).Draw(t, "mode"))))
		case 6, 7:
			all = append(all, file(path.Join(path.Dir(n), ".wh."+path.Base(n)), ""))
		case 8:
			all = append(all, file(n+"/.wh..wh..opq", ""))
		case 9:
			all = append(all, file(n+"/x", "y")) // often without parents
		}
	}
	return all
}

// TestStacksAgree: random layers as disk images, stacked as overlayfs does it,
// show the same as all of them merged into one image.
func TestStacksAgree(t *testing.T) {
	temp := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		var layers [][]byte
		var trees []*Tree
		var disks []map[string]found
		for range rapid.IntRange(1, 4).Draw(rt, "layers") {
			b := archive(t, randomLayer(rt)...)
			tree, err := Scan(t.Context(), bytes.NewReader(b), Limits{})
			if err != nil {
				rt.Skip(err) // a file as a directory
			}
			layers, trees = append(layers, b), append(trees, tree)
			r, err := NewRecipe(trees)
			if err != nil {
				rt.Fatal(err)
			}
			disks = append(disks, diskOf(t, rt, temp, r, layers))
		}
		m := newMerged()
		for _, tree := range trees {
			if err := m.apply(tree); err != nil {
				rt.Fatal(err)
			}
		}
		flat := &Recipe{root: m.walker.root, layers: trees}
		want := stacked(rt, []map[string]found{diskOf(t, rt, temp, flat, layers)})
		if d := cmp.Diff(want, stacked(rt, disks)); d != "" {
			rt.Fatalf("(-merged +stacked)\n%s", d)
		}
	})
}

// diskOf writes a recipe and reads it back.
func diskOf(t *testing.T, rt *rapid.T, temp string, r *Recipe, layers [][]byte) map[string]found {
	f, err := os.Create(filepath.Join(temp, "disk"))
	if err != nil {
		rt.Fatal(err)
	}
	defer f.Close()
	if err := r.Write(t.Context(), f, [32]byte{}, opener(layers)); err != nil {
		rt.Fatal(err)
	}
	return readDisk(t, f.Name())
}
