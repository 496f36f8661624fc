package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

func mustSave(t testing.TB, s *Store, refs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Save(t.Context(), &b, refs, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks an archive of hull's own.
func unpack(t testing.TB, b []byte) (dir string, members []string) {
	t.Helper()
	dir = t.TempDir()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return dir, members
		}
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, h.Name)
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(path, 0o700)
		} else {
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSave: images that were pulled, loaded and imported come back the same,
// names, identifiers and digests, and each layer is in the archive once.
func TestSave(t *testing.T) {
	reg := newRegistry(t)
	base := testImage(t)
	s := newStore(t)
	pulled := mustPull(t, s, reg.push(t, "team/app:1", base))
	mustTag(t, s, pulled.ID.Hex, "app:2")
	loaded := mustLoad(t, s, dockerArchive(t, "other:1", makeImage(t, "other", append(layersOf(t, base), layerTar(t, "more=1"))...)))[0]
	imported, err := s.Import(t.Context(), bytes.NewReader(layerTar(t, "bin/", "bin/sh=x")), ImportOptions{Reference: "mine", Changes: []string{"CMD sh"}})
	if err != nil {
		t.Fatal(err)
	}
	var rec recorder
	var b bytes.Buffer
	refs := []string{reg.host + "/team/app:1", "other", "mine:latest", "app:2", loaded.ID.Hex}
	if err := s.Save(t.Context(), &b, refs, SaveOptions{Progress: &rec}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), mustSave(t, s, refs...)) {
		t.Error("saved twice, the archives differ")
	}
	if !rec.has(PhaseWriting) || !rec.has(PhaseWritten) {
		t.Errorf("phases %v", rec.phases())
	}
	dir, members := unpack(t, b.Bytes())
	if sorted := slices.Compact(slices.Sorted(slices.Values(members))); len(sorted) != len(members) {
		t.Errorf("members more than once: %q", members)
	}
	if last := members[len(members)-3:]; !slices.Equal(last, []string{"index.json", "manifest.json", "oci-layout"}) {
		t.Errorf("the last members are %q", last)
	}
	fromDir := func(s *Store) ([]*Image, error) { return s.LoadPath(t.Context(), dir, LoadOptions{}) }
	checkSaved(t, "tar", func(s *Store) ([]*Image, error) {
		return s.Load(t.Context(), bytes.NewReader(b.Bytes()), LoadOptions{})
	}, pulled, loaded, imported)
	checkSaved(t, "directory", fromDir, pulled, loaded, imported)
	if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
		t.Fatal(err)
	}
	checkSaved(t, "OCI layout", fromDir, pulled, loaded, imported)
}

// checkSaved loads what was saved into a new store.
func checkSaved(t *testing.T, what string, load func(*Store) ([]*Image, error), want ...*Image) {
	t.Helper()
	s := newStore(t)
	if _, err := load(s); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, w := range want {
		got, err := s.Get(t.Context(), w.ID.String())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		saved := slices.DeleteFunc(slices.Clone(w.References), func(r Reference) bool { return r.Tag == "" })
		if got.Manifest != w.Manifest || len(got.References) < len(saved) || len(got.Disks) != len(w.Disks) {
			t.Errorf("%s: %+v; want %+v", what, got, w)
		}
		for i, d := range got.Disks {
			a, aerr := os.ReadFile(d.Path)
			b, berr := os.ReadFile(w.Disks[i].Path)
			if aerr != nil || berr != nil || !bytes.Equal(a, b) {
				t.Errorf("%s: disk %d differs", what, i)
			}
		}
		checkOriginal(t, s, got)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("%s: left behind: %q", what, g)
	}
}

// TestSaveForOthers: other readers of both formats find the image.
func TestSaveForOthers(t *testing.T) {
	reg := newRegistry(t)
	img := testImage(t)
	s := newStore(t)
	mustPull(t, s, reg.push(t, "app:1", img))
	mustTag(t, s, reg.host+"/app:1", "app:1")
	dir, _ := unpack(t, mustSave(t, s, "app:1"))
	file := filepath.Join(t.TempDir(), "app.tar")
	if err := os.WriteFile(file, mustSave(t, s, "app:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("app:1")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.ConfigName()
	digest, _ := img.Digest()
	archived, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := archived.ConfigName(); id != want {
		t.Errorf("docker-archive: %s instead of %s", id, want)
	}
	compareLayers(t, "docker-archive", archived, img)
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	laid, err := path.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	compareLayers(t, "OCI layout", laid, img)
	x, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := x.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Annotations[annotationContainerdName] != "docker.io/library/app:1" || m.Manifests[0].Annotations[annotationRefName] != "1" {
		t.Errorf("index %+v, %v", m, err)
	}
}

func compareLayers(t *testing.T, what string, got, want v1.Image) {
	t.Helper()
	a, b := layersOf(t, got), layersOf(t, want)
	if !slices.EqualFunc(a, b, bytes.Equal) {
		t.Errorf("%s: %d layers differ from %d", what, len(a), len(b))
	}
}

// TestSaveNames: what is named decides what is in the archive, under which names.
func TestSaveNames(t *testing.T) {
	s := newStore(t)
	one := loadAs(t, s, "app:1", "1")
	mustTag(t, s, "app:1", "app:other")
	mustTag(t, s, "app:1", "elsewhere:1")
	loadAs(t, s, "app:2", "2")
	for _, c := range []struct {
		refs []string
		want []string
	}{
		{[]string{"app:1"}, []string{"app:1"}},
		{[]string{"app"}, []string{"app:1", "app:2", "app:other"}},
		{[]string{"app:1", "elsewhere:1", "app:1"}, []string{"app:1", "elsewhere:1"}},
		{[]string{one.ID.Hex[:12]}, []string{"<none>"}},
	} {
		other := newStore(t)
		mustLoad(t, other, mustSave(t, s, c.refs...))
		if got := names(t, other); !slices.Equal(got, c.want) {
			t.Errorf("%q: saved %q; want %q", c.refs, got, c.want)
		}
	}
}

// TestSaveRefused: nothing is written of what cannot be saved whole.
func TestSaveRefused(t *testing.T) {
	s := newStore(t)
	img := loadAs(t, s, "app:1", "1")
	if err := s.SetBuiltin("uroot", Builtin{Layers: []Disk{{Path: "x", Size: 1}}}); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]error{"nothing": ErrNotFound, "A B": ErrReference, "": ErrReference, "uroot": ErrBuiltin, "app@" + someDigest: ErrNotFound} {
		var b bytes.Buffer
		if err := s.Save(t.Context(), &b, []string{"app:1", ref}, SaveOptions{}); !errors.Is(err, want) || b.Len() > 0 {
			t.Errorf("%q: %v after %d bytes; want %v", ref, err, b.Len(), want)
		}
	}
	if err := s.Save(canceled(t), io.Discard, []string{"app:1"}, SaveOptions{}); err == nil {
		t.Error("a canceled context was not noticed")
	}
	if err := s.Save(t.Context(), fullDisk{}, []string{"app:1"}, SaveOptions{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("full disk: %v", err)
	}
	layer := checkOriginal(t, s, img).manifest.Layers[0].Digest
	damage(t, s, layer, false)
	if err := s.Save(t.Context(), io.Discard, []string{"app:1"}, SaveOptions{}); !errors.Is(err, ErrDigest) {
		t.Errorf("damaged layer: %v", err)
	}
	damage(t, s, layer, true)
	var b bytes.Buffer
	if err := s.Save(t.Context(), &b, []string{"app:1"}, SaveOptions{}); !errors.Is(err, ErrMissing) || b.Len() > 0 {
		t.Errorf("missing layer: %v after %d bytes", err, b.Len())
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, unix.ENOSPC }

// TestLoadBoth: an archive in both formats whose parts do not fit. manifest.json
// counts; the layout may only add a manifest for the same bytes.
func TestLoadBoth(t *testing.T) {
	reg := newRegistry(t)
	uncompressed := layerTar(t, "f=1")
	source := newStore(t)
	img := mustPull(t, source, reg.push(t, "app:1", makeImage(t, "x", uncompressed)))
	good, _ := unpack(t, mustSave(t, source, reg.host+"/app:1"))
	read := func(name string) part {
		b, err := os.ReadFile(filepath.Join(good, name))
		if err != nil {
			t.Fatal(err)
		}
		return part{name, b}
	}
	o := checkOriginal(t, source, img)
	layer := o.manifest.Layers[0]
	config, manifest, compressed := read(blobName(img.ID)), read(blobName(img.Manifest)), read(blobName(layer.Digest))
	list, index := read("manifest.json"), read("index.json")
	blob := func(b []byte) part { return part{blobName(hashOf(b)), b} }
	indexOf := func(d v1.Descriptor) []byte {
		return toJSON(t, v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{d}})
	}
	listOf := func(layer string) part {
		return part{"manifest.json", toJSON(t, []dockerImage{{Config: config.name, RepoTags: []string{"app:1"}, Layers: []string{layer}}})}
	}
	// As docker saves it: a manifest of layers that are not compressed.
	plain := &original{manifest: o.manifest.DeepCopy()}
	plain.manifest.Layers[0] = v1.Descriptor{MediaType: types.OCIUncompressedLayer, Digest: hashOf(uncompressed), Size: int64(len(uncompressed))}
	plain.raw = toJSON(t, plain.manifest)
	wrongSize := o.descriptor()
	wrongSize.Size++
	inner := indexOf(o.descriptor())
	outer := indexOf(v1.Descriptor{MediaType: types.OCIImageIndex, Digest: hashOf(inner), Size: int64(len(inner))})
	for what, c := range map[string]struct {
		members []part
		kept    bool // the manifest is that of the layout
		want    error
	}{
		"whole":             {[]part{config, manifest, compressed, list, index}, true, nil},
		"an index in it":    {[]part{config, manifest, compressed, list, {"index.json", outer}, blob(inner)}, true, nil},
		"no index":          {[]part{config, manifest, compressed, list}, false, nil},
		"no manifest":       {[]part{config, compressed, list, index}, false, nil},
		"empty index":       {[]part{config, manifest, compressed, list, {"index.json", []byte("{}")}}, false, nil},
		"wrong size":        {[]part{config, manifest, compressed, list, {"index.json", indexOf(wrongSize)}}, false, nil},
		"other layers":      {[]part{config, manifest, compressed, {"layer.tar", uncompressed}, index, listOf("layer.tar")}, false, nil},
		"docker's":          {[]part{config, blob(plain.raw), blob(uncompressed), {"index.json", indexOf(plain.descriptor())}, listOf(blob(uncompressed).name)}, false, nil},
		"rubbish for index": {[]part{config, manifest, compressed, list, {"index.json", []byte("{")}}, false, ErrManifest},
		"damaged layer":     {[]part{config, manifest, {compressed.name, append([]byte("x"), compressed.data[1:]...)}, list, index}, false, ErrDigest},
	} {
		s := newStore(t)
		images, err := s.Load(t.Context(), bytes.NewReader(archiveOf(t, c.members...)), LoadOptions{})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v; want %v", what, err, c.want)
		}
		if g := garbage(t, s); g != nil {
			t.Errorf("%s: left behind: %q", what, g)
		}
		if err != nil {
			continue
		}
		if images[0].ID != img.ID || (images[0].Manifest == img.Manifest) != c.kept {
			t.Errorf("%s: manifest %s, of the layout %s", what, images[0].Manifest, img.Manifest)
		}
		if l := checkOriginal(t, s, images[0]).manifest.Layers[0]; l.MediaType != types.OCILayer {
			t.Errorf("%s: layer %+v", what, l)
		}
	}
}

// TestLoadManyManifests: a layout with more than anybody needs is read in part only.
func TestLoadManyManifests(t *testing.T) {
	b := toJSON(t, v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{}})
	self := v1.Descriptor{MediaType: types.OCIImageIndex, Digest: hashOf(b), Size: int64(len(b))}
	members := []part{{blobName(self.Digest), b}}
	// Each level names the one below a hundred times.
	for range 3 {
		b = toJSON(t, v1.IndexManifest{SchemaVersion: 2, Manifests: slices.Repeat([]v1.Descriptor{self}, 100)})
		self = v1.Descriptor{MediaType: types.OCIImageIndex, Digest: hashOf(b), Size: int64(len(b))}
		members = append(members, part{blobName(self.Digest), b})
	}
	set := &countingSet{files: make(map[string][]byte)}
	for _, m := range append(members, part{"index.json", b}) {
		set.files[m.name] = m.data
	}
	s := newStore(t)
	l := &loader{o: &operation{s: s}, set: set}
	if m, err := l.manifestOf([]byte("{}"), nil); m != nil || err != nil {
		t.Errorf("%v, %v", m, err)
	}
	if set.opened > maxManifests+1 {
		t.Errorf("%d files were read", set.opened)
	}
}

// countingSet is a fileSet in memory that counts what is opened.
type countingSet struct {
	files  map[string][]byte
	opened int
}

func (c *countingSet) open(name string) (io.ReadCloser, int64, error) {
	c.opened++
	b, ok := c.files[name]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

func (c *countingSet) close() error { return nil }
