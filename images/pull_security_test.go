package images

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPullAuthentication: a registry that wants a password, given by the keychain.
func TestPullAuthentication(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.push(t, "private", testImage(t))
	reg.intercept(func(w http.ResponseWriter, r *http.Request, inner http.Handler) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	s := newStore(t)
	if _, _, err := s.Pull(t.Context(), ref, nobody); !errors.Is(err, ErrDenied) {
		t.Errorf("error %v", err)
	}
	// As docker login writes it.
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	config := map[string]any{"auths": map[string]any{reg.host: map[string]string{"auth": "bWU6c2VjcmV0"}}}
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Error(err)
	}
}

// TestPullSecurity: which connections may be unsafe.
func TestPullSecurity(t *testing.T) {
	seen := func(http.ResponseWriter, *http.Request) {}
	plain := httptest.NewServer(http.HandlerFunc(seen))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(seen))
	defer secure.Close()
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, c := range []struct {
		registry string
		insecure bool
		url      string
		ok       bool
	}{
		{"127.0.0.1:1", false, plain.URL, true},
		{"localhost", false, plain.URL, true},
		{"[::1]:1", false, plain.URL, true},
		{"127.0.0.1:1", false, secure.URL, true},
		{"registry.example", false, plain.URL, false},
		{"10.0.0.1", false, plain.URL, false},
		{"registry.example", false, secure.URL, false}, // certificate of nobody
		{"registry.example", true, plain.URL, true},
		{strings.TrimPrefix(secure.URL, "https://"), true, secure.URL, true},
	} {
		rt := newRoundTripper(c.registry, c.insecure, defaultNetwork())
		resp, err := (&http.Client{Transport: rt}).Get(c.url)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
		if err == nil {
			resp.Body.Close()
		} else if isTransient(explain(t.Context(), err, nil)) {
			t.Errorf("%+v: would be tried again: %v", c, err)
		}
		rt.close()
	}
}

// TestPullOverTLS: a registry on this host with a certificate nobody signed.
func TestPullOverTLS(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewTLSServer(inner)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	ref, err := name.ParseReference(host + "/app")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	if err := remote.Write(ref, testImage(t), remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	checkImage(t, mustPull(t, newStore(t), ref.String()))
}
