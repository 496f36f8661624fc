package images

import (
	"errors"
	"strings"
	"testing"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseReference(t *testing.T) {
	for _, c := range []struct{ in, full, familiar string }{
		{"debian", "docker.io/library/debian:latest", "debian:latest"},
		{"debian:12", "docker.io/library/debian:12", "debian:12"},
		{"docker.io/debian", "docker.io/library/debian:latest", "debian:latest"},
		{"index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"},
		{"docker.io/library/debian:12", "docker.io/library/debian:12", "debian:12"},
		{"user/app", "docker.io/user/app:latest", "user/app:latest"},
		{"library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"},
		{"ghcr.io/org/app:v1.2_3-x", "ghcr.io/org/app:v1.2_3-x", "ghcr.io/org/app:v1.2_3-x"},
		{"localhost/app", "localhost/app:latest", "localhost/app:latest"},
		{"localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"},
		{"127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"},
		{"[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"},
		{"Registry/app", "Registry/app:latest", "Registry/app:latest"},
		{"debian@" + someDigest, "docker.io/library/debian@" + someDigest, "debian@" + someDigest},
		{"debian:12@" + someDigest, "docker.io/library/debian:12@" + someDigest, "debian:12@" + someDigest},
		{"a__b/c.d/e---f", "docker.io/a__b/c.d/e---f:latest", "a__b/c.d/e---f:latest"},
		{"docker.io/foo.bar/x", "docker.io/foo.bar/x:latest", "docker.io/foo.bar/x:latest"},
		{"deadbeef", "docker.io/library/deadbeef:latest", "deadbeef:latest"},
	} {
		r, err := ParseReference(c.in)
		if err != nil || r.String() != c.full || r.Familiar() != c.familiar {
			t.Errorf("%q: %q, %q, %v; want %q, %q", c.in, r, r.Familiar(), err, c.full, c.familiar)
		}
		for _, again := range []string{r.String(), r.Familiar()} {
			if back, err := ParseReference(again); err != nil || back != r {
				t.Errorf("%q is not read back: %+v, %v", again, back, err)
			}
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for _, in := range []string{
		"", " ", "Debian", "debian:", "debian:12:13", "debian@", "debian@sha256:12", "debian@md5:0123", "debian@" + someDigest + "0",
		"-debian", "debian-", "a//b", "/a", "a/", "a___b", "a..b", "a._b", "ghcr.io/Org/app", "ghcr.io/", ":tag", "@" + someDigest,
		"debian:.tag", "debian:-tag", "debian:" + strings.Repeat("x", 129), strings.Repeat("a", 256), "localhost:port/app", "localhost:123456/app",
		"[::1/app", "[::g]:5000/app", "-x.io/app", "a b", "a\x00b", "../etc", "a/../b", "http://x.io/app", "\x10.io/app", "x.io:5000:1/a", someDigest, strings.TrimPrefix(someDigest, "sha256:"), "é",
	} {
		if r, err := ParseReference(in); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %+v, %v", in, r, err)
		}
	}
}

// FuzzParseReference: what is accepted reads back as the same from both of its
// forms, and is fit to be part of a URL.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"debian", "localhost:5000/a/b:c", "[::1]:5000/app", "debian:12@" + someDigest, "library/a/b", "docker.io/foo.bar/x", "A/b", "a..b", "x@y@z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if !errors.Is(err, ErrReference) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		for _, again := range []string{r.String(), r.Familiar()} {
			if back, err := ParseReference(again); err != nil || back != r {
				t.Fatalf("%q became %+v, which is written %q and read back as %+v, %v", s, r, again, back, err)
			}
		}
		odd := func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune("%?#\\\"<>^`{|}&=+$,;", c) }
		if strings.ContainsFunc(r.String(), odd) || strings.Contains(r.Path, "..") {
			t.Fatalf("%q is not fit for a URL: %q", s, r)
		}
	})
}
