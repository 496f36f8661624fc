package images

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// PushOptions are the options of Push.
type PushOptions struct {
	Progress Progress // may be nil; layers are known by their diffIDs
	// AllTags pushes every tag of the repository, not only the one that is named.
	AllTags bool
	// Insecure allows plain HTTP and unverified TLS for this registry; one on this host needs no permission.
	Insecure bool
	// Platform, as "linux/amd64", is what the image must be for; empty: any. An image of the store is for one.
	Platform string
	// Keychain has the credentials; nil: those of ~/.docker/config.json and its helpers.
	Keychain authn.Keychain
	// Parallel is the number of layers sent at once; 0: 5, as docker has it.
	Parallel int
	// Begin, which may be nil, is told each name before it is pushed, and End what became of it.
	Begin func(Reference)
	End   func(Pushed)
}

// Pushed is one name that a registry has now.
type Pushed struct {
	Reference Reference // with its tag
	Digest    v1.Hash   // of the manifest
	Size      int64     // of the manifest, in bytes
}

const defaultPushParallel = 5

// Push sends an image to the registry that its name says, byte by byte what it was
// pulled or loaded as: the digest is the same wherever the image goes. Layers that
// the registry has are not sent, and layers of another of its repositories are
// mounted from there. The errors are ErrReference, ErrNotFound, ErrBuiltin,
// ErrMissing, ErrPlatform, ErrDenied, ErrRegistry and ErrDigest.
func (s *Store) Push(ctx context.Context, ref string, opts PushOptions) ([]Pushed, error) {
	name, err := ParseReference(ref)
	if err == nil && name.Digest != "" {
		err = fmt.Errorf("image name %q: a digest cannot be pushed, only a tag: %w", shorten(ref), ErrReference)
	}
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	// Nobody sweeps while files are being sent.
	release, err := s.hold(ctx)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", name, err)
	}
	defer release()
	names, err := s.pushNames(name, opts.AllTags)
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	var done []Pushed
	for _, n := range names {
		if opts.Begin != nil {
			opts.Begin(n)
		}
		p, err := s.push(ctx, n, opts)
		if err != nil {
			return done, fmt.Errorf("push %s: %w", n, err)
		}
		done = append(done, p)
		if opts.End != nil {
			opts.End(p)
		}
	}
	return done, nil
}

// pushNames lists the names to push.
func (s *Store) pushNames(name Reference, all bool) ([]Reference, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	if !all {
		if x.byReference(name) == nil {
			if _, b, err := s.find(x, name.String()); err == nil && b != nil {
				return nil, fmt.Errorf("image %q: %w, so there is nothing to push", name.Familiar(), ErrBuiltin)
			}
			return nil, fmt.Errorf("image %q: %w", name.Familiar(), ErrNotFound)
		}
		return []Reference{name}, nil
	}
	names, err := x.tags(name.Repository())
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("image %q: %w", name.FamiliarRepository(), ErrNotFound)
	}
	return names, err
}

// tags lists the tagged names in a repository, sorted.
func (x *index) tags(repository string) ([]Reference, error) {
	var names []Reference
	for _, r := range x.Images {
		refs, err := parseAll(repositories(r.References, repository))
		if err != nil {
			return nil, err
		}
		names = append(names, refs...)
	}
	slices.SortFunc(names, compareReferences)
	return names, nil
}

// push sends one image.
func (s *Store) push(ctx context.Context, name Reference, opts PushOptions) (Pushed, error) {
	done := Pushed{Reference: name}
	x, err := s.readIndex()
	if err != nil {
		return done, err
	}
	r := x.byReference(name)
	if r == nil {
		return done, ErrNotFound
	}
	o, err := s.original(r)
	if err != nil {
		return done, err
	}
	if opts.Platform != "" {
		if err := s.checkPlatform(o, opts.Platform); err != nil {
			return done, err
		}
	}
	mounts := x.mounts(name, o)
	a := access{insecure: opts.Insecure, keychain: opts.Keychain, push: true}
	for _, path := range mounts {
		if !slices.Contains(a.mounts, path) {
			a.mounts = append(a.mounts, path)
		}
	}
	slices.Sort(a.mounts)
	client, err := s.connect(ctx, name, a)
	if err != nil {
		return done, err
	}
	defer client.close()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelOr(opts.Parallel, defaultPushParallel))
	reporters := o.pushReporters(r, opts.Progress)
	for _, d := range o.blobs() {
		group.Go(func() error {
			u := &upload{client: client, path: s.blobPath(d.Digest), want: d, mount: mounts[d.Digest], report: reporters[d.Digest]}
			if err := u.run(gctx); err != nil {
				return fmt.Errorf("send %s: %w", d.Digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return done, err
	}
	d := o.descriptor()
	if err := client.putManifest(ctx, name.Tag, d, o.raw); err != nil {
		return done, err
	}
	done.Digest, done.Size = d.Digest, d.Size
	digest := Reference{Domain: name.Domain, Path: name.Path, Digest: d.Digest.String()}
	err = s.updateIndex(ctx, func(x *index) error {
		if r := x.byID(r.ID); r != nil { // else it has been removed in the meantime
			r.addDigest(digest.String())
		}
		return nil
	})
	return done, err
}

// checkPlatform refuses an image that is for another platform.
func (s *Store) checkPlatform(o *original, platform string) error {
	want, err := parsePlatform(platform)
	if err != nil {
		return err
	}
	config, err := os.ReadFile(s.blobPath(o.manifest.Config.Digest))
	if err != nil {
		return fmt.Errorf("read its configuration: %w: %w", err, ErrMissing)
	}
	return checkPlatform(config, want)
}

func parallelOr(n, usual int) int {
	if n > 0 {
		return n
	}
	return usual
}

// pushReporters makes a reporter for each layer, which docker shows by its diffID.
func (o *original) pushReporters(r *record, progress Progress) map[v1.Hash]*reporter {
	all := make(map[v1.Hash]*reporter)
	for i, d := range o.manifest.Layers {
		if i < len(r.Layers) && all[d.Digest] == nil {
			all[d.Digest] = &reporter{to: progress, id: r.Layers[i].DiffID.Hex}
			all[d.Digest].report(PhasePreparing, 0, d.Size, "")
		}
	}
	return all
}

// mounts finds, for each layer, the path of another repository of the same
// registry that has it, because an image with the layer is known to be there.
func (x *index) mounts(name Reference, o *original) map[v1.Hash]string {
	needed := make(map[v1.Hash]bool)
	for _, d := range o.manifest.Layers {
		needed[d.Digest] = true
	}
	found := make(map[v1.Hash]string)
	for _, r := range x.Images {
		for _, digest := range r.Digests {
			other, err := ParseReference(digest)
			if err != nil || other.Domain != name.Domain || other.Path == name.Path {
				continue
			}
			for _, l := range r.Layers {
				if _, ok := found[l.Blob]; !ok && needed[l.Blob] {
					found[l.Blob] = other.Path
				}
			}
		}
	}
	return found
}
