package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/hullvm/hull/images/layerdisk"
)

// layerInput is one layer on its way into the store.
type layerInput struct {
	diffID v1.Hash
	// blob is the archive that the image's manifest names; the zero Hash when any with this diffID will do.
	blob v1.Hash

	report *reporter
	// fetch brings the layer's archive into the operation, when the store does not have it.
	fetch func(ctx context.Context) (*archivedLayer, error)
}

// archivedLayer is a layer whose archive is a blob of the operation or the store.
type archivedLayer struct {
	diffID    v1.Hash
	blob      v1.Hash
	size      int64
	mediaType types.MediaType
	tree      *layerdisk.Tree
	spool     *spool // may be nil
}

// parseConfig checks an image configuration that came with so many layers.
func (s *Store) parseConfig(b []byte, layers int) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("image configuration: %w: %w", err, ErrManifest)
	}
	if layers > s.limits.Layers {
		return nil, fmt.Errorf("%d layers, at most %d: %w", layers, s.limits.Layers, ErrLimit)
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("image configuration: a root file system of type %q: %w", c.RootFS.Type, ErrUnsupported)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, fmt.Errorf("image configuration: %d diffIDs for %d layers: %w", len(c.RootFS.DiffIDs), layers, ErrManifest)
	}
	for _, d := range c.RootFS.DiffIDs {
		if !validDigest(d) {
			return nil, fmt.Errorf("image configuration: diffID %q: %w", shorten(d.String()), ErrManifest)
		}
	}
	return &c, nil
}

// builder brings the layers of one image into the store. All layers are worked
// on at once; a layer that needs to know those below waits for their trees.
type builder struct {
	o      *operation
	layers []*buildingLayer
}

type buildingLayer struct {
	layerInput
	chainID v1.Hash
	record  layerRecord
	known   bool          // the disk is there, from another image
	stored  bool          // so is the archive
	buried  bool          // a flat layer above that the store has takes its place
	tree    *lazyTree     // valid when ready is closed
	ready   chan struct{} // closed when the archive is in the operation or the store
	spool   *spool        // the uncompressed archive, until the disk is made; may be nil
}

// build returns the records of an image's layers, lowest first.
func (o *operation) build(ctx context.Context, inputs []layerInput) ([]layerRecord, error) {
	b := &builder{o: o}
	var diffIDs []v1.Hash
	for _, in := range inputs {
		diffIDs = append(diffIDs, in.diffID)
	}
	for i, chainID := range chainIDs(diffIDs) {
		l := &buildingLayer{layerInput: inputs[i], chainID: chainID, ready: make(chan struct{})}
		l.record = layerRecord{DiffID: l.diffID, ChainID: chainID}
		b.layers = append(b.layers, l)
	}
	b.recall()
	group, gctx := errgroup.WithContext(ctx)
	for i := range b.layers {
		group.Go(func() error {
			if err := b.layer(gctx, i); err != nil {
				return fmt.Errorf("layer %d (%s): %w", i+1, shortID(b.layers[i].diffID), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var records []layerRecord
	for _, l := range b.layers {
		records = append(records, l.record)
	}
	records, err := b.atLeastOneDisk(ctx, records)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known.add(records)
	for i, r := range records {
		if r.Flat && slices.ContainsFunc(records[:i], func(l layerRecord) bool { return l.Disk != "" }) {
			o.wasteful = true
		}
	}
	return records, nil
}

// recall finds what the store has of these layers.
func (b *builder) recall() {
	b.o.mu.Lock()
	defer b.o.mu.Unlock()
	buried := false
	for _, l := range slices.Backward(b.layers) {
		if archive, ok := b.o.known.archive(l.layerInput); ok && b.o.s.hasBlob(archive.Blob) {
			l.record.Blob, l.record.BlobSize, l.record.MediaType = archive.Blob, archive.BlobSize, archive.MediaType
			l.stored = true
		}
		l.buried = buried
		same, ok := b.o.known.chains[l.chainID]
		if !ok {
			continue
		}
		if same.Disk != "" && !b.o.s.hasDisk(same.Disk, same.DiskSize) {
			// Whatever happened to it, it is made again.
			os.Remove(b.o.s.diskPath(same.Disk))
			continue
		}
		l.record.Disk, l.record.DiskSize, l.record.Flat = same.Disk, same.DiskSize, same.Flat
		l.known = true
		buried = buried || same.Flat
	}
}

// layer does all for one layer.
func (b *builder) layer(ctx context.Context, i int) error {
	l := b.layers[i]
	defer func() { l.spool.close() }()
	if err := b.archive(ctx, l); err != nil {
		return err
	}
	close(l.ready)
	if l.known || l.buried {
		end := PhaseDone
		if l.stored {
			end = PhaseExists
		}
		l.report.report(end, l.record.BlobSize, l.record.BlobSize, "")
		return nil
	}
	tree, err := l.tree.get(ctx)
	if err != nil {
		return err
	}
	trees := make([]*layerdisk.Tree, i+1)
	trees[i] = tree
	if !tree.SelfContained() {
		for j, lower := range b.layers[:i] {
			select {
			case <-lower.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			if trees[j], err = lower.tree.get(ctx); err != nil {
				return err
			}
		}
	}
	if !tree.Empty() {
		if err := b.disk(ctx, l, trees); err != nil {
			return err
		}
	}
	l.report.report(PhaseDone, l.record.BlobSize, l.record.BlobSize, "")
	return nil
}

// archive gets the layer's archive and prepares its tree.
func (b *builder) archive(ctx context.Context, l *buildingLayer) error {
	if l.stored {
		blob, diffID, report := l.record.Blob, l.diffID, l.report
		l.tree = &lazyTree{make: func(ctx context.Context) (*layerdisk.Tree, error) {
			a, err := b.o.scanBlob(ctx, blob, diffID, false, report)
			if err != nil {
				return nil, err
			}
			return a.tree, nil
		}}
		return nil
	}
	a, err := l.fetch(ctx)
	if err != nil {
		return err
	}
	l.tree, l.spool = &lazyTree{tree: a.tree}, a.spool
	l.record.Blob, l.record.BlobSize, l.record.MediaType = a.blob, a.size, a.mediaType
	return nil
}

// disk makes the disk image of the last of trees, which is l's.
func (b *builder) disk(ctx context.Context, l *buildingLayer, trees []*layerdisk.Tree) error {
	recipe, err := layerdisk.NewRecipe(trees)
	if err != nil {
		return err
	}
	name, id := "sha256-"+l.diffID.Hex+".ext4", l.diffID
	if recipe.InContext() {
		name, id = "chain-sha256-"+l.chainID.Hex+".ext4", l.chainID
	}
	l.record.Disk, l.record.Flat = name, recipe.Flat()
	l.record.DiskSize, err = b.o.writeDisk(ctx, name, id, recipe, func(layer int) (io.ReadCloser, error) {
		// The layers of a recipe that needs more than one were waited for.
		from := b.layers[layer]
		if from == l {
			if in := l.spool.open(); in != nil {
				return &readAndClose{l.report.reader(withContext(ctx, in), PhaseConverting, l.spool.size), in}, nil
			}
		}
		return b.o.openLayer(ctx, from.record.Blob, l.report)
	}, l.report)
	return err
}

// atLeastOneDisk gives an image that is empty altogether an empty disk: there
// must be something to mount.
func (b *builder) atLeastOneDisk(ctx context.Context, records []layerRecord) ([]layerRecord, error) {
	if slices.ContainsFunc(records, func(l layerRecord) bool { return l.Disk != "" }) {
		return records, nil
	}
	tree, err := emptyTree(ctx)
	if err != nil {
		return nil, err
	}
	recipe, err := layerdisk.NewRecipe([]*layerdisk.Tree{tree})
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		// Not a layer of the image: an archive without a byte stands for it.
		none, err := b.o.addBlob(nil)
		if err != nil {
			return nil, err
		}
		records = []layerRecord{{DiffID: none, ChainID: none, Blob: none, MediaType: types.OCIUncompressedLayer}}
	}
	last := &records[len(records)-1]
	last.Disk = "sha256-" + last.DiffID.Hex + ".ext4"
	last.DiskSize, err = b.o.writeDisk(ctx, last.Disk, last.DiffID, recipe, nil, nil) // nothing to open
	return records, err
}
