package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// registryClient reads from and writes to one repository of a registry (OCI
// distribution-spec). Logging in is go-containerregistry's business.
type registryClient struct {
	client *http.Client
	base   *url.URL // "https://registry/v2/repository/"; the transport knows whether it is http
	limit  int64    // of a manifest
	net    network
	close  func()
}

// access is how a registry is to be spoken to.
type access struct {
	insecure bool           // plain HTTP and unverified TLS are allowed
	keychain authn.Keychain // nil: that of ~/.docker/config.json and its helpers
	// push asks for the right to write to the repository, and to read from those that its layers may be mounted from.
	push   bool
	mounts []string // paths of other repositories of the registry
}

// pushPatience is how much longer a registry may be silent when it is given something: it looks at all of a layer
// before it says that it has it.
const pushPatience = 5

// registryOf is a registry as go-containerregistry knows it.
func registryOf(domain string, insecure bool) (name.Registry, error) {
	host := domain
	if host == defaultDomain {
		host = name.DefaultRegistry
	}
	var opts []name.Option
	if insecure || isLoopback(host) {
		opts = append(opts, name.Insecure) // HTTPS is tried first all the same
	}
	registry, err := name.NewRegistry(host, opts...)
	if err != nil {
		return registry, fmt.Errorf("registry %q: %w: %w", host, err, ErrReference)
	}
	return registry, nil
}

// connect finds out how the registry is to be spoken to and logs in.
func (s *Store) connect(ctx context.Context, ref Reference, a access) (*registryClient, error) {
	keychain := a.keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	registry, err := registryOf(ref.Domain, a.insecure)
	if err != nil {
		return nil, err
	}
	repository := registry.Repo(ref.Path)
	auth, err := authn.Resolve(ctx, keychain, repository)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", registry, err)
	}
	scopes := []string{repository.Scope(transport.PullScope)}
	if a.push {
		scopes[0] = repository.Scope(transport.PushScope)
	}
	for _, path := range a.mounts {
		scopes = append(scopes, registry.Repo(path).Scope(transport.PullScope))
	}
	net := s.net
	if a.push {
		net.idle *= pushPatience
	}
	client, err := net.connect(ctx, registry, auth, a.insecure, scopes)
	if err != nil {
		return nil, err
	}
	client.base.Path += ref.Path + "/"
	client.limit = s.limits.Manifest
	return client, nil
}

// connect logs in to a registry. The client's base is "https://registry/v2/".
func (n network) connect(ctx context.Context, registry name.Registry, auth authn.Authenticator, insecure bool, scopes []string) (*registryClient, error) {
	host := registry.RegistryStr()
	base := newRoundTripper(host, insecure, n)
	var authenticated http.RoundTripper
	err := n.retry(ctx, nil, func() error {
		var err error
		authenticated, err = transport.NewWithContext(ctx, registry, auth, base, scopes)
		if err != nil {
			return explain(ctx, err, nil)
		}
		return nil
	})
	if err != nil {
		base.close()
		var insecure *insecureError
		if errors.As(err, &insecure) {
			err = fmt.Errorf("%w; it would have to be declared insecure", err)
		}
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	return &registryClient{
		client: &http.Client{Transport: authenticated},
		base:   &url.URL{Scheme: "https", Host: host, Path: "/v2/"},
		net:    n,
		close:  base.close,
	}, nil
}

// errStalled: nothing came for too long.
var errStalled = errors.New("the connection is silent")

// get asks for something of the repository.
func (c *registryClient) get(ctx context.Context, path string, header http.Header, codes ...int) (*http.Response, error) {
	return c.do(ctx, request{method: http.MethodGet, url: c.url(path), header: header}, codes...)
}

// url is an address in the repository.
func (c *registryClient) url(path string) *url.URL {
	u := *c.base
	u.Path += path
	return &u
}

// request is what is sent to a registry.
type request struct {
	method string
	url    *url.URL
	header http.Header
	body   io.Reader // may be nil
	length int64     // of the body
}

// do sends a request. The answer's body ends with an error when the connection
// is silent for too long, and sending does.
func (c *registryClient) do(parent context.Context, r request, codes ...int) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(parent)
	watchdog := time.AfterFunc(c.net.idle, func() { cancel(errStalled) })
	stop := func() {
		watchdog.Stop()
		cancel(nil)
	}
	var body io.ReadCloser = http.NoBody
	if r.length > 0 {
		body = &sentBody{r: r.body, watchdog: watchdog, idle: c.net.idle}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), body)
	if err != nil {
		stop()
		return nil, fmt.Errorf("%w: %w", err, ErrReference)
	}
	req.ContentLength = r.length
	if r.header != nil {
		req.Header = r.header
	}
	resp, err := c.client.Do(req)
	body.Close() // it may still be on its way, but is the caller's again
	if err == nil {
		err = checkStatus(resp, codes...)
	} else {
		err = explain(parent, causeOf(ctx, err), nil)
	}
	if err != nil {
		stop()
		return nil, err
	}
	resp.Body = &watchedBody{resp.Body, parent, ctx, watchdog, c.net.idle, stop}
	return resp, nil
}

// causeOf replaces the error of a canceled context by the reason.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// sentBody is a body on its way to a registry, which must go on taking it. Once
// it is closed nothing of it is read any more; net/http may go on after it has
// the answer.
type sentBody struct {
	watchdog *time.Timer
	idle     time.Duration

	mu     sync.Mutex
	r      io.Reader
	closed bool
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	b.watchdog.Reset(b.idle)
	return b.r.Read(p)
}

func (b *sentBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// watchedBody is a body whose reader is not left waiting forever.
type watchedBody struct {
	body     io.ReadCloser
	parent   context.Context
	ctx      context.Context
	watchdog *time.Timer
	idle     time.Duration
	stop     func()
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watchdog.Reset(b.idle)
	n, err := b.body.Read(p)
	if err != nil && err != io.EOF {
		err = explain(b.parent, causeOf(b.ctx, err), nil)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.body.Close()
	b.stop()
	return err
}

// acceptManifests are the manifests hull can read, in the order in which it likes them.
var acceptManifests = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList), string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
}, ", ")

// manifest fetches a manifest by tag or digest and checks it.
func (c *registryClient) manifest(ctx context.Context, tagOrDigest string) (b []byte, mediaType types.MediaType, err error) {
	err = c.net.retry(ctx, nil, func() error {
		resp, err := c.get(ctx, "manifests/"+tagOrDigest, http.Header{"Accept": {acceptManifests}}, http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		mediaType = types.MediaType(resp.Header.Get("Content-Type"))
		if b, err = io.ReadAll(&atMost{r: resp.Body, left: c.limit, what: "manifest"}); err != nil {
			return err
		}
		want := tagOrDigest
		if !strings.HasPrefix(want, "sha256:") {
			want = resp.Header.Get("Docker-Content-Digest")
		}
		if got := hashOf(b).String(); want != "" && want != got {
			return fmt.Errorf("manifest has digest %s instead of %s: %w", got, shorten(want), ErrDigest)
		}
		return nil
	})
	return b, mediaType, err
}

// blob fetches a small blob, such as a configuration, and checks it.
func (c *registryClient) blob(ctx context.Context, d v1.Descriptor) (b []byte, err error) {
	if d.Size > c.limit {
		return nil, fmt.Errorf("blob %s has %d bytes, at most %d: %w", d.Digest, d.Size, c.limit, ErrLimit)
	}
	err = c.net.retry(ctx, nil, func() error {
		resp, err := c.get(ctx, "blobs/"+d.Digest.String(), http.Header{}, http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err = io.ReadAll(io.LimitReader(resp.Body, d.Size+1))
		if err != nil {
			return err
		}
		sum := newHasher()
		sum.Write(b)
		if err := sum.check(d.Digest, d.Size); err != nil {
			return fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		return nil
	})
	return b, err
}
