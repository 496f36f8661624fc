package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

func zstdCompressed(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// layoutDir writes an image as an OCI layout.
func layoutDir(t testing.TB, img v1.Image, opts ...layout.Option) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, opts...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tarOfDir makes a tar of a directory.
func tarOfDir(t testing.TB, dir string) []byte {
	t.Helper()
	var members []part
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		members = append(members, part{rel, b})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return archiveOf(t, members...)
}

var named = layout.WithAnnotations(map[string]string{annotationRefName: "example.com/app:1"})

// TestLoadForms: every form of archive gives the same image.
func TestLoadForms(t *testing.T) {
	img := testImage(t)
	want, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	docker := dockerArchive(t, "example.com/app:1", img)
	dir := layoutDir(t, img, named)
	oci := tarOfDir(t, dir)
	write := func(b []byte) string {
		name := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	stream := func(b []byte) func(*Store) ([]*Image, error) {
		return func(s *Store) ([]*Image, error) {
			return s.Load(t.Context(), io.MultiReader(bytes.NewReader(b)), LoadOptions{})
		}
	}
	path := func(name string) func(*Store) ([]*Image, error) {
		return func(s *Store) ([]*Image, error) { return s.LoadPath(t.Context(), name, LoadOptions{}) }
	}
	for name, load := range map[string]func(*Store) ([]*Image, error){
		"docker":              stream(docker),
		"docker, gzip":        stream(gzipped(t, docker)),
		"docker, zstd":        stream(zstdCompressed(t, docker)),
		"docker, file":        path(write(docker)),
		"docker, gzip file":   path(write(gzipped(t, docker))),
		"OCI":                 stream(oci),
		"OCI, gzip":           stream(gzipped(t, oci)),
		"OCI, zstd file":      path(write(zstdCompressed(t, oci))),
		"OCI, directory":      path(dir),
		"docker, with layout": stream(slices.Concat(docker[:len(docker)-1024], oci)),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			images, err := load(s)
			if err != nil {
				t.Fatal(err)
			}
			if len(images) != 1 || images[0].ID != want || len(images[0].References) != 1 || images[0].References[0].String() != "example.com/app:1" {
				t.Fatalf("images %+v", images)
			}
			got, err := s.Get(t.Context(), "example.com/app:1")
			if err != nil {
				t.Fatal(err)
			}
			if got.Config.Config.Cmd[0] != "/bin/sh" || len(got.Disks) != 3 || got.Size == 0 {
				t.Errorf("image %+v", got)
			}
			checkImage(t, got)
			if g := garbage(t, s); g != nil {
				t.Errorf("left behind: %q", g)
			}
		})
	}
}

// TestDisksDoNotDependOnTheForm: the same image from two archives has the same disk images.
func TestDisksDoNotDependOnTheForm(t *testing.T) {
	img := testImage(t)
	a, b := newStore(t), newStore(t)
	one := mustLoad(t, a, dockerArchive(t, "app", img))[0]
	two := mustLoad(t, b, tarOfDir(t, layoutDir(t, img, named)))[0]
	for i := range one.Disks {
		x, err := os.ReadFile(one.Disks[i].Path)
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(two.Disks[i].Path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Errorf("disk %d differs", i)
		}
	}
}

// TestLoadTwice: a second load changes nothing and reads no layer.
func TestLoadTwice(t *testing.T) {
	s := newStore(t)
	b := dockerArchive(t, "app", testImage(t))
	mustLoad(t, s, b)
	before := files(t, s)
	var rec recorder
	if _, err := s.Load(t.Context(), bytes.NewReader(b), LoadOptions{Progress: &rec}); err != nil {
		t.Fatal(err)
	}
	if after := files(t, s); !slices.Equal(before, after) {
		t.Errorf("files\n%q\nbecame\n%q", before, after)
	}
	if rec.has(PhaseConverting) || !rec.has(PhaseExists) {
		t.Errorf("progress %v", rec.phases())
	}
}

// TestSharedLayers: images that share layers share files; the archive of a
// layer that the store has is not even looked at.
func TestSharedLayers(t *testing.T) {
	s := newStore(t)
	base := layerTar(t, "bin/", "bin/sh=#!")
	one := mustLoad(t, s, dockerArchive(t, "one", makeImage(t, "1", base, layerTar(t, "a=1"))))[0]
	img := makeImage(t, "2", base, layerTar(t, "b=2"))
	two := mustLoad(t, s, dockerArchive(t, "two", img))[0]
	if one.Disks[0] != two.Disks[0] || one.Disks[1] == two.Disks[1] {
		t.Errorf("disks %v and %v", one.Disks, two.Disks)
	}
	// An image of the same layers the other way round needs no archive either.
	config, err := makeImage(t, "3", layerTar(t, "b=2"), base).RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest := toJSON(t, []dockerImage{{Config: "c", RepoTags: []string{"three"}, Layers: []string{"gone", "too"}}})
	three := mustLoad(t, s, archiveOf(t, part{"c", config}, part{"manifest.json", manifest}))[0]
	if three.Disks[0] != two.Disks[1] || three.Disks[1] != one.Disks[0] {
		t.Errorf("disks %v", three.Disks)
	}
	// The layers stay until the last image that has them is gone.
	for _, name := range []string{"one", "three"} {
		if _, err := s.Remove(t.Context(), name, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		img, err := s.Get(t.Context(), "two")
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, img)
		if g := garbage(t, s); g != nil {
			t.Errorf("after removing %s: %q", name, g)
		}
	}
}

// TestContextualLayers: the disk of a layer that depends on what is below is
// not shared with the same layer elsewhere.
func TestContextualLayers(t *testing.T) {
	s := newStore(t)
	top := layerTar(t, "etc/f=without its directory", "bin/.wh.sh=")
	one := mustLoad(t, s, dockerArchive(t, "one", makeImage(t, "1", layerTar(t, "etc/", "bin/", "bin/sh=x"), top)))[0]
	two := mustLoad(t, s, dockerArchive(t, "two", makeImage(t, "2", layerTar(t, "opt/"), top)))[0]
	if one.Disks[1].Path == two.Disks[1].Path {
		t.Errorf("%v and %v", one.Disks, two.Disks)
	}
}

// TestFlattened: a hard link across layers puts them into one disk; the ones
// it replaces are not kept, but made again for an image that needs them.
func TestFlattened(t *testing.T) {
	s := newStore(t)
	base, second := layerTar(t, "bin/", "bin/sh=x"), layerTar(t, "etc/", "etc/f=1")
	flat := mustLoad(t, s, dockerArchive(t, "flat", makeImage(t, "1", base, second, layerTar(t, "link=>bin/sh"), layerTar(t, "more=1"))))[0]
	if len(flat.Disks) != 2 || !strings.Contains(flat.Disks[0].Path, "chain-") {
		t.Fatalf("disks %v", flat.Disks)
	}
	checkImage(t, flat)
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
	plain := mustLoad(t, s, dockerArchive(t, "plain", makeImage(t, "2", base, second)))[0]
	if len(plain.Disks) != 2 {
		t.Fatalf("disks %v", plain.Disks)
	}
	checkImage(t, plain)
	// The same flat layers under one more are found again.
	again := mustLoad(t, s, dockerArchive(t, "again", makeImage(t, "3", base, second, layerTar(t, "link=>bin/sh"), layerTar(t, "other=1"))))[0]
	if again.Disks[0] != flat.Disks[0] {
		t.Errorf("disks %v", again.Disks)
	}
	if _, err := s.Remove(t.Context(), "plain", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
}

func TestEmptyImages(t *testing.T) {
	for name, img := range map[string]v1.Image{
		"no layers":    makeImage(t, "x"),
		"empty layer":  makeImage(t, "x", layerTar(t)),
		"empty layers": makeImage(t, "x", layerTar(t), layerTar(t)),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			got := mustLoad(t, s, dockerArchive(t, "empty", img))[0]
			if len(got.Disks) != 1 {
				t.Fatalf("disks %v", got.Disks)
			}
			checkImage(t, got)
			if g := garbage(t, s); g != nil {
				t.Errorf("left behind: %q", g)
			}
		})
	}
	// An empty layer among others has no disk.
	s := newStore(t)
	img := makeImage(t, "x", layerTar(t, "a=1"), layerTar(t), layerTar(t, "b=2"))
	if got := mustLoad(t, s, dockerArchive(t, "app", img))[0]; len(got.Disks) != 2 {
		t.Errorf("disks %v", got.Disks)
	}
}

// TestManyLayers: docker's limit is 127.
func TestManyLayers(t *testing.T) {
	const n = 127
	config := v1.ConfigFile{OS: "linux", RootFS: v1.RootFS{Type: "layers"}}
	d := dockerImage{Config: "c", RepoTags: []string{"many"}}
	var members []part
	for i := range n {
		b := layerTar(t, "f="+strings.Repeat("x", i))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, hashOf(b))
		d.Layers = append(d.Layers, fmt.Sprint(i))
		members = append(members, part{fmt.Sprint(i), b})
	}
	archive := archiveOf(t, append(members, part{"c", toJSON(t, config)}, part{"manifest.json", toJSON(t, []dockerImage{d})})...)
	if got := mustLoad(t, newStore(t), archive)[0]; len(got.Disks) != n {
		t.Errorf("%d disks", len(got.Disks))
	}
	s, err := OpenOptions(t.TempDir(), Options{Limits: Limits{Layers: n - 1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{}); !errors.Is(err, ErrLimit) {
		t.Errorf("one more than allowed: %v", err)
	}
}

func TestLoadPlatforms(t *testing.T) {
	amd, arm := makeImage(t, "amd", layerTar(t, "a=1")), makeImage(t, "arm", layerTar(t, "b=1"))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: makeImage(t, "attestation"), Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{attestation: "attestation-manifest"}}},
	)
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(index, named); err != nil {
		t.Fatal(err)
	}
	for platform, want := range map[string]string{"": "amd", "linux/amd64": "amd", "linux/arm64": "arm", "linux/arm64/v8": "arm"} {
		images, err := newStore(t).LoadPath(t.Context(), dir, LoadOptions{Platform: platform})
		if err != nil || len(images) != 1 || images[0].Config.Config.Cmd[0] != want || len(images[0].References) != 1 {
			t.Errorf("%q: %v, %v", platform, images, err)
		}
	}
	for _, platform := range []string{"linux/riscv64", "linux/arm64/v9"} {
		if _, err := newStore(t).LoadPath(t.Context(), dir, LoadOptions{Platform: platform}); !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "linux/amd64") {
			t.Errorf("%s: %v", platform, err)
		}
	}
	for _, platform := range []string{"linux", "linux//", "a/b/c/d"} {
		if _, err := newStore(t).LoadPath(t.Context(), dir, LoadOptions{Platform: platform}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", platform, err)
		}
	}
	// All platforms at the top of index.json.
	dir = t.TempDir()
	if _, err := layout.Write(dir, index); err != nil {
		t.Fatal(err)
	}
	images, err := newStore(t).LoadPath(t.Context(), dir, LoadOptions{})
	if err != nil || len(images) != 1 || images[0].Config.Config.Cmd[0] != "amd" {
		t.Errorf("%v, %v", images, err)
	}
}

// TestLoadMedia: layers are taken for what they are, whatever they are called.
func TestLoadMedia(t *testing.T) {
	layer := layerTar(t, "a=1")
	config := toJSON(t, v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf(layer)}}})
	for name, b := range map[string][]byte{"plain": layer, "gzip": gzipped(t, layer), "zstd": zstdCompressed(t, layer)} {
		for _, mediaType := range []types.MediaType{types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.OCIRestrictedLayer} {
			archive := ociArchive(t, config, mediaType, b)
			images, err := newStore(t).Load(t.Context(), bytes.NewReader(archive), LoadOptions{})
			if err != nil || len(images[0].Disks) != 1 || len(images[0].References) != 0 {
				t.Errorf("%s as %s: %v, %v", name, mediaType, images, err)
			}
		}
	}
}

// ociArchive makes an OCI layout of one image without a name.
func ociArchive(t testing.TB, config []byte, mediaType types.MediaType, layers ...[]byte) []byte {
	t.Helper()
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hashOf(config)}}
	members := []part{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, blobPart(config)}
	for _, b := range layers {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: mediaType, Size: int64(len(b)), Digest: hashOf(b)})
		members = append(members, blobPart(b))
	}
	return ociLayoutOf(t, toJSON(t, m), members...)
}

func blobPart(b []byte) part { return part{"blobs/sha256/" + hashOf(b).Hex, b} }

// ociLayoutOf adds a manifest and an index.json to the members of a layout.
func ociLayoutOf(t testing.TB, manifest []byte, members ...part) []byte {
	t.Helper()
	index := toJSON(t, v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: hashOf(manifest)}}})
	return archiveOf(t, append(members, blobPart(manifest), part{"index.json", index})...)
}
