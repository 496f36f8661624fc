package images

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestLoadRefuses: archives that must be refused with a clear error, after
// which the store is as it was.
func TestLoadRefuses(t *testing.T) {
	layer := layerTar(t, "f=1")
	config := toJSON(t, v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf(layer)}}})
	docker := func(d dockerImage, members ...part) []byte {
		return archiveOf(t, append(members, part{"manifest.json", toJSON(t, []dockerImage{d})})...)
	}
	usual := dockerImage{Config: "c", RepoTags: []string{"app"}, Layers: []string{"l"}}
	withConfig := func(c string) []byte { return docker(usual, part{"c", []byte(c)}, part{"l", layer}) }
	withLayer := func(b []byte) []byte {
		c := toJSON(t, v1.ConfigFile{RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf(b)}}})
		return docker(usual, part{"c", c}, part{"l", b})
	}
	manifest := func(change func(*v1.Manifest)) []byte {
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
			Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hashOf(config)},
			Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Size: int64(len(layer)), Digest: hashOf(layer)}}}
		change(&m)
		return ociLayoutOf(t, toJSON(t, m), blobPart(config), blobPart(layer))
	}
	rawManifest := func(s string) []byte { return ociLayoutOf(t, []byte(s), blobPart(config), blobPart(layer)) }
	good := docker(usual, part{"c", config}, part{"l", layer})
	for name, c := range map[string]struct {
		archive []byte
		want    string
		is      error
	}{
		"nothing":              {nil, "neither manifest.json", ErrArchive},
		"not a tar":            {[]byte(strings.Repeat("rubbish ", 200)), "invalid tar header", ErrArchive},
		"damaged gzip":         {append(gzipped(t, good)[:200], "rubbish"...), "decompress", ErrArchive},
		"gzip cut short":       {gzipped(t, good)[:300], "decompress", ErrArchive},
		"zstd cut short":       {zstdCompressed(t, good)[:300], "decompress", ErrArchive},
		"neither":              {archiveOf(t, part{"x", nil}), "neither manifest.json", ErrArchive},
		"dot dot":              {archiveOf(t, part{"../x", nil}), "leads out", ErrArchive},
		"manifest is not JSON": {archiveOf(t, part{"manifest.json", []byte("{")}), "manifest.json", ErrManifest},
		"manifest is no list":  {archiveOf(t, part{"manifest.json", []byte(`{"a":1}`)}), "manifest.json", ErrManifest},
		"manifest is empty":    {archiveOf(t, part{"manifest.json", []byte(`[]`)}), "names no image", ErrManifest},
		"no config":            {docker(dockerImage{Layers: []string{"l"}}), "without a configuration", ErrManifest},
		"bad tag":              {docker(dockerImage{Config: "c", RepoTags: []string{"A B"}}), "not a name with a tag", ErrManifest},
		"config missing":       {docker(usual, part{"l", layer}), `"c" is not in the archive`, ErrArchive},
		"config outside":       {docker(dockerImage{Config: "../../etc/passwd"}), "leads out", ErrArchive},
		"layer missing":        {docker(usual, part{"c", config}), `"l" is not in the archive`, ErrArchive},
		"config is not JSON":   {withConfig("rubbish"), "image configuration", ErrManifest},
		"config of a type":     {withConfig(`{"rootfs":{"type":"disk","diff_ids":["` + hashOf(layer).String() + `"]}}`), `type "disk"`, ErrUnsupported},
		"config counts":        {withConfig(`{"rootfs":{"type":"layers","diff_ids":[]}}`), "0 diffIDs for 1 layers", ErrManifest},
		"config with sha512":   {withConfig(`{"rootfs":{"type":"layers","diff_ids":["sha512:` + strings.Repeat("0", 128) + `"]}}`), "configuration", ErrManifest},
		"config path diffID":   {withConfig(`{"rootfs":{"type":"layers","diff_ids":["sha256:../../../../x"]}}`), "configuration", ErrManifest},
		"diffID":               {withConfig(`{"rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]}}`), "instead of " + someDigest, ErrDigest},
		"layer is not a tar":   {withLayer([]byte(strings.Repeat("rubbish ", 200))), "damaged", ErrLayer},
		"layer cut short":      {withLayer(layerTar(t, "f="+strings.Repeat("x", 2000))[:1500]), "cut short", ErrLayer},
		"layer with dot dot":   {withLayer(layerTar(t, "../f=1")), "leads out", ErrLayer},
		"layer with a link":    {withLayer(layerTar(t, "a=>/../etc/passwd")), "leads out", ErrLayer},
		"link to nothing":      {withLayer(layerTar(t, "a=>b")), "no such file", ErrLayer},

		"OCI index is not JSON":  {archiveOf(t, part{"index.json", []byte("{")}), "index.json", ErrManifest},
		"OCI index is empty":     {archiveOf(t, part{"index.json", []byte("{}")}), "names no image", ErrManifest},
		"OCI missing manifest":   {archiveOf(t, part{"index.json", []byte(`{"manifests":[{"digest":"` + someDigest + `","size":1}]}`)}), "not in the archive", ErrArchive},
		"OCI digest is a path":   {archiveOf(t, part{"index.json", []byte(`{"manifests":[{"digest":"sha256:../../x","size":1}]}`)}), "index.json", ErrManifest},
		"OCI negative size":      {manifest(func(m *v1.Manifest) { m.Layers[0].Size = -1 }), "size of -1", ErrManifest},
		"OCI layer size":         {manifest(func(m *v1.Manifest) { m.Layers[0].Size++ }), "bytes instead of", ErrDigest},
		"OCI missing layer":      {manifest(func(m *v1.Manifest) { m.Layers[0].Digest = hashOf([]byte("x")) }), "not in the archive", ErrArchive},
		"OCI unknown layer":      {manifest(func(m *v1.Manifest) { m.Layers[0].MediaType = "application/x" }), `"application/x"`, ErrUnsupported},
		"OCI encrypted layer":    {manifest(func(m *v1.Manifest) { m.Layers[0].MediaType += "+encrypted" }), "+encrypted", ErrUnsupported},
		"OCI artifact":           {manifest(func(m *v1.Manifest) { m.Config.MediaType = types.OCIEmptyJSON }), "not a container image", ErrUnsupported},
		"OCI layers and diffIDs": {manifest(func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), "1 diffIDs for 2 layers", ErrManifest},
		"OCI manifest rubbish":   {rawManifest(`rubbish`), "manifest", ErrManifest},
		"OCI manifest of both":   {rawManifest(`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`), "both", ErrManifest},
		"OCI schema 1":           {rawManifest(`{"schemaVersion":1,"fsLayers":[]}`), "schema 1", ErrUnsupported},
		"OCI disguised index":    {rawManifest(`{"schemaVersion":2,"manifests":[]}`), "announced as", ErrManifest},
		"OCI other type":         {rawManifest(`{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","config":{},"layers":[]}`), "announced as", ErrManifest},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			mustLoad(t, s, dockerArchive(t, "before", makeImage(t, "x", layerTar(t, "before=1"))))
			before := files(t, s)
			_, err := s.Load(t.Context(), bytes.NewReader(c.archive), LoadOptions{})
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want one with %q that is %q", err, c.want, c.is)
			}
			if after := files(t, s); !slices.Equal(before, after) {
				t.Errorf("files\n%q\nbecame\n%q", before, after)
			}
		})
	}
}

// TestLoadIsAllOrNothing: the second image of an archive is bad.
func TestLoadIsAllOrNothing(t *testing.T) {
	layer := layerTar(t, "f=1")
	config := toJSON(t, v1.ConfigFile{RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf(layer)}}})
	manifest := toJSON(t, []dockerImage{{Config: "c", RepoTags: []string{"one"}, Layers: []string{"l"}}, {Config: "gone", RepoTags: []string{"two"}, Layers: []string{"l"}}})
	s := newStore(t)
	_, err := s.Load(t.Context(), bytes.NewReader(archiveOf(t, part{"c", config}, part{"l", layer}, part{"manifest.json", manifest})), LoadOptions{})
	if !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), "image two") {
		t.Errorf("error %v", err)
	}
	if left := files(t, s); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

// TestLoadCutShort: an archive cut anywhere is refused.
func TestLoadCutShort(t *testing.T) {
	whole := dockerArchive(t, "app", makeImage(t, "x", layerTar(t, "a="+strings.Repeat("x", 1000))))
	s := newStore(t)
	for n := 0; n < len(whole)-1024-512; n += 509 { // the last member fills its last block only in part
		if _, err := s.Load(t.Context(), bytes.NewReader(whole[:n]), LoadOptions{}); err == nil {
			t.Fatalf("cut after %d of %d bytes and loaded", n, len(whole))
		}
	}
	if left := files(t, s); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

// TestLoadLimits: what is larger than allowed.
func TestLoadLimits(t *testing.T) {
	zeros := strings.Repeat("\x00", 1<<20)
	archive := dockerArchive(t, "bomb", makeImage(t, "x", layerTar(t, "a="+zeros, "b="+zeros, "c="+zeros)))
	oci := tarOfDir(t, layoutDir(t, makeImage(t, "x", layerTar(t, "a="+zeros, "b="+zeros, "c="+zeros))))
	tail := gzipped(t, slices.Concat(layerTar(t, "f=1"), make([]byte, 70<<20))) // zeros after the end mark
	config := toJSON(t, v1.ConfigFile{RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf(nil)}}})
	for name, c := range map[string]struct {
		limits  Limits
		archive []byte
	}{
		"archive":         {Limits{Archive: 1 << 20}, gzipped(t, archive)},
		"archive, zstd":   {Limits{Archive: 1 << 20}, zstdCompressed(t, archive)},
		"layer":           {Limits{Blob: 1 << 20}, archive},
		"layer unpacked":  {limitsOf(1<<20, 0), oci},
		"layer tail":      {limitsOf(1<<20, 0), ociArchive(t, config, types.OCILayer, tail)},
		"layer entries":   {limitsOf(0, 2), oci},
		"manifest":        {Limits{Manifest: 10}, archive},
		"OCI manifest":    {Limits{Manifest: 300}, oci},
		"OCI blob":        {Limits{Blob: 100}, oci},
		"number of files": {Limits{}, manyMembers(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := OpenOptions(t.TempDir(), Options{Limits: c.limits})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(t.Context(), bytes.NewReader(c.archive), LoadOptions{}); !errors.Is(err, ErrLimit) {
				t.Errorf("error %v", err)
			}
			if left := files(t, s); left != nil {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func limitsOf(unpacked int64, entries int) Limits {
	var l Limits
	l.Layer.Unpacked, l.Layer.Entries = unpacked, entries
	return l
}

func manyMembers(t *testing.T) []byte {
	members := make([]part, maxMembers+1)
	for i := range members {
		members[i].name = "x"
	}
	return archiveOf(t, members...)
}

// TestLayoutDirectoryIsAPrison: symbolic links in a layout lead nowhere outside it.
func TestLayoutDirectoryIsAPrison(t *testing.T) {
	dir := layoutDir(t, testImage(t), named)
	outside := filepath.Join(t.TempDir(), "index.json")
	if err := os.Rename(filepath.Join(dir, "index.json"), outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "index.json")); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	if _, err := s.LoadPath(t.Context(), dir, LoadOptions{}); err == nil {
		t.Error("a link out of the layout was followed")
	}
	for _, path := range []string{filepath.Join(dir, "missing"), "/dev/null", t.TempDir()} {
		if _, err := s.LoadPath(t.Context(), path, LoadOptions{}); err == nil {
			t.Errorf("%s was loaded", path)
		}
	}
	if left := files(t, s); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

func TestLoadCanceled(t *testing.T) {
	s := newStore(t)
	if _, err := s.Load(canceled(t), bytes.NewReader(dockerArchive(t, "app", testImage(t))), LoadOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left := files(t, s); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

// TestArchiveLinks: older versions of docker save write layers that several
// images share as symbolic links.
func TestArchiveLinks(t *testing.T) {
	layer := layerTar(t, "f=1")
	config := toJSON(t, v1.ConfigFile{RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf(layer)}}})
	manifest := toJSON(t, []dockerImage{{Config: "c", RepoTags: []string{"app"}, Layers: []string{"b/layer.tar"}}})
	with := func(target string) []byte {
		b := layerTar(t, "b/layer.tar->"+target)
		members := archiveOf(t, part{"a/layer.tar", layer}, part{"c", config}, part{"manifest.json", manifest})
		return slices.Concat(b[:len(b)-1024], members)
	}
	s := newStore(t)
	mustLoad(t, s, with("../a/layer.tar"))
	for _, target := range []string{"../../../etc/passwd", "../b/layer.tar", "../gone"} {
		if _, err := newStore(t).Load(t.Context(), bytes.NewReader(with(target)), LoadOptions{}); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// FuzzDockerManifest: whatever manifest.json holds, the names that come out of it are good.
func FuzzDockerManifest(f *testing.F) {
	f.Add([]byte(`[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]`))
	f.Add([]byte(`[{"Config":"c","RepoTags":null}]`))
	f.Add([]byte(`[{"Config":"","RepoTags":["a@sha256:0"]}]`))
	f.Add([]byte(`[null]`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseDockerManifest(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		for _, img := range all {
			for _, tag := range img.RepoTags {
				if _, err := ParseReference(tag); err != nil {
					t.Fatalf("%q: %v", tag, err)
				}
			}
		}
	})
}

// FuzzManifest: manifests and indexes of registries and layouts.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+someDigest+`","size":2},"layers":[]}`), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+someDigest+`","platform":{"os":"linux","architecture":"amd64"}}]}`), string(types.OCIImageIndex))
	f.Add([]byte(`{"schemaVersion":1}`), string(types.DockerManifestSchema1))
	f.Fuzz(func(t *testing.T, b []byte, mediaType string) {
		m, x, err := parseManifest(b, types.MediaType(mediaType))
		if err != nil {
			if !errors.Is(err, ErrManifest) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if (m == nil) == (x == nil) {
			t.Fatal("it is both or neither")
		}
		if m != nil {
			for _, d := range append(m.Layers, m.Config) {
				if !validDigest(d.Digest) || d.Size < 0 {
					t.Fatalf("descriptor %+v", d)
				}
			}
		}
	})
}

// FuzzLoad: archives of any kind.
func FuzzLoad(f *testing.F) {
	img := makeImage(f, "x", layerTar(f, "f=1"))
	f.Add(dockerArchive(f, "app", img))
	f.Add(tarOfDir(f, layoutDir(f, img, named)))
	f.Add(gzipped(f, dockerArchive(f, "app", img)))
	saved := newStore(f)
	mustLoad(f, saved, dockerArchive(f, "app", img))
	f.Add(mustSave(f, saved, "app"))
	s, err := OpenOptions(f.TempDir(), Options{Limits: Limits{Archive: 1 << 20, Blob: 1 << 20, Layer: limitsOf(1<<20, 100).Layer}})
	if err != nil {
		f.Fatal(err)
	}
	kinds := []error{ErrArchive, ErrManifest, ErrDigest, ErrLayer, ErrLimit, ErrUnsupported, ErrPlatform, ErrReference}
	f.Fuzz(func(t *testing.T, b []byte) {
		images, err := s.Load(t.Context(), bytes.NewReader(b), LoadOptions{})
		if err != nil && !slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) }) {
			t.Fatalf("error of no kind: %v", err)
		}
		for _, img := range images {
			if _, err := s.Remove(t.Context(), img.ID.String(), RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
		}
		if g := garbage(t, s); g != nil {
			t.Fatalf("left behind: %q", g)
		}
	})
}
