package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// registryClient reads from one repository of a registry (OCI
// distribution-spec). Logging in is go-containerregistry's business.
type registryClient struct {
	client *http.Client
	base   string // "https://registry/v2/repository/"; the transport knows whether it is http
	limit  int64  // of a manifest
	net    network
	close  func()
}

// connect finds out how the registry is to be spoken to and logs in.
func (s *Store) connect(ctx context.Context, ref Reference, opts PullOptions) (*registryClient, error) {
	keychain := opts.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	host := ref.Domain
	if host == defaultDomain {
		host = name.DefaultRegistry
	}
	var nameOpts []name.Option
	if opts.Insecure || isLoopback(host) {
		nameOpts = append(nameOpts, name.Insecure) // HTTPS is tried first all the same
	}
	registry, err := name.NewRegistry(host, nameOpts...)
	if err != nil {
		return nil, fmt.Errorf("registry %q: %w: %w", host, err, ErrReference)
	}
	repository := registry.Repo(ref.Path)
	auth, err := authn.Resolve(ctx, keychain, repository)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", host, err)
	}
	base := newRoundTripper(host, opts.Insecure, s.net)
	var authenticated http.RoundTripper
	err = s.net.retry(ctx, nil, func() error {
		var err error
		authenticated, err = transport.NewWithContext(ctx, registry, auth, base, []string{repository.Scope(transport.PullScope)})
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
		base:   (&url.URL{Scheme: "https", Host: host, Path: "/v2/" + ref.Path + "/"}).String(),
		limit:  s.limits.Manifest,
		net:    s.net,
		close:  base.close,
	}, nil
}

// errStalled: nothing came for too long.
var errStalled = errors.New("the connection is silent")

// get sends a request. The body ends with an error when the connection is
// silent for too long.
func (c *registryClient) get(parent context.Context, path string, header http.Header, codes ...int) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(parent)
	watchdog := time.AfterFunc(c.net.idle, func() { cancel(errStalled) })
	stop := func() {
		watchdog.Stop()
		cancel(nil)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		stop()
		return nil, fmt.Errorf("%w: %w", err, ErrReference)
	}
	req.Header = header
	resp, err := c.client.Do(req)
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
