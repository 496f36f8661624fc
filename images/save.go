package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// SaveOptions are the options of Save.
type SaveOptions struct {
	Progress Progress // may be nil
}

// Save writes images to a tar that is an archive of docker save and an OCI layout
// at once, as docker makes it since version 25. A repository without a tag stands
// for all its tags. The same images give the same bytes. Every blob is checked on
// its way; nothing is written if an image is not there or not whole. The errors
// are ErrNotFound, ErrAmbiguous, ErrReference, ErrBuiltin, ErrMissing and ErrDigest.
func (s *Store) Save(ctx context.Context, w io.Writer, refs []string, opts SaveOptions) error {
	release, err := s.hold(ctx)
	if err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	defer release()
	images, err := s.toSave(refs)
	if err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	a := &archiver{ctx: ctx, s: s, tar: tar.NewWriter(w), progress: opts.Progress, written: make(map[v1.Hash]bool)}
	if err := a.write(images); err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	return nil
}

// savedImage is one image of an archive.
type savedImage struct {
	*original
	id      v1.Hash
	created time.Time
	names   []Reference // with tags
}

// toSave finds what is to be saved: each image once, in the order in which they
// are named.
func (s *Store) toSave(refs []string) ([]*savedImage, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var all []*savedImage
	add := func(r *record, names ...Reference) error {
		i := slices.IndexFunc(all, func(img *savedImage) bool { return img.id == r.ID })
		if i < 0 {
			o, err := s.original(r)
			if err != nil {
				return err
			}
			img, err := s.image(r)
			if err != nil {
				return err
			}
			i = len(all)
			all = append(all, &savedImage{original: o, id: r.ID, created: img.Config.Created.Time})
		}
		for _, n := range names {
			if !slices.Contains(all[i].names, n) {
				all[i].names = append(all[i].names, n)
			}
		}
		return nil
	}
	for _, ref := range refs {
		name, err := ParseReference(ref)
		if err == nil && name.isWhole(ref) {
			tags, err := x.tags(name.Repository())
			if err != nil {
				return nil, err
			}
			for _, t := range tags {
				if err := add(x.byReference(t), t); err != nil {
					return nil, err
				}
			}
			if len(tags) > 0 {
				continue
			}
		}
		r, b, ferr := s.find(x, ref)
		switch {
		case ferr != nil:
			return nil, ferr
		case b != nil:
			return nil, fmt.Errorf("image %q: %w, so there is nothing to save", ref, ErrBuiltin)
		case err == nil && name.Digest == "" && r.has(name):
			err = add(r, name)
		default:
			err = add(r)
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// isWhole tells whether s, which means r, names a repository without a tag or a digest.
func (r Reference) isWhole(s string) bool {
	return !strings.Contains(s, "@") && !strings.Contains(s[strings.LastIndexByte(s, '/')+1:], ":")
}

// archiver writes an archive.
type archiver struct {
	ctx      context.Context
	s        *Store
	tar      *tar.Writer
	progress Progress
	written  map[v1.Hash]bool // blobs
}

// write writes the whole archive. What tells what is in it comes last, as in
// docker's.
func (a *archiver) write(images []*savedImage) error {
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	layout := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	list := []dockerImage{}
	for _, img := range images {
		if err := a.image(img); err != nil {
			return fmt.Errorf("image %s: %w", shortID(img.id), err)
		}
		d := dockerImage{Config: blobName(img.id)}
		for _, l := range img.manifest.Layers {
			d.Layers = append(d.Layers, blobName(l.Digest))
		}
		for _, n := range img.names {
			d.RepoTags = append(d.RepoTags, n.Familiar())
			entry := img.descriptor()
			entry.Annotations = map[string]string{annotationContainerdName: n.String(), annotationRefName: n.Tag}
			layout.Manifests = append(layout.Manifests, entry)
		}
		if len(img.names) == 0 {
			layout.Manifests = append(layout.Manifests, img.descriptor())
		}
		list = append(list, d)
	}
	for _, f := range []struct {
		name    string
		content any
	}{
		{"index.json", layout},
		{"manifest.json", list},
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}}, // OCI image-spec, image-layout.md
	} {
		b, err := json.Marshal(f.content)
		if err != nil {
			return err
		}
		if err := a.file(f.name, b, time.Unix(0, 0)); err != nil {
			return err
		}
	}
	return a.tar.Close()
}

func blobName(h v1.Hash) string { return "blobs/sha256/" + h.Hex }

// image writes an image's manifest, configuration and layers, unless they are there.
func (a *archiver) image(img *savedImage) error {
	for _, d := range img.blobs() {
		if err := a.blob(d, img.created); err != nil {
			return err
		}
	}
	d := img.descriptor()
	if a.written[d.Digest] {
		return nil
	}
	a.written[d.Digest] = true
	return a.file(blobName(d.Digest), img.raw, img.created)
}

// file writes a small file.
func (a *archiver) file(name string, content []byte, when time.Time) error {
	if err := a.header(name, int64(len(content)), when); err != nil {
		return err
	}
	_, err := a.tar.Write(content)
	return err
}

func (a *archiver) header(name string, size int64, when time.Time) error {
	if when.Before(time.Unix(0, 0)) {
		when = time.Unix(0, 0) // the zero Time, which a tar cannot have
	}
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: when})
}

// blob writes a blob of the store.
func (a *archiver) blob(d v1.Descriptor, when time.Time) error {
	if a.written[d.Digest] {
		return nil
	}
	a.written[d.Digest] = true
	f, err := os.Open(a.s.blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.header(blobName(d.Digest), d.Size, when); err != nil {
		return err
	}
	report := &reporter{to: a.progress, id: d.Digest.Hex}
	in := report.reader(withContext(a.ctx, f), PhaseWriting, d.Size)
	if _, err := io.Copy(a.tar, &checkedReader{r: in, sum: newHasher(), want: d}); err != nil {
		return err
	}
	report.report(PhaseWritten, d.Size, d.Size, "")
	return nil
}
