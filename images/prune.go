package images

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// PruneOptions say which images Prune removes: those that fit all of them.
type PruneOptions struct {
	// All removes images that no container uses; else only those of them that have no tag.
	All bool
	// Until keeps images that were created later; the zero Time keeps none.
	Until time.Time
	// Labels and NotLabels, as "key" or "key=value", are those that an image must have, all of them, and those that
	// it must not have, none of them.
	Labels, NotLabels []string
}

// Pruned is what Prune did.
type Pruned struct {
	Removed []Removed
	// Reclaimed is the size of the files that no image needs any more, in bytes.
	Reclaimed int64
}

// Prune removes images that no container uses.
func (s *Store) Prune(ctx context.Context, opts PruneOptions) (Pruned, error) {
	// See Remove.
	mark, err := newTemp(s.tempDir(), markPrefix)
	if err != nil {
		return Pruned{}, fmt.Errorf("prune images: %w", err)
	}
	defer mark.release()
	var done Pruned
	err = s.updateIndex(ctx, func(x *index) error {
		var err error
		done, err = s.prune(x, opts)
		return err
	})
	if err != nil {
		mark.discard()
		return Pruned{}, fmt.Errorf("prune images: %w", err)
	}
	if len(done.Removed) == 0 {
		mark.discard()
		return done, nil
	}
	mark.release()
	if err := s.sweep(); err != nil {
		return done, fmt.Errorf("prune images: %w", err)
	}
	return done, nil
}

// prune does it in the index.
func (s *Store) prune(x *index, opts PruneOptions) (Pruned, error) {
	var done Pruned
	used, err := s.allUsers()
	if err != nil {
		return done, err
	}
	before := x.fileSizes(s)
	var kept []*record
	for _, r := range x.Images {
		if len(used[r.ID]) > 0 || len(r.References) > 0 && !opts.All || !s.prunable(r, opts) {
			kept = append(kept, r)
			continue
		}
		done.Removed = append(done.Removed, untagged(append(slices.Clone(r.References), r.Digests...))...)
		done.Removed = append(done.Removed, Removed{Deleted: r.ID})
	}
	x.Images = kept
	after := x.fileSizes(s)
	for name, size := range before {
		if _, needed := after[name]; !needed {
			done.Reclaimed += size
		}
	}
	return done, nil
}

// prunable tells whether an image fits the filters. One whose configuration is
// gone fits if there are none.
func (s *Store) prunable(r *record, opts PruneOptions) bool {
	if opts.Until.IsZero() && len(opts.Labels)+len(opts.NotLabels) == 0 {
		return true
	}
	img, err := s.image(r)
	if err != nil {
		return false
	}
	has := func(label string) bool { return HasLabel(img.Config.Config.Labels, label) }
	switch {
	case !opts.Until.IsZero() && img.Config.Created.After(opts.Until):
		return false
	case slices.ContainsFunc(opts.NotLabels, has):
		return false
	}
	return !slices.ContainsFunc(opts.Labels, func(label string) bool { return !has(label) })
}

// HasLabel tells whether labels have a "key", or a "key=value".
func HasLabel(labels map[string]string, label string) bool {
	key, want, exact := strings.Cut(label, "=")
	got, ok := labels[key]
	return ok && (!exact || got == want)
}

// fileSizes are the sizes, in bytes, of all files that the index names.
func (x *index) fileSizes(s *Store) map[string]int64 {
	sizes := make(map[string]int64)
	for _, r := range x.Images {
		for _, h := range []v1.Hash{r.ID, r.Manifest} {
			path := s.blobPath(h)
			if info, err := os.Stat(path); err == nil {
				sizes[path] = info.Size()
			}
		}
		for _, l := range r.Layers {
			sizes[s.blobPath(l.Blob)] = l.BlobSize
		}
		for _, l := range r.disks() {
			sizes[s.diskPath(l.Disk)] = l.DiskSize
		}
	}
	return sizes
}
