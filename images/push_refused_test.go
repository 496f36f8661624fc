package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestPushRefused: what a registry or the store can do to a push.
func TestPushRefused(t *testing.T) {
	status := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for what, c := range map[string]struct {
		method, part string
		answer       func(http.ResponseWriter, *http.Request)
		want         error
	}{
		"no credentials":           {"", "/v2/", status(http.StatusUnauthorized), ErrDenied},
		"may not look":             {http.MethodHead, "/blobs/", status(http.StatusUnauthorized), ErrDenied},
		"may not write":            {http.MethodPost, "/blobs/uploads/", status(http.StatusForbidden), ErrDenied},
		"no such repository":       {http.MethodPost, "/blobs/uploads/", status(http.StatusNotFound), ErrNoSuchImage},
		"taken before it was sent": {http.MethodPost, "/blobs/uploads/", status(http.StatusCreated), ErrRegistry},
		"nowhere to send it":       {http.MethodPost, "/blobs/uploads/", status(http.StatusAccepted), ErrRegistry},
		"a place elsewhere, without TLS": {http.MethodPost, "/blobs/uploads/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://192.0.2.1/upload")
			w.WriteHeader(http.StatusAccepted)
		}, ErrRegistry},
		"too large":          {http.MethodPatch, "/blobs/uploads/", status(http.StatusRequestEntityTooLarge), ErrRegistry},
		"wrong digest":       {http.MethodPut, "/blobs/uploads/", status(http.StatusBadRequest), ErrRegistry},
		"manifest not taken": {http.MethodPut, "/manifests/", status(http.StatusBadRequest), ErrRegistry},
		"immutable tag":      {http.MethodPut, "/manifests/", status(http.StatusForbidden), ErrDenied},
		"another digest": {http.MethodPut, "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", someDigest)
			w.WriteHeader(http.StatusCreated)
		}, ErrDigest},
	} {
		t.Run(what, func(t *testing.T) {
			reg := newRegistry(t)
			reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
				if (c.method == "" || r.Method == c.method) && strings.Contains(r.URL.Path, c.part) {
					io.Copy(io.Discard, r.Body)
					c.answer(w, r)
					return
				}
				inner.ServeHTTP(w, r)
			})
			s := newStore(t)
			s.net.attempts = 2
			loadAs(t, s, reg.host+"/app:1", "1")
			if _, err := s.Push(t.Context(), reg.host+"/app:1", anyone); !errors.Is(err, c.want) {
				t.Errorf("error %v; want %v", err, c.want)
			}
			if g := garbage(t, s); g != nil {
				t.Errorf("left behind: %q", g)
			}
		})
	}
	s := newStore(t)
	loadAs(t, s, "app:1", "1")
	for ref, want := range map[string]error{"nothing": ErrNotFound, "A B": ErrReference, "app@" + someDigest: ErrReference, "": ErrReference} {
		if _, err := s.Push(t.Context(), ref, anyone); !errors.Is(err, want) {
			t.Errorf("%q: %v; want %v", ref, err, want)
		}
	}
	if err := s.SetBuiltin("uroot", Builtin{Layers: []Disk{{Path: "x", Size: 1}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Push(t.Context(), "uroot", anyone); !errors.Is(err, ErrBuiltin) {
		t.Errorf("error %v", err)
	}
	if _, err := s.Push(canceled(t), "app:1", anyone); err == nil {
		t.Error("a canceled context was not noticed")
	}
}

// TestPushSilentRegistry: a registry that takes no more of a layer does not keep a push forever.
func TestPushSilentRegistry(t *testing.T) {
	reg := newRegistry(t)
	end := make(chan struct{})
	t.Cleanup(func() { close(end) }) // before the server is closed
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if r.Method == http.MethodPatch {
			<-end
			return
		}
		inner.ServeHTTP(w, r)
	})
	s := newStore(t)
	s.net.attempts, s.net.idle = 1, 500*time.Millisecond
	mustLoad(t, s, dockerArchive(t, reg.host+"/app:1", makeImage(t, "x", layerTar(t, "big="+noise(20_000_000)))))
	if _, err := s.Push(t.Context(), reg.host+"/app:1", anyone); !errors.Is(err, ErrRegistry) {
		t.Errorf("error %v", err)
	}
}

// damage changes the last byte of a blob of the store, or removes it.
func damage(t testing.TB, s *Store, h v1.Hash, remove bool) {
	t.Helper()
	path := s.blobPath(h)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil && !remove {
		b[len(b)-1] ^= 1
		err = os.WriteFile(path, b, 0o400)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPushDamaged: what is not as it was when it came is not pushed; pulling
// again brings back what is gone.
func TestPushDamaged(t *testing.T) {
	for _, removed := range []bool{false, true} {
		for _, what := range []string{"layer", "manifest"} {
			reg := newRegistry(t)
			img := testImage(t)
			s := newStore(t)
			got := mustPull(t, s, reg.push(t, "app:1", img))
			target := newRegistry(t)
			mustTag(t, s, reg.host+"/app:1", target.host+"/app:1")
			var asked requests
			target.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
				asked.count(r)
				inner.ServeHTTP(w, r)
			})
			h := got.Manifest
			if what == "layer" {
				h = checkOriginal(t, s, got).manifest.Layers[1].Digest
			}
			damage(t, s, h, removed)
			want := ErrDigest
			if removed {
				want = ErrMissing
			}
			if _, err := s.Push(t.Context(), target.host+"/app:1", anyone); !errors.Is(err, want) {
				t.Errorf("%s, removed %v: error %v", what, removed, err)
			}
			if asked.of("PUT manifests") != 0 {
				t.Errorf("%s, removed %v: the manifest was pushed", what, removed)
			}
			if !removed {
				continue
			}
			if _, pulled, err := s.Pull(t.Context(), reg.host+"/app:1", nobody); err != nil || pulled.UpToDate {
				t.Errorf("%s: pull %+v, %v", what, pulled, err)
			}
			mustPush(t, s, target.host+"/app:1", anyone)
		}
	}
}

// TestPushToken: a registry that hands out tokens is asked for the right to push,
// and to pull from where layers may be mounted.
func TestPushToken(t *testing.T) {
	reg := newRegistry(t)
	s := newStore(t)
	mustPull(t, s, reg.push(t, "base:1", testImage(t)))
	mustTag(t, s, reg.host+"/base:1", reg.host+"/team/app:1")
	var scopes []string
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && (user != "me" || password != "secret"):
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/token":
			scopes = r.URL.Query()["scope"]
			json.NewEncoder(w).Encode(map[string]string{"token": "good"})
		case r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, reg.host))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			inner.ServeHTTP(w, r)
		}
	})
	if _, err := s.Push(t.Context(), reg.host+"/team/app:1", anyone); !errors.Is(err, ErrDenied) {
		t.Errorf("error %v", err)
	}
	mustPush(t, s, reg.host+"/team/app:1", PushOptions{Keychain: oneLogin{reg.host, authn.AuthConfig{Username: "me", Password: "secret"}}})
	if want := []string{"repository:team/app:push,pull", "repository:base:pull"}; !slices.Equal(scopes, want) {
		t.Errorf("scopes %q; want %q", scopes, want)
	}
	for _, c := range []struct {
		password string
		want     error
	}{{"secret", nil}, {"other", ErrDenied}} {
		err := CheckLogin(t.Context(), reg.host, authn.AuthConfig{Username: "me", Password: c.password}, false)
		if !errors.Is(err, c.want) {
			t.Errorf("password %q: %v", c.password, err)
		}
	}
}

// oneLogin is a keychain for one registry.
type oneLogin struct {
	host   string
	config authn.AuthConfig
}

func (o oneLogin) Resolve(target authn.Resource) (authn.Authenticator, error) {
	if target.RegistryStr() != o.host {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(o.config), nil
}

func TestCheckLogin(t *testing.T) {
	reg := newRegistry(t)
	if err := CheckLogin(t.Context(), reg.host, authn.AuthConfig{Username: "me", Password: "x"}, false); err != nil {
		t.Errorf("a registry that asks for nothing: %v", err)
	}
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	for password, want := range map[string]error{"secret": nil, "wrong": ErrDenied, "": ErrDenied} {
		if err := CheckLogin(t.Context(), reg.host, authn.AuthConfig{Username: "me", Password: password}, false); !errors.Is(err, want) {
			t.Errorf("password %q: %v; want %v", password, err, want)
		}
	}
	for _, domain := range []string{"", "a b", "http://x", "x/y"} {
		if err := CheckLogin(t.Context(), domain, authn.AuthConfig{}, false); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %v", domain, err)
		}
	}
	reg.Close()
	if err := CheckLogin(canceled(t), reg.host, authn.AuthConfig{Username: "me"}, false); err == nil {
		t.Error("a registry that is gone took a login")
	}
}
