package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// TestPullResumes: the connection breaks in the middle of a layer, again and
// again; each request asks for the rest.
func TestPullResumes(t *testing.T) {
	reg := newRegistry(t)
	big := layerTar(t, "big="+noise(500_000))
	img := makeImage(t, "x", big)
	ref := reg.push(t, "app", img)
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	size, _ := layers[0].Size()
	compressed := blobOf(t, layers[0])
	var mu sync.Mutex
	var ranges []string
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if !isBlob(r, digest) {
			inner.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		mu.Unlock()
		var from int64
		status := http.StatusOK
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); n == 1 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
			status = http.StatusPartialContent
		}
		w.Header().Set("Content-Length", fmt.Sprint(size-from))
		w.WriteHeader(status)
		w.Write(compressed[from:min(from+100_000, size)])
	})
	s := newStore(t)
	var rec recorder
	opts := nobody
	opts.Progress = &rec
	got, _, err := s.Pull(t.Context(), ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, got)
	if len(ranges) < 3 || ranges[0] != "" || !strings.HasPrefix(ranges[1], "bytes=") || ranges[1] == ranges[2] || !rec.has(PhaseRetrying) {
		t.Errorf("ranges %q, progress %v", ranges, rec.phases())
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
}

func blobOf(t testing.TB, l v1.Layer) []byte {
	t.Helper()
	r, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// noise is data that compresses to about half.
func noise(n int) string {
	b := make([]byte, n)
	x := uint64(1)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = 'a' + byte(x>>60) // nothing that layerTar takes for something else
	}
	return string(b)
}

// TestPullResumesNextTime: a pull that fails keeps what it has, and the next
// one asks for the rest only, even in another process. What was kept may be wrong.
func TestPullResumesNextTime(t *testing.T) {
	reg := newRegistry(t)
	img := makeImage(t, "x", layerTar(t, "small=1"), layerTar(t, "big="+noise(500_000)))
	ref := reg.push(t, "app", img)
	layers, _ := img.Layers()
	small, _ := layers[0].Digest()
	digest, _ := layers[1].Digest()
	size, _ := layers[1].Size()
	compressed := blobOf(t, layers[1])
	var broken atomic.Bool
	var asked atomic.Value
	asked.Store("")
	smallDone := make(chan struct{})
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		switch {
		case isBlob(r, digest) && broken.Load():
			select {
			case <-smallDone: // so that the other layer is complete when this one fails
			case <-r.Context().Done():
				return
			}
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.Write(compressed[:200_000])
			w.(http.Flusher).Flush()
			broken.Store(false)
			panic(http.ErrAbortHandler)
		case isBlob(r, digest):
			asked.Store(r.Header.Get("Range"))
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(compressed))
		case isBlob(r, small):
			inner.ServeHTTP(w, r)
		default:
			inner.ServeHTTP(w, r)
		}
	})
	dir := t.TempDir()
	for _, spoil := range []bool{false, true} {
		s := openStore(t, dir)
		s.net.attempts = 1
		broken.Store(true)
		done := sync.OnceFunc(func() { close(smallDone) })
		opts := nobody
		opts.Progress = ProgressFunc(func(e Event) {
			if e.ID == small.Hex && (e.Phase == PhaseVerifying || e.Phase == PhaseExists) {
				done()
			}
		})
		if _, _, err := s.Pull(t.Context(), ref, opts); !errors.Is(err, ErrRegistry) {
			t.Fatalf("error %v", err)
		}
		partial := filepath.Join(dir, "images", "partial", digest.Hex+partialSuffix)
		info, err := os.Stat(partial)
		if err != nil || info.Size() != 200_000 {
			t.Fatalf("%v, %v", info, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "images", "partial", small.Hex)); err != nil {
			t.Error(err)
		}
		if spoil {
			if err := os.WriteFile(partial, make([]byte, 200_000), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s = openStore(t, dir)
		img := mustPull(t, s, ref)
		checkImage(t, img)
		want := "bytes=200000-"
		if spoil {
			want = "" // it started over
		}
		if asked.Load() != want {
			t.Errorf("asked for %q instead of %q", asked.Load(), want)
		}
		if g := garbage(t, s); g != nil {
			t.Errorf("left behind: %q", g)
		}
		if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		smallDone = make(chan struct{})
	}
}

// TestPullCanceled: the user gives up in the middle of a layer.
func TestPullCanceled(t *testing.T) {
	reg := newRegistry(t)
	img := makeImage(t, "x", layerTar(t, "big="+noise(100_000)))
	ref := reg.push(t, "app", img)
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	compressed := blobOf(t, layers[0])
	ctx, cancel := context.WithCancel(t.Context())
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if !isBlob(r, digest) {
			inner.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(compressed)))
		w.Write(compressed[:50_000])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	})
	s := newStore(t)
	if _, _, err := s.Pull(ctx, ref, nobody); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	reg.wrap.Store(nil)
	checkImage(t, mustPull(t, s, ref))
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
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
