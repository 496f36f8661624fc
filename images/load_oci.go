package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Annotations that carry an image's name in index.json.
const (
	annotationRefName        = "org.opencontainers.image.ref.name" // OCI image-spec, annotations.md: often only a tag
	annotationContainerdName = "io.containerd.image.name"          // a full name
)

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 4

// ociLayout stages the images of an OCI layout (image-spec, image-layout.md).
// The error is errNoManifest when it is none.
func (l *loader) ociLayout(ctx context.Context) ([]newImage, error) {
	b, err := l.readFirst("index.json")
	if err != nil {
		return nil, err
	}
	var x v1.IndexManifest
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("index.json: %w: %w", err, ErrManifest)
	}
	if len(x.Manifests) == 0 {
		return nil, fmt.Errorf("index.json names no image: %w", ErrManifest)
	}
	var found []newImage
	var firstErr error
	for _, d := range x.Manifests {
		if d.Annotations[attestation] != "" {
			continue
		}
		// For a single image the platform is the user's business, as it is with docker.
		if len(x.Manifests) > 1 && d.Platform != nil && d.Platform.Architecture != "" {
			if _, err := choose([]v1.Descriptor{d}, l.platform); err != nil {
				firstErr = errors.Join(firstErr, err)
				continue
			}
		}
		img, err := l.ociImage(ctx, d)
		if err != nil {
			return nil, err
		}
		found = append(found, img)
	}
	if len(found) == 0 {
		if firstErr == nil {
			firstErr = fmt.Errorf("index.json names no image: %w", ErrManifest)
		}
		return nil, firstErr
	}
	return found, nil
}

// blob reads a small blob of the layout and checks it.
func (l *loader) blob(d v1.Descriptor) ([]byte, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	b, err := l.read("blobs/sha256/" + d.Digest.Hex)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != d.Size || hashOf(b) != d.Digest {
		return nil, fmt.Errorf("blob %s: %d bytes with digest %s instead of %d: %w", d.Digest, len(b), hashOf(b), d.Size, ErrDigest)
	}
	return b, nil
}

// ociImage stages one image of index.json.
func (l *loader) ociImage(ctx context.Context, d v1.Descriptor) (newImage, error) {
	var img newImage
	name := layoutName(d.Annotations)
	var m *v1.Manifest
	var raw []byte
	for depth := 0; m == nil; depth++ {
		if depth == maxIndexDepth {
			return img, fmt.Errorf("more than %d indexes in each other: %w", maxIndexDepth, ErrLimit)
		}
		var err error
		if raw, err = l.blob(d); err != nil {
			return img, err
		}
		var x *v1.IndexManifest
		if m, x, err = parseManifest(raw, d.MediaType); err != nil {
			return img, err
		}
		if x != nil {
			if d, err = choose(x.Manifests, l.platform); err != nil {
				return img, err
			}
			if name == "" {
				name = layoutName(d.Annotations)
			}
		}
	}
	config, err := l.blob(m.Config)
	if err != nil {
		return img, err
	}
	if name != "" {
		ref, err := ParseReference(name)
		if err != nil {
			return img, err
		}
		if ref.Digest == "" {
			img.references = append(img.references, ref)
		}
	}
	return l.manifestImage(ctx, img, &original{raw, m}, config)
}

// manifestImage stages what the manifest of an image names.
func (l *loader) manifestImage(ctx context.Context, img newImage, m *original, config []byte) (newImage, error) {
	var err error
	if img.layers, err = l.o.buildManifest(ctx, m.manifest, config, l.progress, l.storeBlob); err != nil {
		return img, err
	}
	if img.manifest, err = l.o.addBlob(m.raw); err != nil {
		return img, err
	}
	img.id, err = l.o.addBlob(config)
	return img, err
}

// layoutName finds the name of an image in a layout; empty when it has none.
func layoutName(annotations map[string]string) string {
	if name := annotations[annotationContainerdName]; name != "" {
		return name
	}
	// "latest" alone, or another word that a layout of a single image uses as a tag, names no repository.
	name := annotations[annotationRefName]
	if !strings.ContainsAny(name, "/:@") {
		return ""
	}
	return name
}

// buildManifest builds the layers of an image that has a manifest. fetch
// brings the blob of a layer into the operation.
func (o *operation) buildManifest(ctx context.Context, m *v1.Manifest, config []byte, progress Progress,
	fetch func(context.Context, v1.Descriptor, *reporter) error) ([]layerRecord, error) {
	c, err := o.s.parseConfig(config, len(m.Layers))
	if err != nil {
		return nil, err
	}
	var inputs []layerInput
	for i, d := range m.Layers {
		diffID := c.RootFS.DiffIDs[i]
		report := &reporter{to: progress, id: d.Digest.Hex}
		if d.Size > o.s.limits.Blob {
			return nil, fmt.Errorf("layer %s has %d bytes, at most %d: %w", d.Digest, d.Size, o.s.limits.Blob, ErrLimit)
		}
		inputs = append(inputs, layerInput{diffID: diffID, blob: d.Digest, report: report, fetch: func(ctx context.Context) (*archivedLayer, error) {
			if err := fetch(ctx, d, report); err != nil {
				return nil, err
			}
			a, err := o.scanBlob(ctx, d.Digest, diffID, true, report)
			if err != nil && ctx.Err() == nil {
				o.forget(d.Digest) // the next pull would stumble over it again
			}
			return a, err
		}})
	}
	return o.build(ctx, inputs)
}

// storeBlob stages a layer of the layout as it is.
func (l *loader) storeBlob(ctx context.Context, d v1.Descriptor, report *reporter) error {
	f, size, err := l.open("blobs/sha256/" + d.Digest.Hex)
	if err != nil {
		return err
	}
	defer f.Close()
	if size != d.Size {
		return fmt.Errorf("blob %s: %d bytes instead of %d: %w", d.Digest, size, d.Size, ErrDigest)
	}
	t, err := newTemp(l.o.s.tempDir(), "blob-")
	if err != nil {
		return err
	}
	sum := newHasher()
	_, err = io.Copy(io.MultiWriter(t, sum), report.reader(withContext(ctx, f), PhaseReading, size))
	if err == nil {
		err = sum.check(d.Digest, d.Size)
	}
	if err != nil {
		t.discard()
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	l.o.stage(d.Digest, t)
	return nil
}
