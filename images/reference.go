package images

import (
	"cmp"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// What docker adds to a short name.
const (
	defaultDomain    = "docker.io"
	officialPrefix   = "library/"
	defaultTag       = "latest"
	legacyDomain     = "index.docker.io" // an older name of docker.io
	maxRepositoryLen = 255               // distribution/reference: NameTotalLengthMax, domain included
)

// Reference is an image name in full: registry, repository, and a tag or a
// digest or both. It is comparable.
type Reference struct {
	Domain string // registry, as "docker.io" or "localhost:5000"
	Path   string // repository, as "library/debian"
	Tag    string // empty when only the digest was given
	Digest string // as "sha256:…"; empty when there is none
}

// ParseReference reads a name the way docker does: a missing registry is
// docker.io, a missing namespace there is library, and a missing tag is latest
// unless there is a digest. The error is ErrReference.
func ParseReference(s string) (Reference, error) {
	fail := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("image name %q: %s: %w", shorten(s), why, ErrReference)
	}
	if s == "" {
		return fail("it is empty")
	}
	if id := strings.TrimPrefix(s, "sha256:"); len(id) == 64 && isHex(id) {
		return fail("this is an image ID, not a name")
	}
	var r Reference
	rest := s
	if name, digest, found := strings.Cut(rest, "@"); found {
		h, err := v1.NewHash(digest)
		if err != nil || h.Algorithm != "sha256" {
			return fail("the part after @ is not sha256: and 64 hexadecimal digits")
		}
		r.Digest, rest = h.String(), name
	}
	if first, after, found := strings.Cut(rest, "/"); found && isDomain(first) {
		r.Domain, rest = first, after
	}
	// What follows the domain has no colon but that of the tag.
	if path, tag, found := strings.Cut(rest, ":"); found {
		if !validTag(tag) {
			return fail("a tag has 1 to 128 letters, digits, '_', '.' or '-' and does not start with '.' or '-'")
		}
		r.Tag, rest = tag, path
	}
	r.Path = rest
	switch {
	case rest != strings.ToLower(rest):
		return fail("the repository must be in lower case")
	case !validPath(rest):
		return fail("a repository is made of lower-case letters and digits with single separators '/', '.', '_', '__' or '-' between them")
	case r.Domain != "" && !validDomain(r.Domain):
		return fail("the registry is not a host name or address with an optional port")
	}
	if r.Domain == "" || r.Domain == legacyDomain {
		r.Domain = defaultDomain
	}
	if r.Domain == defaultDomain && !strings.Contains(r.Path, "/") {
		r.Path = officialPrefix + r.Path
	}
	if len(r.Domain)+1+len(r.Path) > maxRepositoryLen {
		return fail("registry and repository together are longer than 255 characters")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

// isDomain tells a registry from the first component of a repository, as
// docker does: by a dot, a colon, an upper-case letter, or the name localhost.
func isDomain(first string) bool {
	return strings.ContainsAny(first, ".:") || first == "localhost" || first != strings.ToLower(first)
}

// Repository is the name without tag and digest, as "docker.io/library/debian".
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String is the full name, as "docker.io/library/debian:12". It parses back to r.
func (r Reference) String() string { return r.Repository() + r.suffix() }

// Familiar is the name as docker shows it: without what docker would add.
// The tag is always there, as in "debian:latest".
func (r Reference) Familiar() string { return r.FamiliarRepository() + r.suffix() }

// FamiliarRepository is the repository as docker shows it, as "debian" or "localhost:5000/x".
func (r Reference) FamiliarRepository() string {
	if r.Domain != defaultDomain {
		return r.Repository()
	}
	// "library/a/b" must keep its prefix, or it would become "a/b".
	if short, ok := strings.CutPrefix(r.Path, officialPrefix); ok && !strings.Contains(short, "/") {
		return short
	}
	// A first component that looks like a registry would be read as one.
	if first, _, _ := strings.Cut(r.Path, "/"); isDomain(first) {
		return r.Repository()
	}
	return r.Path
}

func (r Reference) suffix() string {
	var s string
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

func compareReferences(a, b Reference) int { return cmp.Compare(a.String(), b.String()) }

// shorten keeps error messages readable when a name is hostile.
func shorten(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
