package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// CommitOptions are the options of Commit.
type CommitOptions struct {
	Progress Progress // may be nil
	// Reference is the name of the new image; empty for none.
	Reference string
	// Config is the new image's.
	Config v1.Config
	// Author, Message and CreatedBy, the command that made the changes, go to the image's history.
	Author, Message, CreatedBy string
	// Created is the time the image says it was made; zero for now.
	Created time.Time

	// Layer brings the archive of the layer to be added: it calls take with it, once.
	Layer func(ctx context.Context, take func(io.Reader) error) error
	// BaseLayer does the same for the nth layer of a built-in image, 1 being the lowest: the store has no
	// archives of those.
	BaseLayer func(ctx context.Context, n int, take func(io.Reader) error) error
}

// Commit makes an image of another one and a further layer on top. A layer that changes nothing is not added.
// The caller holds base (see Acquire).
func (s *Store) Commit(ctx context.Context, base *Image, opts CommitOptions) (*Image, error) {
	img, err := s.commitImage(ctx, base, opts)
	if err != nil {
		return nil, fmt.Errorf("commit an image: %w", err)
	}
	return img, nil
}

func (s *Store) commitImage(ctx context.Context, base *Image, opts CommitOptions) (img *Image, err error) {
	names, err := newNames(opts.Reference)
	if err != nil {
		return nil, err
	}
	o, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = o.end(err); err != nil {
			img = nil
		}
	}()
	inputs, err := o.baseLayers(ctx, base, opts)
	if err != nil {
		return nil, err
	}
	added, err := o.commitLayer(ctx, opts.Layer, opts.Progress)
	if err != nil {
		return nil, err
	}
	empty := added.layer.tree.Empty()
	if !empty {
		inputs = append(inputs, added.input())
	}
	if len(inputs) > s.limits.Layers {
		return nil, fmt.Errorf("%d layers, at most %d: %w", len(inputs), s.limits.Layers, ErrLimit)
	}
	raw, err := json.Marshal(commitConfig(base.Config, inputs, empty, opts))
	if err != nil {
		return nil, err
	}
	return o.finish(ctx, raw, inputs, names)
}

// finish makes one image, of a configuration and layers, part of the store.
func (o *operation) finish(ctx context.Context, config []byte, layers []layerInput, names []Reference) (*Image, error) {
	done := newImage{references: names, made: true}
	var err error
	if done.layers, err = o.build(ctx, layers); err != nil {
		return nil, err
	}
	if done.id, done.manifest, err = o.addManifest(config, done.layers); err != nil {
		return nil, err
	}
	if err := o.commit(ctx, []newImage{done}); err != nil {
		return nil, err
	}
	all, err := o.images([]newImage{done})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// newNames checks the name that is given to a new image.
func newNames(reference string) ([]Reference, error) {
	if reference == "" {
		return nil, nil
	}
	ref, err := ParseReference(reference)
	if err == nil && ref.Digest != "" {
		err = fmt.Errorf("image name %q: a digest cannot be given: %w", reference, ErrReference)
	}
	if err != nil {
		return nil, err
	}
	return []Reference{ref}, nil
}

// baseLayers are the layers of the image that is built upon.
func (o *operation) baseLayers(ctx context.Context, base *Image, opts CommitOptions) ([]layerInput, error) {
	var inputs []layerInput
	if base.Builtin {
		for n := range base.Disks {
			bring := func(ctx context.Context, take func(io.Reader) error) error { return opts.BaseLayer(ctx, n+1, take) }
			l, err := o.commitLayer(ctx, bring, opts.Progress)
			if err != nil {
				return nil, fmt.Errorf("layer %d: %w", n+1, err)
			}
			inputs = append(inputs, l.input())
		}
		return inputs, nil
	}
	for _, diffID := range base.Config.RootFS.DiffIDs {
		inputs = append(inputs, layerInput{
			diffID: diffID,
			report: &reporter{to: opts.Progress, id: diffID.Hex},
			fetch: func(context.Context) (*archivedLayer, error) {
				return nil, fmt.Errorf("the archive of layer %s of image %s: %w", shortID(diffID), shortID(base.ID), ErrMissing)
			},
		})
	}
	return inputs, nil
}

// committedLayer is a layer that was made for an image.
type committedLayer struct {
	layer  *archivedLayer
	report *reporter
}

func (l *committedLayer) input() layerInput {
	return layerInput{
		diffID: l.layer.diffID,
		report: l.report,
		fetch:  func(context.Context) (*archivedLayer, error) { return l.layer, nil },
	}
}

// commitLayer stages the archive that bring brings.
func (o *operation) commitLayer(ctx context.Context, bring func(context.Context, func(io.Reader) error) error, progress Progress) (*committedLayer, error) {
	var l committedLayer
	err := bring(ctx, func(r io.Reader) (err error) {
		l.layer, l.report, err = o.importLayer(ctx, r, progress)
		return err
	})
	if err == nil && l.layer == nil {
		err = fmt.Errorf("no archive of the layer: %w", ErrArchive)
	}
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// commitConfig is the configuration of an image that is built upon another.
func commitConfig(base *v1.ConfigFile, inputs []layerInput, empty bool, opts CommitOptions) *v1.ConfigFile {
	created := opts.Created
	if created.IsZero() {
		created = time.Now()
	}
	now := v1.Time{Time: created.UTC().Truncate(time.Second)}
	c := base.DeepCopy()
	c.Config, c.Author, c.Created, c.Container = opts.Config, opts.Author, now, ""
	c.History = append(slices.Clone(base.History), v1.History{
		Author: opts.Author, Created: now, CreatedBy: opts.CreatedBy, Comment: opts.Message, EmptyLayer: empty,
	})
	c.RootFS = v1.RootFS{Type: "layers"}
	for _, l := range inputs {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.diffID)
	}
	return c
}
