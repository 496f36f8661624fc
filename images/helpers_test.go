package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// newStore opens a store in a directory of its own.
func newStore(t testing.TB) *Store {
	t.Helper()
	return openStore(t, t.TempDir())
}

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.net.pause = time.Millisecond // tests have no patience
	return s
}

// when is the time of all files.
var when = time.Unix(1_700_000_000, 0)

// layerTar makes a layer. Each entry is "name" + "=" + contents; a name that
// ends with a slash is a directory, "a->b" a symbolic link, "a=>b" a hard link.
func layerTar(t testing.TB, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, ModTime: when}
		var data string
		if name, target, ok := strings.Cut(e, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
		} else if name, target, ok := strings.Cut(e, "=>"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
		} else if h.Name, data, ok = strings.Cut(e, "="); ok || !strings.HasSuffix(e, "/") {
			h.Size = int64(len(data))
		} else {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// makeImage makes an image of layers that layerTar made.
func makeImage(t testing.TB, cmd string, layers ...[]byte) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config.Cmd, c.Created = "linux", "amd64", []string{cmd}, v1.Time{Time: when}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// testImage is an image of three layers.
func testImage(t testing.TB) v1.Image {
	return makeImage(t, "/bin/sh",
		layerTar(t, "bin/", "bin/sh=#!", "etc/", "etc/passwd=root"),
		layerTar(t, "etc/", "etc/.wh.passwd=", "etc/group=x"),
		layerTar(t, "usr/bin/tool=without parents"))
}

// part is a member of an archive.
type part struct {
	name string
	data []byte
}

// archiveOf makes a tar of files.
func archiveOf(t testing.TB, members ...part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o644, Size: int64(len(m.data)), ModTime: when}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dockerArchive makes what docker save writes: the layers are not compressed.
func dockerArchive(t testing.TB, tag string, img v1.Image) []byte {
	t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	id := hashOf(config).Hex
	members := []part{{id + ".json", config}}
	d := dockerImage{Config: id + ".json"}
	if tag != "" {
		d.RepoTags = []string{tag}
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%d/layer.tar", i)
		d.Layers = append(d.Layers, name)
		members = append(members, part{name, b})
	}
	return archiveOf(t, append(members, part{"manifest.json", toJSON(t, []dockerImage{d})})...)
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// mustLoad loads an archive that must be good.
func mustLoad(t testing.TB, s *Store, b []byte) []*Image {
	t.Helper()
	images, err := s.Load(t.Context(), bytes.NewReader(b), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return images
}

// checkImage checks that the disks of an image are good file systems.
func checkImage(t testing.TB, img *Image) {
	t.Helper()
	e2fsck, err := exec.LookPath("e2fsck")
	for _, d := range img.Disks {
		info, serr := os.Stat(d.Path)
		if serr != nil || info.Size() != d.Size || d.Size%4096 != 0 || info.Mode().Perm() != 0o444 {
			t.Fatalf("disk %+v: %v", d, serr)
		}
		if err != nil {
			continue // package layerdisk says that e2fsck is not there
		}
		if out, err := exec.Command(e2fsck, "-fn", d.Path).CombinedOutput(); err != nil {
			t.Fatalf("e2fsck: %v\n%s", err, out)
		}
	}
}

// checkOriginal checks that all an image's manifest names is in the store.
func checkOriginal(t testing.TB, s *Store, img *Image) *original {
	t.Helper()
	x, err := s.readIndex()
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.original(x.byID(img.ID))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// files lists all files of a store but its locks.
func files(t testing.TB, s *Store) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, "lock") {
			rel, _ := filepath.Rel(s.dir, path)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// garbage lists the files of a store that no image needs.
func garbage(t testing.TB, s *Store) []string {
	t.Helper()
	x, err := s.readIndex()
	if err != nil {
		t.Fatal(err)
	}
	needed := []string{"images/index.json"}
	for _, r := range x.Images {
		needed = append(needed, "images/blobs/sha256/"+r.ID.Hex, "images/blobs/sha256/"+r.Manifest.Hex)
		for _, l := range r.Layers {
			needed = append(needed, "images/blobs/sha256/"+l.Blob.Hex)
		}
		for _, l := range r.disks() {
			needed = append(needed, "layers/"+l.Disk)
		}
	}
	var left []string
	for _, name := range files(t, s) {
		if !slices.Contains(needed, name) {
			left = append(left, name)
		}
	}
	return left
}

// recorder keeps all progress.
type recorder struct {
	mu     sync.Mutex
	events []Event
}

func (r *recorder) Progress(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// phases returns the phases of each ID, each once, in order.
func (r *recorder) phases() map[string][]Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string][]Phase)
	for _, e := range r.events {
		if p := out[e.ID]; len(p) == 0 || p[len(p)-1] != e.Phase {
			out[e.ID] = append(p, e.Phase)
		}
	}
	return out
}

func (r *recorder) has(p Phase) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.events, func(e Event) bool { return e.Phase == p })
}

func canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
