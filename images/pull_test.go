package images

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// nobody is a keychain without credentials, so that tests do not read those of whoever runs them.
var nobody = PullOptions{Keychain: authn.NewMultiKeychain()}

// testRegistry is a registry on this host. wrap, which may be nil, stands between it and its clients.
type testRegistry struct {
	*httptest.Server
	host string
	wrap atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler)]
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r := &testRegistry{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if wrap := r.wrap.Load(); wrap != nil {
			(*wrap)(w, req, inner)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	r.host = strings.TrimPrefix(r.URL, "http://")
	return r
}

func (r *testRegistry) intercept(wrap func(http.ResponseWriter, *http.Request, http.Handler)) {
	r.wrap.Store(&wrap)
}

// push puts an image into the registry and returns its name there.
func (r *testRegistry) push(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

func mustPull(t testing.TB, s *Store, ref string) *Image {
	t.Helper()
	img, _, err := s.Pull(t.Context(), ref, nobody)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func isBlob(r *http.Request, d v1.Hash) bool {
	return strings.HasSuffix(r.URL.Path, "/blobs/"+d.String())
}

func TestPull(t *testing.T) {
	reg := newRegistry(t)
	img := testImage(t)
	ref := reg.push(t, "team/app:1", img)
	s := newStore(t)
	var rec recorder
	opts := nobody
	opts.Progress = &rec
	got, pulled, err := s.Pull(t.Context(), ref, opts)
	if err != nil || pulled.UpToDate {
		t.Fatalf("%+v, %v", pulled, err)
	}
	want, _ := img.ConfigName()
	digest, _ := img.Digest()
	if got.ID != want || got.Manifest != digest || len(got.Disks) != 3 || got.References[0].String() != ref || got.Digests[0].Digest != digest.String() {
		t.Errorf("image %+v", got)
	}
	checkImage(t, got)
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
	layers, _ := img.Layers()
	for _, l := range layers {
		d, _ := l.Digest()
		if p := rec.phases()[d.Hex]; !slices.Equal(p, []Phase{PhaseWaiting, PhaseDownloading, PhaseVerifying, PhaseConverting, PhaseDone}) {
			t.Errorf("phases of %s: %v", d, p)
		}
	}
	// Again, by tag and by digest.
	for _, again := range []string{ref, fmt.Sprintf("%s/team/app@%s", reg.host, digest)} {
		before := files(t, s)
		if _, pulled, err := s.Pull(t.Context(), again, nobody); err != nil || !pulled.UpToDate || pulled.Digest != digest {
			t.Errorf("pull %s again: %+v, %v", again, pulled, err)
		}
		if after := files(t, s); !slices.Equal(before, after) {
			t.Errorf("files\n%q\nbecame\n%q", before, after)
		}
	}
	// The tag moves; the old image stays without a name.
	reg.push(t, "team/app:1", makeImage(t, "new", layerTar(t, "new=1")))
	if moved := mustPull(t, s, ref); moved.ID == got.ID {
		t.Error("the old image was pulled")
	}
	old, err := s.Get(t.Context(), got.ID.String())
	if err != nil || len(old.References) != 0 || len(old.Digests) != 1 {
		t.Errorf("the old image: %+v, %v", old, err)
	}
}

// TestPullByDigest gives the image no tag.
func TestPullByDigest(t *testing.T) {
	reg := newRegistry(t)
	img := testImage(t)
	reg.push(t, "app:1", img)
	digest, _ := img.Digest()
	s := newStore(t)
	got := mustPull(t, s, reg.host+"/app:other@"+digest.String())
	if len(got.References) != 0 || len(got.Digests) != 1 {
		t.Errorf("image %+v", got)
	}
	if _, err := s.Get(t.Context(), reg.host+"/app@"+digest.String()); err != nil {
		t.Error(err)
	}
}

// TestPullSharedLayers: a layer that came with an archive, compressed otherwise, is
// downloaded, as the image would not be what the registry has without it, but it is
// not converted again. One that came from a registry is not even downloaded.
func TestPullSharedLayers(t *testing.T) {
	reg := newRegistry(t)
	img := testImage(t)
	ref := reg.push(t, "app", img)
	s := newStore(t)
	loaded := mustLoad(t, s, dockerArchive(t, "loaded", makeImage(t, "other", layersOf(t, img)[:2]...)))[0]
	var rec recorder
	opts := nobody
	opts.Progress = &rec
	got, _, err := s.Pull(t.Context(), ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Disks[:2], loaded.Disks) {
		t.Errorf("disks %v and %v", got.Disks, loaded.Disks)
	}
	layers, _ := img.Layers()
	for _, l := range layers[:2] {
		d, _ := l.Digest()
		if p := rec.phases()[d.Hex]; slices.Contains(p, PhaseConverting) || p[len(p)-1] != PhaseDone {
			t.Errorf("phases of %s: %v", d, p)
		}
	}
	checkOriginal(t, s, got)
	other := reg.push(t, "other", makeImage(t, "other", layersOf(t, img)[:2]...))
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		for _, l := range layers {
			if d, _ := l.Digest(); isBlob(r, d) {
				http.Error(w, "not to be asked for", http.StatusTeapot)
				return
			}
		}
		inner.ServeHTTP(w, r)
	})
	checkOriginal(t, s, mustPull(t, s, other))
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
}

// layersOf returns the uncompressed layers of an image.
func layersOf(t testing.TB, img v1.Image) (all [][]byte) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func TestPullPlatforms(t *testing.T) {
	reg := newRegistry(t)
	arm := makeImage(t, "arm", layerTar(t, "b=1"))
	c, _ := arm.ConfigFile()
	c = c.DeepCopy()
	c.Architecture = "arm64"
	arm, err := mutate.ConfigFile(arm, c)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.DockerManifestList),
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: testImage(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
	)
	ref, err := name.ParseReference(reg.host + "/multi")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	top, _ := index.Digest()
	s := newStore(t)
	got, pulled, err := s.Pull(t.Context(), ref.String(), nobody)
	if err != nil || got.Config.Architecture != "amd64" || got.Digests[0].Digest != top.String() || pulled.Digest != top {
		t.Errorf("image %+v, %+v, %v", got, pulled, err)
	}
	// What is pushed is the manifest of this platform, as the index has it.
	target := reg.host + "/elsewhere:1"
	mustTag(t, s, ref.String(), target)
	if done := mustPush(t, s, target, anyone); done[0].Digest != got.Manifest || done[0].Digest == top {
		t.Errorf("pushed %+v", done)
	}
	opts := nobody
	opts.Platform = "linux/arm64"
	if got, _, err := s.Pull(t.Context(), ref.String(), opts); err != nil || got.Config.Architecture != "arm64" {
		t.Errorf("%+v, %v", got, err)
	}
	opts.Platform = "linux/s390x"
	if _, _, err := s.Pull(t.Context(), ref.String(), opts); !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "linux/arm64/v8, linux/amd64") {
		t.Errorf("error %v", err)
	}
	// An image that is not in an index, for another platform.
	only := reg.push(t, "only-arm", arm)
	if _, _, err := s.Pull(t.Context(), only, nobody); !errors.Is(err, ErrPlatform) {
		t.Errorf("error %v", err)
	}
	opts.Platform = "linux/arm64"
	for _, upToDate := range []bool{false, true} {
		if _, pulled, err := s.Pull(t.Context(), only, opts); err != nil || pulled.UpToDate != upToDate {
			t.Errorf("%+v, %v", pulled, err)
		}
	}
	if _, _, err := s.Pull(t.Context(), only, nobody); !errors.Is(err, ErrPlatform) {
		t.Errorf("it is here for another platform, but that was not wanted: %v", err)
	}
}

// TestPullTogether: several pulls of the same image at once, in stores of the same directory.
func TestPullTogether(t *testing.T) {
	reg := newRegistry(t)
	img := makeImage(t, "x", layerTar(t, "a="+noise(200_000)), layerTar(t, "b="+noise(200_000)), layerTar(t, "c=1"))
	ref := reg.push(t, "app", img)
	var asked sync.Map
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			n, _ := asked.LoadOrStore(r.URL.Path, new(atomic.Int32))
			n.(*atomic.Int32).Add(1)
		}
		inner.ServeHTTP(w, r)
	})
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		s := openStore(t, dir)
		wg.Go(func() {
			if _, _, err := s.Pull(t.Context(), ref, nobody); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := openStore(t, dir)
	got, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, got)
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
	layers, _ := img.Layers()
	for _, l := range layers {
		d, _ := l.Digest()
		if n, ok := asked.Load("/v2/app/blobs/" + d.String()); !ok || n.(*atomic.Int32).Load() != 1 {
			t.Errorf("layer %s was not fetched exactly once", d)
		}
	}
}
