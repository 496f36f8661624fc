package images

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// anyone is a keychain without credentials, see nobody.
var anyone = PushOptions{Keychain: nobody.Keychain}

func mustPush(t testing.TB, s *Store, ref string, opts PushOptions) []Pushed {
	t.Helper()
	done, err := s.Push(t.Context(), ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func mustTag(t testing.TB, s *Store, src, name string) {
	t.Helper()
	if err := s.Tag(t.Context(), src, name); err != nil {
		t.Fatal(err)
	}
}

// requests counts what a registry is asked, as "METHOD first-segment-after-the-repository".
type requests struct {
	mu     sync.Mutex
	counts map[string]int
}

func (r *requests) count(req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = make(map[string]int)
	}
	kind := "ping"
	for _, k := range []string{"/blobs/uploads/", "/blobs/", "/manifests/"} {
		if strings.Contains(req.URL.Path, k) {
			kind = strings.Trim(k, "/")
			break
		}
	}
	r.counts[req.Method+" "+kind]++
}

func (r *requests) of(kind string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[kind]
}

// TestPushPulled: an image keeps its digest from registry to registry, whatever
// wrote it, and back.
func TestPushPulled(t *testing.T) {
	from, to := newRegistry(t), newRegistry(t)
	img := testImage(t)
	digest, _ := img.Digest()
	s := newStore(t)
	mustPull(t, s, from.push(t, "app:1", img))
	target := to.host + "/team/copy:2"
	mustTag(t, s, from.host+"/app:1", target)
	var rec recorder
	opts := anyone
	opts.Progress = &rec
	var told []string
	opts.Begin = func(r Reference) { told = append(told, "begin "+r.String()) }
	opts.End = func(p Pushed) { told = append(told, fmt.Sprint("end ", p.Reference, " ", p.Digest)) }
	done := mustPush(t, s, target, opts)
	raw, _ := img.RawManifest()
	if len(done) != 1 || done[0].Digest != digest || done[0].Size != int64(len(raw)) || done[0].Reference.String() != target {
		t.Errorf("pushed %+v", done)
	}
	if want := []string{"begin " + target, "end " + target + " " + digest.String()}; !slices.Equal(told, want) {
		t.Errorf("told %q; want %q", told, want)
	}
	layers, _ := img.Layers()
	for _, l := range layers {
		d, _ := l.DiffID()
		if p := rec.phases()[d.Hex]; !slices.Equal(p, []Phase{PhasePreparing, PhasePushing, PhasePushed}) {
			t.Errorf("phases of %s: %v", d, p)
		}
	}
	got, err := s.Get(t.Context(), target)
	if err != nil || len(got.Digests) != 2 || !slices.ContainsFunc(got.Digests, func(r Reference) bool { return r.Path == "team/copy" && r.Digest == digest.String() }) {
		t.Errorf("digests %v, %v", got.Digests, err)
	}
	// Another client, and another store, see the same.
	ref, err := name.ParseReference(target)
	if err != nil {
		t.Fatal(err)
	}
	if seen, err := remote.Image(ref); err != nil {
		t.Error(err)
	} else if d, _ := seen.Digest(); d != digest {
		t.Errorf("digest %s instead of %s", d, digest)
	}
	other := newStore(t)
	if back := mustPull(t, other, target); back.Manifest != digest || back.ID != got.ID {
		t.Errorf("pulled back: %+v", back)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
}

// TestPushImported: an image that hull made has a digest once and for all.
func TestPushImported(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/mine:1"
	s := newStore(t)
	img := loadAs(t, s, ref, "1")
	first := mustPush(t, s, ref, anyone)[0]
	if first.Digest != img.Manifest {
		t.Errorf("digest %s instead of %s", first.Digest, img.Manifest)
	}
	if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	pulled := mustPull(t, s, ref)
	if pulled.Manifest != first.Digest || pulled.ID != img.ID {
		t.Errorf("pulled %+v", pulled)
	}
	checkImage(t, pulled)
	// Loading it once more from the archive it came from changes nothing of that.
	if again := loadAs(t, s, ref, "1"); again.Manifest != first.Digest || again.ID != img.ID {
		t.Errorf("loaded again: %+v", again)
	}
	var asked requests
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		asked.count(r)
		inner.ServeHTTP(w, r)
	})
	var rec recorder
	opts := anyone
	opts.Progress = &rec
	if again := mustPush(t, s, ref, opts)[0]; again.Digest != first.Digest {
		t.Errorf("pushed again: %+v", again)
	}
	if asked.of("POST blobs/uploads") != 0 || asked.of("HEAD blobs") != 2 || asked.of("PUT manifests") != 1 || !rec.has(PhaseThere) {
		t.Errorf("asked %v, phases %v", asked.counts, rec.phases())
	}
}

// TestPushKeepsManifest: what an archive names keeps the digest that a registry
// has for it, also when it is loaded after the pull.
func TestPushKeepsManifest(t *testing.T) {
	reg := newRegistry(t)
	img := testImage(t)
	digest, _ := img.Digest()
	s := newStore(t)
	mustPull(t, s, reg.push(t, "app:1", img))
	loaded := mustLoad(t, s, dockerArchive(t, "loaded:1", img))[0]
	if loaded.Manifest != digest {
		t.Errorf("manifest %s instead of %s", loaded.Manifest, digest)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
	// And the other way round.
	s = newStore(t)
	loaded = mustLoad(t, s, dockerArchive(t, "loaded:1", img))[0]
	if loaded.Manifest == digest {
		t.Fatal("the archive's layers are compressed as the registry has them; the test needs others")
	}
	if pulled := mustPull(t, s, reg.host+"/app:1"); pulled.Manifest != digest || pulled.ID != loaded.ID {
		t.Errorf("pulled %+v", pulled)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
	if _, err := s.Get(t.Context(), "loaded:1"); err != nil {
		t.Error(err)
	}
	mustTag(t, s, "loaded:1", reg.host+"/other:1")
	if done := mustPush(t, s, reg.host+"/other:1", anyone); done[0].Digest != digest {
		t.Errorf("pushed %+v", done)
	}
}

// TestPushMounts: layers come from another repository of the same registry, unless it refuses.
func TestPushMounts(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		reg := newRegistry(t)
		img := testImage(t)
		s := newStore(t)
		mustPull(t, s, reg.push(t, "team/base:1", img))
		mustTag(t, s, reg.host+"/team/base:1", reg.host+"/copy:1")
		var mounted, sent atomic.Int32
		var there sync.Map
		reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
			q := r.URL.Query()
			switch {
			case r.Method == http.MethodHead: // blobs of the test's registry are in all of its repositories
				if _, ok := there.Load(r.URL.Path); !ok {
					w.WriteHeader(http.StatusNotFound)
					return
				}
			case r.Method == http.MethodPost && q.Get("mount") != "":
				if q.Get("from") != "team/base" {
					t.Errorf("mount from %q", q.Get("from"))
				}
				if refuse {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				mounted.Add(1)
				w.WriteHeader(http.StatusCreated)
				return
			case r.Method == http.MethodPatch:
				sent.Add(1)
			}
			inner.ServeHTTP(w, r)
		})
		var rec recorder
		opts := anyone
		opts.Progress = &rec
		digest, _ := img.Digest()
		if done := mustPush(t, s, reg.host+"/copy:1", opts); done[0].Digest != digest {
			t.Errorf("pushed %+v", done)
		}
		// The configuration is no layer that may be mounted.
		want := [2]int32{3, 1}
		if refuse {
			want = [2]int32{0, 4}
		}
		if got := [2]int32{mounted.Load(), sent.Load()}; got != want || rec.has(PhaseMounted) == refuse {
			t.Errorf("refused %v: mounted and sent %v; want %v", refuse, got, want)
		}
	}
}

// TestPushAllTags pushes what has the repository's name and nothing else.
func TestPushAllTags(t *testing.T) {
	reg := newRegistry(t)
	s := newStore(t)
	loadAs(t, s, reg.host+"/app:1", "1")
	loadAs(t, s, reg.host+"/app:2", "2")
	mustTag(t, s, reg.host+"/app:2", reg.host+"/app:latest")
	loadAs(t, s, reg.host+"/app/more:1", "3")
	opts := anyone
	opts.AllTags = true
	var tags []string
	for _, p := range mustPush(t, s, reg.host+"/app", opts) {
		tags = append(tags, p.Reference.Tag)
	}
	if !slices.Equal(tags, []string{"1", "2", "latest"}) {
		t.Errorf("tags %q", tags)
	}
	repository, err := name.NewRepository(reg.host + "/app")
	if err != nil {
		t.Fatal(err)
	}
	if there, err := remote.List(repository); err != nil || !slices.Equal(there, tags) {
		t.Errorf("in the registry: %q, %v", there, err)
	}
	if _, err := s.Push(t.Context(), reg.host+"/nothing", opts); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

// TestPushGoesOn: the connection breaks while a layer is sent; it is sent again.
func TestPushGoesOn(t *testing.T) {
	reg := newRegistry(t)
	s := newStore(t)
	ref := reg.host + "/app:1"
	img := mustLoad(t, s, dockerArchive(t, ref, makeImage(t, "x", layerTar(t, "big="+noise(500_000)))))[0]
	var broken atomic.Int32
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if r.Method == http.MethodPatch && r.ContentLength > 100_000 && broken.Add(1) < 3 {
			io.CopyN(io.Discard, r.Body, 50_000)
			panic(http.ErrAbortHandler)
		}
		inner.ServeHTTP(w, r)
	})
	var rec recorder
	opts := anyone
	opts.Progress = &rec
	if done := mustPush(t, s, ref, opts); done[0].Digest != img.Manifest || !rec.has(PhaseRetrying) || broken.Load() != 3 {
		t.Errorf("pushed %+v after %d attempts, phases %v", done, broken.Load(), rec.phases())
	}
	// For good.
	reg2 := newRegistry(t)
	reg2.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if r.Method == http.MethodPatch {
			panic(http.ErrAbortHandler)
		}
		inner.ServeHTTP(w, r)
	})
	mustTag(t, s, ref, reg2.host+"/app:1")
	if _, err := s.Push(t.Context(), reg2.host+"/app:1", anyone); !errors.Is(err, ErrRegistry) {
		t.Errorf("error %v", err)
	}
	if got, err := s.Get(t.Context(), reg2.host+"/app:1"); err != nil || len(got.Digests) != 1 {
		t.Errorf("a failed push left digests %v, %v", got.Digests, err)
	}
}
