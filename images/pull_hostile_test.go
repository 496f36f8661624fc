package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestPullFromBadRegistries: each ends in a clear error, nothing is stored.
func TestPullFromBadRegistries(t *testing.T) {
	img := makeImage(t, "x", layerTar(t, "big="+noise(100_000)))
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	compressed := blobOf(t, layers[0])
	config, _ := img.ConfigName()
	manifest, _ := img.RawManifest()
	onBlob := func(d v1.Hash, answer func(w http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
			if isBlob(r, d) {
				answer(w, r)
				return
			}
			inner.ServeHTTP(w, r)
		}
	}
	onManifest := func(answer func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				answer(w)
				return
			}
			inner.ServeHTTP(w, r)
		}
	}
	wrong := bytes.Clone(compressed)
	wrong[len(wrong)/2] ^= 1
	for name, c := range map[string]struct {
		wrap func(http.ResponseWriter, *http.Request, http.Handler)
		want string
		is   error
	}{
		"wrong bytes":  {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { w.Write(wrong) }), "digest sha256:", ErrDigest},
		"too short":    {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { sized(w, compressed[:50_000]) }), "announced instead of", ErrDigest},
		"too long":     {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { sized(w, append(bytes.Clone(compressed), "more"...)) }), "announced instead of", ErrDigest},
		"endless":      {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { endless(w, compressed) }), "more than the", ErrDigest},
		"stops midway": {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { cut(w, compressed, 0) }), "", ErrRegistry},
		"empty":        {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() }), "", ErrRegistry},
		"silent":       {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); <-r.Context().Done() }), "silent", ErrRegistry},
		"no answer":    {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), "", ErrRegistry},
		"wrong range": {onBlob(digest, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				cut(w, compressed, 50_000)
			}
			w.Header().Set("Content-Range", "bytes 0-99/100")
			w.WriteHeader(http.StatusPartialContent)
		}), "range", ErrDigest},
		"blob is gone":        {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }), "", ErrNoSuchImage},
		"blob is denied":      {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) }), "", ErrDenied},
		"server error":        {onBlob(digest, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }), "500", ErrRegistry},
		"wrong configuration": {onBlob(config, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("{}")) }), "instead of", ErrDigest},
		"endless config":      {onBlob(config, func(w http.ResponseWriter, r *http.Request) { endless(w, compressed) }), "instead of", ErrDigest},
		"redirected away": {onBlob(digest, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/blob", http.StatusTemporaryRedirect)
		}), "plain HTTP to 192.0.2.1", ErrRegistry},
		"redirected in circles": {onBlob(digest, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}), "redirects", ErrRegistry},
		"no manifest":        {onManifest(func(w http.ResponseWriter) { http.Error(w, "", http.StatusNotFound) }), "", ErrNoSuchImage},
		"endless manifest":   {onManifest(func(w http.ResponseWriter) { endless(w, manifest) }), "manifest", ErrLimit},
		"rubbish manifest":   {onManifest(func(w http.ResponseWriter) { io.WriteString(w, "<html>") }), "manifest", ErrManifest},
		"lying manifest":     {onManifest(func(w http.ResponseWriter) { w.Header().Set("Docker-Content-Digest", someDigest); w.Write(manifest) }), "instead of " + someDigest, ErrDigest},
		"unknown media type": {onManifest(func(w http.ResponseWriter) { io.WriteString(w, `{"schemaVersion":2,"mediaType":"application/x"}`) }), "application/x", ErrUnsupported},
		"index in itself": {func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				inner.ServeHTTP(w, r)
				return
			}
			w.Write(indexTower(strings.TrimPrefix(filepath.Base(r.URL.Path), "latest")))
		}, "indexes in each other", ErrLimit},
		"ping fails": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) { http.Error(w, "", http.StatusBadGateway) }, "502", ErrRegistry},
		"huge layer": {onManifest(func(w http.ResponseWriter) {
			w.Write(bytes.ReplaceAll(manifest, fmt.Appendf(nil, `"size":%d`, len(compressed)), []byte(`"size":9000000000000000000`)))
		}), "at most", ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := newRegistry(t)
			ref := reg.push(t, "app", img)
			reg.intercept(c.wrap)
			s := newStore(t)
			if name == "silent" || name == "no answer" {
				s.net.idle = 200 * time.Millisecond
			}
			s.net.attempts = 2
			_, _, err := s.Pull(t.Context(), ref, nobody)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want one with %q that is %q", err, c.want, c.is)
			}
			for _, f := range files(t, s) {
				if !strings.HasPrefix(f, "images/partial/") || errors.Is(err, ErrDigest) {
					t.Errorf("left behind: %q", f)
				}
			}
			// The registry is mended, and the store is none the worse.
			reg.wrap.Store(nil)
			s.net = defaultNetwork()
			checkImage(t, mustPull(t, s, ref))
			if g := garbage(t, s); g != nil {
				t.Errorf("left behind: %q", g)
			}
		})
	}
}

// sized announces how much it answers.
func sized(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.Write(b)
}

// endless answers with more and more.
func endless(w http.ResponseWriter, b []byte) {
	for {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

// cut announces all of b and breaks the connection after n bytes.
func cut(w http.ResponseWriter, b []byte, n int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.Write(b[:n])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// indexTower is an index that leads to the next one, whose digest must be right.
func indexTower(digest string) []byte {
	floor := []byte(`{"schemaVersion":2,"manifests":[]}`)
	for range maxIndexDepth + 2 {
		x := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, types.OCIImageIndex, hashOf(floor), len(floor))
		if hashOf(floor).String() == digest {
			return floor
		}
		floor = x
	}
	return floor
}

func TestPullUnreachable(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	s := newStore(t)
	if _, _, err := s.Pull(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/app", nobody); !errors.Is(err, ErrRegistry) {
		t.Errorf("error %v", err)
	}
	if _, _, err := s.Pull(t.Context(), "A B", nobody); !errors.Is(err, ErrReference) {
		t.Errorf("error %v", err)
	}
	if left := files(t, s); left != nil {
		t.Errorf("left behind: %q", left)
	}
}
