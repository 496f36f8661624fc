package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

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
