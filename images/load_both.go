package images

import (
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What is looked for in an archive beside what manifest.json says: manifests and
// indexes, at most so many and so many bytes.
const (
	maxManifests     = 1000
	maxManifestBytes = 64 * mib
)

// manifestOf finds the manifest of an image of manifest.json, if the archive is an
// OCI layout as well: the one with this configuration and these layers. It is how
// an image keeps its digest from hull save to hull load. A manifest whose layers
// are not compressed is none that a registry has: docker writes such when it
// saves. Then, and when there is none, the result is nil.
func (l *loader) manifestOf(config []byte, layers []string) (*original, error) {
	if l.manifests == nil {
		l.manifests = make(map[v1.Hash]*original)
		if err := l.readLayout(); err != nil {
			return nil, err
		}
	}
	o := l.manifests[hashOf(config)]
	if o == nil || len(o.manifest.Layers) != len(layers) || o.manifest.Config.Size != int64(len(config)) {
		return nil, nil
	}
	for i, d := range o.manifest.Layers {
		if layers[i] != "blobs/sha256/"+d.Digest.Hex || d.MediaType == types.OCIUncompressedLayer || d.MediaType == types.DockerUncompressedLayer {
			return nil, nil
		}
	}
	return o, nil
}

// readLayout notes all manifests that index.json leads to and the archive has.
func (l *loader) readLayout() error {
	b, err := l.readFirst("index.json")
	if errors.Is(err, errNoManifest) {
		return nil
	}
	if err != nil {
		return err
	}
	var x v1.IndexManifest
	if err := json.Unmarshal(b, &x); err != nil {
		return fmt.Errorf("index.json: %w: %w", err, ErrManifest)
	}
	l.readManifests(x.Manifests, 0, &manifestBudget{maxManifests, maxManifestBytes})
	return nil
}

type manifestBudget struct {
	count int
	bytes int64
}

// readManifests reads what descriptors name. What is not there or not an image is
// passed over: an index tells of more platforms than were saved.
func (l *loader) readManifests(all []v1.Descriptor, depth int, left *manifestBudget) {
	for _, d := range all {
		left.count--
		left.bytes -= max(d.Size, 0)
		if left.count < 0 || left.bytes < 0 || depth == maxIndexDepth {
			return
		}
		raw, err := l.blob(d)
		if err != nil {
			continue
		}
		m, x, err := parseManifest(raw, d.MediaType)
		switch {
		case err != nil:
		case x != nil:
			l.readManifests(x.Manifests, depth+1, left)
		case l.manifests[m.Config.Digest] == nil:
			l.manifests[m.Config.Digest] = &original{raw, m}
		}
	}
}
