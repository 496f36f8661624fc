package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Image is one image of the store, ready to be run.
type Image struct {
	// ID is the digest of the configuration, which docker calls the image ID.
	ID v1.Hash
	// Manifest is the digest of the manifest; the zero Hash for a built-in image.
	Manifest v1.Hash
	// References are the image's tagged names, sorted; none for a dangling image.
	References []Reference
	// Digests are names with the digest under which a registry has it, sorted.
	Digests []Reference
	// Config is the image's configuration. It must not be changed.
	Config *v1.ConfigFile
	// Disks are the layers as read-only ext4 images, lowest first; at least one. There may be fewer than the
	// configuration has layers: empty ones have no disk.
	Disks []Disk
	// Size is the size of all disks together, in bytes.
	Size int64
	// Builtin is set for images that are part of hull.
	Builtin bool
}

// Disk is one layer as a disk image.
type Disk struct {
	// DiffID is the digest of the layer's uncompressed archive.
	DiffID v1.Hash
	// Path is the file, Size its length in bytes: a multiple of 4096.
	Path string
	Size int64
}

// Builtin is an image that is part of hull: its configuration and its layers,
// lowest first, as disk images that already lie on this host.
type Builtin struct {
	Config v1.ConfigFile
	Layers []Disk
}

// SetBuiltin makes an image that hull carries available under name, such as
// "uroot". An image in the store with the same name comes first.
func (s *Store) SetBuiltin(name string, b Builtin) error {
	ref, err := ParseReference(name)
	if err != nil {
		return err
	}
	if len(b.Layers) == 0 {
		return fmt.Errorf("built-in image %s has no layers: %w", name, ErrManifest)
	}
	config, err := json.Marshal(b.Config)
	if err != nil {
		return fmt.Errorf("built-in image %s: %w", name, err)
	}
	img := &Image{
		ID:         hashOf(config),
		References: []Reference{ref},
		Config:     &b.Config,
		Disks:      slices.Clone(b.Layers),
		Builtin:    true,
	}
	for i := range img.Disks {
		d := &img.Disks[i]
		if d.Size == 0 {
			info, err := os.Stat(d.Path)
			if err != nil {
				return fmt.Errorf("built-in image %s: %w", name, err)
			}
			d.Size = info.Size()
		}
		img.Size += d.Size
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.builtins = slices.DeleteFunc(slices.Clone(s.builtins), func(old *Image) bool { return old.References[0] == ref })
	s.builtins = append(s.builtins, img)
	return nil
}

func (s *Store) builtinImages() []*Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.builtins
}

// List returns all images, the newest first, built-in ones included. It does
// not look whether their disks are there.
func (s *Store) List(ctx context.Context) ([]*Image, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	all := slices.Clone(s.builtinImages())
	for _, r := range x.Images {
		img, err := s.image(r)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the index was read
		}
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	slices.SortStableFunc(all, func(a, b *Image) int {
		if c := b.Config.Created.Compare(a.Config.Created.Time); c != 0 {
			return c
		}
		return slices.CompareFunc(a.References, b.References, compareReferences)
	})
	return all, nil
}

// Get finds an image by a name as docker takes it ("debian", "debian:12",
// "debian@sha256:…", "localhost:5000/x"), by its ID or by the first digits of it.
// The error is ErrNotFound, ErrReference, ErrAmbiguous or ErrMissing.
func (s *Store) Get(ctx context.Context, ref string) (*Image, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	r, b, err := s.find(x, ref)
	if err != nil {
		return nil, err
	}
	if b != nil {
		return b, nil
	}
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	for _, d := range img.Disks {
		info, err := os.Stat(d.Path)
		if err != nil || info.Size() != d.Size {
			return nil, fmt.Errorf("image %q: layer %s: %w", ref, d.Path, ErrMissing)
		}
	}
	return img, nil
}

// Acquire is Get with a hold: until release is called, which may be done more
// than once, the image counts as used. A container is created under it.
func (s *Store) Acquire(ctx context.Context, ref string) (img *Image, release func(), err error) {
	unhold, err := s.hold(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			unhold()
		}
	}()
	// Nobody removes the image between the look at the index and the sign that it is used.
	lock := flock.New(s.indexLockPath())
	if _, err := lock.TryRLockContext(ctx, lockPoll); err != nil {
		return nil, nil, fmt.Errorf("lock the image index: %w", err)
	}
	defer lock.Unlock()
	if img, err = s.Get(ctx, ref); err != nil {
		return nil, nil, err
	}
	if img.Builtin {
		return img, unhold, nil
	}
	use, err := newTemp(s.tempDir(), usePrefix+img.ID.Hex+"-")
	if err != nil {
		return nil, nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return img, sync.OnceFunc(func() {
		use.discard()
		unhold()
	}), nil
}

// find looks an image up: by name, then by identifier. One of the results is nil.
func (s *Store) find(x *index, ref string) (*record, *Image, error) {
	builtins := s.builtinImages()
	name, nameErr := ParseReference(ref)
	if nameErr == nil {
		if r := x.byReference(name); r != nil {
			return r, nil, nil
		}
		for _, b := range builtins {
			if b.References[0] == name {
				return nil, b, nil
			}
		}
	}
	digits, prefixed := strings.CutPrefix(ref, "sha256:")
	if !isHex(digits) || len(digits) > 64 || prefixed && digits == "" {
		if nameErr != nil {
			return nil, nil, nameErr
		}
		return nil, nil, fmt.Errorf("image %q: %w", shorten(ref), ErrNotFound)
	}
	var found []any
	for _, r := range x.Images {
		if strings.HasPrefix(r.ID.Hex, digits) {
			found = append(found, r)
		}
	}
	for _, b := range builtins {
		if strings.HasPrefix(b.ID.Hex, digits) {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	case 1:
		if r, ok := found[0].(*record); ok {
			return r, nil, nil
		}
		return nil, found[0].(*Image), nil
	}
	return nil, nil, fmt.Errorf("image %q: %w", ref, ErrAmbiguous)
}

// isHex tells whether s is made of lower-case hexadecimal digits.
func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// image makes an Image of a record.
func (s *Store) image(r *record) (*Image, error) {
	config, err := os.ReadFile(s.blobPath(r.ID))
	if err != nil {
		return nil, fmt.Errorf("image %s: read its configuration: %w: %w", shortID(r.ID), err, ErrMissing)
	}
	cf, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, fmt.Errorf("image %s: read its configuration: %w", shortID(r.ID), err)
	}
	img := &Image{ID: r.ID, Manifest: r.Manifest, Config: cf}
	if img.References, err = parseAll(r.References); err != nil {
		return nil, err
	}
	if img.Digests, err = parseAll(r.Digests); err != nil {
		return nil, err
	}
	for _, l := range r.disks() {
		img.Disks = append(img.Disks, Disk{DiffID: l.DiffID, Path: s.diskPath(l.Disk), Size: l.DiskSize})
		img.Size += l.DiskSize
	}
	return img, nil
}

func parseAll(names []string) ([]Reference, error) {
	var refs []Reference
	for _, n := range names {
		ref, err := ParseReference(n)
		if err != nil {
			return nil, fmt.Errorf("the image index: %w", err)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// shortID is an identifier as docker shows it.
func shortID(h v1.Hash) string { return h.Hex[:min(12, len(h.Hex))] }
