package images

import (
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// original is an image as registries and archives have it: what it was pulled
// or loaded as, byte by byte, or what hull made of an import.
type original struct {
	raw      []byte // the manifest
	manifest *v1.Manifest
}

// original reads an image's manifest and sees that all it names is in the
// store. The error is ErrMissing when something is not.
func (s *Store) original(r *record) (*original, error) {
	raw, err := os.ReadFile(s.blobPath(r.Manifest))
	if err != nil {
		return nil, fmt.Errorf("image %s: read its manifest: %w: %w", shortID(r.ID), err, ErrMissing)
	}
	if got := hashOf(raw); got != r.Manifest {
		return nil, fmt.Errorf("image %s: its manifest has digest %s instead of %s: %w", shortID(r.ID), got, r.Manifest, ErrDigest)
	}
	m, _, err := parseManifest(raw, "")
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", shortID(r.ID), err)
	}
	if m == nil {
		return nil, fmt.Errorf("image %s: it has an index for a manifest: %w", shortID(r.ID), ErrManifest)
	}
	o := &original{raw: raw, manifest: m}
	for _, d := range o.blobs() {
		if info, err := os.Stat(s.blobPath(d.Digest)); err != nil || info.Size() != d.Size {
			return nil, fmt.Errorf("image %s: blob %s: %w", shortID(r.ID), d.Digest, ErrMissing)
		}
	}
	return o, nil
}

// blobs are the configuration and the layers, each once.
func (o *original) blobs() []v1.Descriptor {
	all := []v1.Descriptor{o.manifest.Config}
	seen := map[v1.Hash]bool{o.manifest.Config.Digest: true}
	for _, d := range o.manifest.Layers {
		if !seen[d.Digest] {
			all = append(all, d)
		}
		seen[d.Digest] = true
	}
	return all
}

// descriptor describes the manifest.
func (o *original) descriptor() v1.Descriptor {
	mediaType := o.manifest.MediaType
	if mediaType == "" { // OCI image-spec, manifest.md: it should be there, but need not
		mediaType = types.OCIManifestSchema1
	}
	return v1.Descriptor{MediaType: mediaType, Digest: hashOf(o.raw), Size: int64(len(o.raw))}
}
