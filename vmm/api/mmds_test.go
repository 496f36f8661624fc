package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// metadataServer is the service with some metadata, as the guest reaches it.
func metadataServer(t *testing.T, c mmdsConfig) http.Handler {
	t.Helper()
	s := New(Config{})
	t.Cleanup(func() { s.Close() })
	if _, err := s.route("PUT", "/mmds", []byte(`{"latest":{"meta-data":{"ami-id":"ami-1","n":43,"tags":["a",{"b":"c"}],"network":{"x":{}},"html":"<&>"}}}`)); err != nil {
		t.Fatal(err)
	}
	return s.metadataHandler(c)
}

// asks makes a request with headers, "name: value" each.
func asks(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://169.254.169.254"+path, nil)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestMetadata(t *testing.T) {
	h := metadataServer(t, mmdsConfig{Version: mmdsV1})
	const asJSON = "Accept: application/json"
	for _, c := range []struct {
		method, path, header string
		status               int
		want                 string
	}{
		{"GET", "/latest/meta-data/", "", 200, "ami-id\nhtml\nn\nnetwork/\ntags"},
		{"GET", "/latest//meta-data///ami-id", "", 200, "ami-1"},
		{"GET", "/latest/meta-data/ami-id", asJSON, 200, `"ami-1"`},
		{"GET", "/latest/meta-data/html", asJSON, 200, `"<&>"`},
		{"GET", "/latest/meta-data/tags/1/b", "", 200, "c"},
		{"GET", "/latest/meta-data/tags", asJSON, 200, `["a",{"b":"c"}]`},
		{"GET", "/latest/meta-data/n", asJSON, 200, "43"},
		{"GET", "/latest/meta-data/n", "", 501, "Cannot retrieve value. The value has an unsupported type."},
		{"GET", "/", "", 200, "latest/"},
		{"GET", "/nothing", "", 404, "Resource not found: /nothing."},
		{"GET", "/latest/meta-data/tags/01", "", 404, "Resource not found: /latest/meta-data/tags/01."},
		{"GET", "/latest/meta-data/tags/-1", "", 404, "Resource not found: /latest/meta-data/tags/-1."},
		{"GET", "/latest/meta-data/ami-id/x", "", 404, "Resource not found: /latest/meta-data/ami-id/x."},
		{"PUT", "/latest/api/token", "", 405, "Not allowed HTTP method."},
		{"POST", "/", "", 405, "Not allowed HTTP method."},
	} {
		w := asks(h, c.method, c.path, c.header)
		if w.Code != c.status || w.Body.String() != c.want {
			t.Errorf("%s %s %s: %d %q, want %d %q", c.method, c.path, c.header, w.Code, w.Body, c.status, c.want)
		}
	}
	// Compatible with EC2, it is never JSON.
	h = metadataServer(t, mmdsConfig{Version: mmdsV1, IMDSCompat: true})
	if w := asks(h, "GET", "/latest/meta-data/ami-id", asJSON); w.Body.String() != "ami-1" || w.Header().Get("Content-Type") != "text/plain" {
		t.Errorf("%q as %s", w.Body, w.Header().Get("Content-Type"))
	}
}

func TestTokens(t *testing.T) {
	h := metadataServer(t, mmdsConfig{Version: mmdsV2})
	const path = "/latest/meta-data/ami-id"
	for _, c := range []struct {
		method, path, header string
		status               int
		want                 string
	}{
		{"GET", path, "", 401, "No MMDS token provided."},
		{"GET", path, "X-metadata-token: abc", 401, "MMDS token not valid."},
		{"PUT", tokenPath, "", 400, "Token time to live value not found."},
		{"PUT", tokenPath, "X-metadata-token-ttl-seconds: 0", 400, "between 1 and 21600"},
		{"PUT", tokenPath, "X-metadata-token-ttl-seconds: 21601", 400, "between 1 and 21600"},
		{"PUT", tokenPath, "X-metadata-token-ttl-seconds: soon", 400, "between 1 and 21600"},
		{"PUT", "/latest/other", "X-metadata-token-ttl-seconds: 60", 404, "Resource not found: /latest/other."},
		{"PUT", tokenPath, "X-Forwarded-For: 1.2.3.4", 400, "Unsupported header name"},
		{"PATCH", path, "", 405, "Not allowed HTTP method."},
	} {
		w := asks(h, c.method, c.path, c.header)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s %s: %d %q, want %d %q", c.method, c.path, c.header, w.Code, w.Body, c.status, c.want)
		}
	}
	for _, spelling := range []string{"X-metadata-token", "X-aws-ec2-metadata-token"} {
		w := asks(h, "PUT", tokenPath, spelling+"-ttl-seconds: 60")
		if w.Code != 200 {
			t.Fatalf("%d %q", w.Code, w.Body)
		}
		if w := asks(h, "GET", path, spelling+": "+w.Body.String()); w.Code != 200 || w.Body.String() != "ami-1" {
			t.Errorf("%s: %d %q", spelling, w.Code, w.Body)
		}
	}
}

// TestTokensEnd: they end in time, and a guest that wants them without end keeps those that live longest.
func TestTokensEnd(t *testing.T) {
	var tk tokens
	if token := tk.make(-time.Second); tk.valid(token) {
		t.Error("a token is valid beyond its end")
	}
	long := tk.make(time.Hour)
	for range 2 * maxTokens {
		tk.make(time.Minute)
	}
	if len(tk.until) > maxTokens || !tk.valid(long) {
		t.Errorf("%d tokens are kept, the longest is valid: %v", len(tk.until), tk.valid(long))
	}
	if tk.valid("") {
		t.Error("no token is valid")
	}
}

// FuzzMetadata: no path of the guest's does harm.
func FuzzMetadata(f *testing.F) {
	f.Add("/latest/meta-data/tags/0")
	f.Add("//")
	f.Add("/~1/%00")
	f.Fuzz(func(t *testing.T, path string) {
		var m metadata
		m.init(1000)
		v, err := parseAny([]byte(`{"":{"a":[1,[2]]},"b":null}`))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.put(v); err != nil {
			t.Fatal(err)
		}
		if v, ok := m.find(path); ok {
			_, _ = imds(v)
		}
	})
}
