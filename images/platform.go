package images

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// defaultPlatform is the one hull runs.
const defaultPlatform = "linux/amd64"

// parsePlatform reads "os/architecture[/variant]".
func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		s = defaultPlatform
	}
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return v1.Platform{}, fmt.Errorf("platform %q: it must be os/architecture or os/architecture/variant: %w", shorten(s), ErrUnsupported)
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// attestation marks manifests that describe another image instead of being one (docker buildx).
const attestation = "vnd.docker.reference.type"

// choose returns the manifest of an index that fits a platform. Without a
// variant wanted, one that names none comes first.
func choose(manifests []v1.Descriptor, want v1.Platform) (v1.Descriptor, error) {
	var fits []v1.Descriptor
	var there []string
	for _, d := range manifests {
		switch {
		case d.Annotations[attestation] != "":
		case d.Platform == nil:
			// It does not say; the image's configuration will.
			fits = append(fits, d)
		case d.Platform.OS == want.OS && d.Platform.Architecture == want.Architecture && (want.Variant == "" || d.Platform.Variant == want.Variant):
			fits = append(fits, d)
		default:
			there = append(there, d.Platform.String())
		}
	}
	if len(fits) == 0 {
		return v1.Descriptor{}, fmt.Errorf("%s: there is %s: %w", want, oneOf(there), ErrPlatform)
	}
	for _, d := range fits {
		if d.Platform != nil && d.Platform.Variant == want.Variant {
			return d, nil
		}
	}
	return fits[0], nil
}

// oneOf lists what there is, at most some of it.
func oneOf(names []string) string {
	const most = 12
	if len(names) == 0 {
		return "none"
	}
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// manifestKind reads what both a manifest and an index have.
type manifestKind struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	Manifests     json.RawMessage `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// parseManifest reads an image manifest or an index, whose media type a
// registry or a descriptor has told; empty when it has not. One result is nil.
func parseManifest(b []byte, mediaType types.MediaType) (*v1.Manifest, *v1.IndexManifest, error) {
	fail := func(err error) (*v1.Manifest, *v1.IndexManifest, error) {
		return nil, nil, fmt.Errorf("manifest: %w: %w", err, ErrManifest)
	}
	var k manifestKind
	if err := json.Unmarshal(b, &k); err != nil {
		return fail(err)
	}
	// One document must not be a manifest to one reader and an index to another (GHSA-mc8v-mgrf-8f4m).
	if k.Manifests != nil && (k.Layers != nil || k.Config != nil) {
		return fail(fmt.Errorf("it has both layers and manifests"))
	}
	if !mediaType.IsImage() && !mediaType.IsIndex() && !mediaType.IsSchema1() && k.MediaType != "" {
		mediaType = k.MediaType
	}
	switch {
	case mediaType.IsSchema1() || k.SchemaVersion == 1 || k.FSLayers != nil:
		return nil, nil, fmt.Errorf("manifest of schema 1, which has been superseded since 2017: %w", ErrUnsupported)
	case k.MediaType != "" && mediaType != "" && k.MediaType != mediaType:
		return fail(fmt.Errorf("it says that it is %q but was announced as %q", shorten(string(k.MediaType)), shorten(string(mediaType))))
	case mediaType != "" && !mediaType.IsImage() && !mediaType.IsIndex() && k.MediaType != "":
		return nil, nil, fmt.Errorf("manifest of type %q: %w", shorten(string(mediaType)), ErrUnsupported)
	case k.Manifests != nil:
		if mediaType.IsImage() {
			return fail(fmt.Errorf("an index was announced as %q", mediaType))
		}
		var x v1.IndexManifest
		if err := json.Unmarshal(b, &x); err != nil {
			return fail(err)
		}
		return nil, &x, nil
	case k.Config != nil && k.Layers != nil:
		if mediaType.IsIndex() {
			return fail(fmt.Errorf("an image was announced as %q", mediaType))
		}
		var m v1.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			return fail(err)
		}
		return &m, nil, checkManifest(&m)
	}
	return fail(fmt.Errorf("it is neither of an image nor an index"))
}

// checkManifest checks what an image manifest says about its parts.
func checkManifest(m *v1.Manifest) error {
	if !m.Config.MediaType.IsConfig() {
		return fmt.Errorf("manifest: its configuration is of type %q, so this is not a container image: %w", shorten(string(m.Config.MediaType)), ErrUnsupported)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return err
		}
	}
	for _, d := range m.Layers {
		if !d.MediaType.IsLayer() {
			return fmt.Errorf("manifest: a layer of type %q: %w", shorten(string(d.MediaType)), ErrUnsupported)
		}
	}
	return nil
}

func checkDescriptor(d v1.Descriptor) error {
	if !validDigest(d.Digest) {
		return fmt.Errorf("manifest: digest %q is not sha256 and 64 hexadecimal digits: %w", shorten(d.Digest.String()), ErrManifest)
	}
	if d.Size < 0 {
		return fmt.Errorf("manifest: %s has a size of %d: %w", d.Digest, d.Size, ErrManifest)
	}
	return nil
}

// checkPlatform refuses an image for another platform than the wanted one. An
// image that does not say what it is for is taken.
func checkPlatform(config []byte, want v1.Platform) error {
	var c v1.Platform
	if err := json.Unmarshal(config, &c); err != nil {
		return fmt.Errorf("image configuration: %w: %w", err, ErrManifest)
	}
	return fitsPlatform(c, want)
}

func fitsPlatform(c, want v1.Platform) error {
	variant := want.Variant != "" && c.Variant != "" && c.Variant != want.Variant
	if c.OS != "" && c.OS != want.OS || c.Architecture != "" && c.Architecture != want.Architecture || variant {
		return fmt.Errorf("%s: there is %s: %w", want, c, ErrPlatform)
	}
	return nil
}
