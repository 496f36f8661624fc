package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// operation is one Load, Import or Pull. What it adds is garbage until commit
// names it in the index, which is the last thing that happens.
type operation struct {
	s       *Store
	mark    *tempFile // locked as long as the operation runs, see markPrefix
	release func()    // of the hold that keeps others from sweeping

	mu       sync.Mutex            // protects what follows
	staged   map[v1.Hash]*tempFile // blobs of this operation, under temporary names
	fetched  map[v1.Hash]string    // blobs from a registry, complete, in images/partial
	known    known
	wasteful bool // disks were made that no image uses
}

// begin starts an operation. end must be called with its result.
func (s *Store) begin(ctx context.Context) (*operation, error) {
	release, err := s.hold(ctx)
	if err != nil {
		return nil, err
	}
	mark, err := newTemp(s.tempDir(), markPrefix)
	if err != nil {
		release()
		return nil, err
	}
	x, err := s.readIndex()
	if err != nil {
		mark.discard()
		release()
		return nil, err
	}
	return &operation{
		s: s, mark: mark, release: release, known: x.known(),
		staged: make(map[v1.Hash]*tempFile), fetched: make(map[v1.Hash]string),
	}, nil
}

// end finishes an operation. After an error nothing of it is left but layers
// that were fetched, which the next pull goes on with, if there is room for them.
func (o *operation) end(err error) error {
	for _, t := range o.staged {
		t.discard()
	}
	if err == nil && !o.wasteful {
		o.mark.discard()
		o.release()
		return nil
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// What is kept for the next pull is in the way now.
		if _, rerr := removeDead(o.s.partialDir(), func(fs.FileInfo) bool { return false }); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	o.mark.release() // unlocked it says that there may be garbage
	o.release()
	if serr := o.s.sweep(); serr != nil && err == nil {
		return serr
	}
	return err
}

// addBlob stages a small blob.
func (o *operation) addBlob(b []byte) (v1.Hash, error) {
	h := hashOf(b)
	t, err := newTemp(o.s.tempDir(), "blob-")
	if err != nil {
		return h, err
	}
	if _, err := bytes.NewReader(b).WriteTo(t); err != nil {
		t.discard()
		return h, err
	}
	o.stage(h, t)
	return h, nil
}

// stage hands a written blob over to the operation.
func (o *operation) stage(h v1.Hash, t *tempFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.staged[h] != nil {
		t.discard()
		return
	}
	o.staged[h] = t
}

// openBlob opens a blob wherever it is at this time.
func (o *operation) openBlob(h v1.Hash) (*os.File, error) {
	o.mu.Lock()
	path := o.fetched[h]
	if t := o.staged[h]; t != nil {
		path = t.path
	}
	o.mu.Unlock()
	if path != "" {
		f, err := os.Open(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		// Another process that fetched the same layer has committed it.
	}
	return os.Open(o.s.blobPath(h))
}

// newImage is an image whose parts are all staged or in the store.
type newImage struct {
	id, manifest v1.Hash
	made         bool // the manifest is hull's own: nobody has its digest
	layers       []layerRecord
	references   []Reference // with tags
	digests      []Reference
}

// commit makes images part of the store.
func (o *operation) commit(ctx context.Context, images []newImage) error {
	if err := o.placeBlobs(); err != nil {
		return err
	}
	if err := syncDir(o.s.layerDir()); err != nil {
		return err
	}
	return o.s.updateIndex(ctx, func(x *index) error {
		for _, img := range images {
			r := x.byID(img.id)
			if r == nil {
				r = &record{ID: img.id, Stored: time.Now().UTC().Truncate(time.Second)}
				x.Images = append(x.Images, r)
			}
			if o.replaces(img, r) {
				r.Manifest, r.Layers = img.manifest, img.layers
			}
			for _, ref := range img.references {
				x.assign(r, ref.String())
			}
			for _, ref := range img.digests {
				r.addDigest(ref.String())
			}
		}
		return nil
	})
}

// replaces tells whether an image takes the place of what the store has of it, if
// anything. A manifest that a registry has does not give way to one that hull has
// made, as long as all that it names is there.
func (o *operation) replaces(img newImage, r *record) bool {
	if r.Manifest == (v1.Hash{}) || r.Manifest == img.manifest {
		return true
	}
	o.wasteful = true // one of the two manifests is not needed
	if !img.made {
		return true
	}
	_, err := o.s.original(r)
	return err != nil
}

// placeBlobs gives all blobs of the operation their names.
func (o *operation) placeBlobs() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for h, t := range o.staged {
		if err := t.commit(o.s.blobPath(h), 0o400); err != nil {
			return fmt.Errorf("store blob %s: %w", h, err)
		}
	}
	for h, path := range o.fetched {
		err := os.Rename(path, o.s.blobPath(h))
		if errors.Is(err, fs.ErrNotExist) {
			_, err = os.Stat(o.s.blobPath(h)) // another process was first
		}
		if err != nil {
			return fmt.Errorf("store blob %s: %w", h, err)
		}
	}
	return syncDir(o.s.blobDir())
}

// images returns what commit has stored, as callers want it.
func (o *operation) images(stored []newImage) ([]*Image, error) {
	x, err := o.s.readIndex()
	if err != nil {
		return nil, err
	}
	var all []*Image
	for _, n := range stored {
		r := x.byID(n.id)
		if r == nil {
			return nil, fmt.Errorf("image %s: %w", shortID(n.id), ErrNotFound)
		}
		img, err := o.s.image(r)
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}

// known finds layers that the store has, whichever image they belong to.
type known struct {
	chains map[v1.Hash]layerRecord // by chain ID: the same layer on the same layers, with its disk
	diffs  map[v1.Hash]layerRecord // by diffID: the archive
	blobs  map[v1.Hash]layerRecord // by its digest: the archive
}

func (x *index) known() known {
	k := known{make(map[v1.Hash]layerRecord), make(map[v1.Hash]layerRecord), make(map[v1.Hash]layerRecord)}
	for _, r := range x.Images {
		k.add(r.Layers)
	}
	return k
}

// archive finds the archive of a layer.
func (k known) archive(l layerInput) (layerRecord, bool) {
	if l.blob == (v1.Hash{}) {
		r, ok := k.diffs[l.diffID]
		return r, ok
	}
	r, ok := k.blobs[l.blob]
	return r, ok && r.DiffID == l.diffID // what a manifest says of a blob need not be so
}

// add notes the layers of one image.
func (k known) add(layers []layerRecord) {
	flat := 0
	for i, l := range layers {
		if l.Flat {
			flat = i
		}
	}
	for i, l := range layers {
		k.diffs[l.DiffID], k.blobs[l.Blob] = l, l
		// The disks below a flat one are not used, so they may be gone.
		if i >= flat {
			k.chains[l.ChainID] = l
		}
	}
}
