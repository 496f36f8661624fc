package images

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/semaphore"
)

// PullOptions are the options of Pull.
type PullOptions struct {
	Progress Progress // may be nil
	// Platform, as "linux/amd64" or "linux/arm64/v8". Empty: linux/amd64.
	Platform string
	// Insecure allows plain HTTP and unverified TLS for this registry; one on this host needs no permission.
	Insecure bool
	// Keychain has the credentials; nil: those of ~/.docker/config.json and its helpers.
	Keychain authn.Keychain
	// Parallel is the number of layers fetched at once; 0: 3, as docker has it.
	Parallel int
}

const defaultParallel = 3

// Pulled tells what a Pull has found.
type Pulled struct {
	// Digest is that of the manifest, or of the index of several platforms, that has the name.
	Digest v1.Hash
	// UpToDate: the store had exactly this image under this name.
	UpToDate bool
}

// Pull fetches an image from its registry: its manifest, its configuration and
// its layers as they are there, so that it can be pushed and saved with the same
// digest. A pull that is cut short leaves what it has fetched in images/partial,
// and the next one goes on from there. The errors are ErrReference,
// ErrNoSuchImage, ErrDenied, ErrPlatform, ErrRegistry and those of what is in the
// image.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (*Image, Pulled, error) {
	name, err := ParseReference(ref)
	if err != nil {
		return nil, Pulled{}, fmt.Errorf("pull: %w", err)
	}
	img, pulled, err := s.pull(ctx, name, opts)
	if err != nil {
		return nil, Pulled{}, fmt.Errorf("pull %s: %w", name, err)
	}
	return img, pulled, nil
}

func (s *Store) pull(ctx context.Context, ref Reference, opts PullOptions) (img *Image, pulled Pulled, err error) {
	platform, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, pulled, err
	}
	o, err := s.begin(ctx)
	if err != nil {
		return nil, pulled, err
	}
	defer func() {
		if err = o.end(err); err != nil {
			img = nil
		}
	}()
	(&reporter{to: opts.Progress, id: ref.Familiar()}).report(PhaseResolving, 0, 0, "")
	client, err := s.connect(ctx, ref, access{insecure: opts.Insecure, keychain: opts.Keychain})
	if err != nil {
		return nil, pulled, err
	}
	defer client.close()
	found, err := client.resolve(ctx, ref, platform)
	if err != nil {
		return nil, pulled, err
	}
	pulled.Digest = found.top
	if img := s.current(ctx, ref, found); img != nil {
		if err := fitsPlatform(v1.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant}, platform); err != nil {
			return nil, pulled, err
		}
		pulled.UpToDate = true
		return img, pulled, nil
	}
	config, err := o.config(ctx, client, found.manifest.Config)
	if err != nil {
		return nil, pulled, err
	}
	if err := checkPlatform(config, platform); err != nil {
		return nil, pulled, err
	}
	done := newImage{id: found.manifest.Config.Digest, digests: []Reference{{Domain: ref.Domain, Path: ref.Path, Digest: found.top.String()}}}
	if ref.Digest == "" {
		done.references = []Reference{ref}
	}
	parallel := opts.Parallel
	if parallel <= 0 {
		parallel = defaultParallel
	}
	slots := semaphore.NewWeighted(int64(parallel))
	done.layers, err = o.buildManifest(ctx, found.manifest, config, opts.Progress, func(ctx context.Context, d v1.Descriptor, report *reporter) error {
		report.report(PhaseWaiting, 0, d.Size, "")
		if err := slots.Acquire(ctx, 1); err != nil {
			return err
		}
		defer slots.Release(1)
		return o.fetchLayer(ctx, client, d, report)
	})
	if err != nil {
		return nil, pulled, err
	}
	if done.manifest, err = o.addBlob(found.raw); err != nil {
		return nil, pulled, err
	}
	if _, err := o.addBlob(config); err != nil {
		return nil, pulled, err
	}
	if err := o.commit(ctx, []newImage{done}); err != nil {
		return nil, pulled, err
	}
	all, err := o.images([]newImage{done})
	if err != nil {
		return nil, pulled, err
	}
	return all[0], pulled, nil
}

// resolved is what a name means in a registry.
type resolved struct {
	top      v1.Hash // of the manifest or index that has the name
	manifest *v1.Manifest
	raw      []byte
}

// resolve finds the manifest of an image for a platform.
func (c *registryClient) resolve(ctx context.Context, ref Reference, platform v1.Platform) (resolved, error) {
	var r resolved
	next, mediaType := ref.Tag, types.MediaType("")
	if ref.Digest != "" {
		next = ref.Digest
	}
	for depth := 0; r.manifest == nil; depth++ {
		if depth == maxIndexDepth {
			return r, fmt.Errorf("more than %d indexes in each other: %w", maxIndexDepth, ErrLimit)
		}
		raw, answered, err := c.manifest(ctx, next)
		if err != nil {
			return r, err
		}
		if mediaType == "" {
			mediaType = answered
		}
		if depth == 0 {
			r.top = hashOf(raw)
		}
		m, x, err := parseManifest(raw, mediaType)
		if err != nil {
			return r, err
		}
		if m != nil {
			r.manifest, r.raw = m, raw
			continue
		}
		d, err := choose(x.Manifests, platform)
		if err != nil {
			return r, err
		}
		if err := checkDescriptor(d); err != nil {
			return r, err
		}
		next, mediaType = d.Digest.String(), d.MediaType
	}
	return r, nil
}

// current returns the image when the store has it whole, under this name.
func (s *Store) current(ctx context.Context, ref Reference, found resolved) *Image {
	x, err := s.readIndex()
	if err != nil {
		return nil
	}
	digest := Reference{Domain: ref.Domain, Path: ref.Path, Digest: found.top.String()}
	r := x.byReference(ref)
	if r == nil || r.ID != found.manifest.Config.Digest || r.Manifest != hashOf(found.raw) || !r.has(digest) {
		return nil
	}
	if _, err := s.original(r); err != nil {
		return nil
	}
	img, err := s.Get(ctx, r.ID.String())
	if err != nil {
		return nil
	}
	return img
}

// config returns the image's configuration, from the store or the registry.
func (o *operation) config(ctx context.Context, client *registryClient, d v1.Descriptor) ([]byte, error) {
	if f, err := o.openBlob(d.Digest); err == nil {
		defer f.Close()
		if b, err := readAtMost(f, o.s.limits.Manifest); err == nil && hashOf(b) == d.Digest {
			return b, nil
		}
	}
	return client.blob(ctx, d)
}
