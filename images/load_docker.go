package images

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// dockerImage is an element of manifest.json, which docker save writes
// (moby/image/tarexport, "manifestItem").
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// parseDockerManifest reads manifest.json.
func parseDockerManifest(b []byte) ([]dockerImage, error) {
	var all []dockerImage
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("manifest.json: %w: %w", err, ErrManifest)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("manifest.json names no image: %w", ErrManifest)
	}
	for _, img := range all {
		if img.Config == "" {
			return nil, fmt.Errorf("manifest.json: an image without a configuration: %w", ErrManifest)
		}
		for _, tag := range img.RepoTags {
			if ref, err := ParseReference(tag); err != nil || ref.Digest != "" {
				return nil, fmt.Errorf("manifest.json: %q is not a name with a tag: %w", shorten(tag), ErrManifest)
			}
		}
	}
	return all, nil
}

// dockerArchive stages the images of an archive of docker save. The error is
// errNoManifest when it is none.
func (l *loader) dockerArchive(ctx context.Context) ([]newImage, error) {
	b, err := l.readFirst("manifest.json")
	if err != nil {
		return nil, err
	}
	all, err := parseDockerManifest(b)
	if err != nil {
		return nil, err
	}
	var found []newImage
	for _, d := range all {
		img, err := l.dockerImage(ctx, d)
		if err != nil {
			if len(d.RepoTags) > 0 {
				return nil, fmt.Errorf("image %s: %w", d.RepoTags[0], err)
			}
			return nil, err
		}
		found = append(found, img)
	}
	return found, nil
}

func (l *loader) dockerImage(ctx context.Context, d dockerImage) (newImage, error) {
	var img newImage
	config, err := l.read(d.Config)
	if err != nil {
		return img, err
	}
	c, err := l.o.s.parseConfig(config, len(d.Layers))
	if err != nil {
		return img, err
	}
	for _, tag := range d.RepoTags {
		ref, err := ParseReference(tag)
		if err != nil {
			return img, err
		}
		img.references = append(img.references, ref)
	}
	if m, err := l.manifestOf(config, d.Layers); err != nil {
		return img, err
	} else if m != nil {
		return l.manifestImage(ctx, img, m, config)
	}
	img.made = true
	var inputs []layerInput
	for i, name := range d.Layers {
		diffID := c.RootFS.DiffIDs[i]
		report := &reporter{to: l.progress, id: diffID.Hex}
		inputs = append(inputs, layerInput{diffID: diffID, report: report, fetch: func(ctx context.Context) (*archivedLayer, error) {
			return l.storeMember(ctx, name, diffID, report)
		}})
	}
	if img.layers, err = l.o.build(ctx, inputs); err != nil {
		return img, err
	}
	// An image without layers has a record all the same.
	img.id, img.manifest, err = l.o.addManifest(config, img.layers[:len(d.Layers)])
	return img, err
}

// storeMember stages a layer that is a member of the archive.
func (l *loader) storeMember(ctx context.Context, name string, diffID v1.Hash, report *reporter) (*archivedLayer, error) {
	f, size, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := l.o.storeLayer(ctx, report.reader(f, PhaseVerifying, size), size)
	if err != nil {
		return nil, err
	}
	if a.diffID != diffID {
		a.spool.close()
		return nil, fmt.Errorf("%q has diffID %s instead of %s: %w", shorten(name), a.diffID, diffID, ErrDigest)
	}
	return a, nil
}

// addManifest stages a configuration and a manifest made for it and layers,
// for images that came without one.
func (o *operation) addManifest(config []byte, layers []layerRecord) (id, manifest v1.Hash, err error) {
	if id, err = o.addBlob(config); err != nil {
		return id, manifest, err
	}
	m := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: id},
		Layers:        []v1.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.MediaType, Size: l.BlobSize, Digest: l.Blob})
	}
	b, err := json.Marshal(m)
	if err != nil {
		return id, manifest, err
	}
	manifest, err = o.addBlob(b)
	return id, manifest, err
}
