package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// indexVersion is the version of the layout of the store. A store of another
// version is not touched.
const indexVersion = 1

// index is the contents of index.json: what the store holds. Whatever no
// record names is garbage.
type index struct {
	Version int       `json:"version"`
	Images  []*record `json:"images"`
}

// record is one image. The configuration is the blob ID, which names it.
type record struct {
	ID         v1.Hash       `json:"id"`
	Manifest   v1.Hash       `json:"manifest"`
	Stored     time.Time     `json:"stored"`
	References []string      `json:"references,omitempty"` // full names with tags
	Digests    []string      `json:"digests,omitempty"`    // full names with digests
	Layers     []layerRecord `json:"layers"`               // lowest first
}

// layerRecord is one layer of an image.
type layerRecord struct {
	DiffID  v1.Hash `json:"diffID"`
	ChainID v1.Hash `json:"chainID"`
	// Blob is the archive as it is stored, which need not be compressed as the manifest says: it may have come
	// with another image.
	Blob     v1.Hash `json:"blob"`
	BlobSize int64   `json:"blobSize"`
	// MediaType is that of the stored archive.
	MediaType types.MediaType `json:"mediaType"`
	// Disk is the file name of the disk image in layers/; empty for a layer that changes nothing.
	Disk     string `json:"disk,omitempty"`
	DiskSize int64  `json:"diskSize,omitempty"`
	// Flat: the disk holds the layers below, too, and takes their place.
	Flat bool `json:"flat,omitempty"`
}

// disks returns the layers that have a disk in use, lowest first.
func (r *record) disks() []layerRecord {
	var all []layerRecord
	for _, l := range r.Layers {
		if l.Flat {
			all = all[:0]
		}
		if l.Disk != "" {
			all = append(all, l)
		}
	}
	return all
}

// paths of the store
func (s *Store) imagesDir() string     { return filepath.Join(s.dir, "images") }
func (s *Store) indexPath() string     { return filepath.Join(s.dir, "images", "index.json") }
func (s *Store) indexLockPath() string { return filepath.Join(s.dir, "images", "index.lock") }
func (s *Store) blobDir() string       { return filepath.Join(s.dir, "images", "blobs", "sha256") }
func (s *Store) partialDir() string    { return filepath.Join(s.dir, "images", "partial") }
func (s *Store) tempDir() string       { return filepath.Join(s.dir, "images", "tmp") }
func (s *Store) layerDir() string      { return filepath.Join(s.dir, "layers") }
func (s *Store) layerTempDir() string  { return filepath.Join(s.dir, "layers", "tmp") }

func (s *Store) blobPath(h v1.Hash) string { return filepath.Join(s.blobDir(), h.Hex) }

func (s *Store) diskPath(name string) string { return filepath.Join(s.layerDir(), name) }

// readIndex returns the index as it is now.
func (s *Store) readIndex() (*index, error) {
	b, err := os.ReadFile(s.indexPath())
	if errors.Is(err, fs.ErrNotExist) {
		return &index{Version: indexVersion}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the image index: %w", err)
	}
	var x index
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("read the image index %s: %w", s.indexPath(), err)
	}
	if x.Version != indexVersion {
		return nil, fmt.Errorf("image index %s has version %d; this hull knows version %d: %w", s.indexPath(), x.Version, indexVersion, ErrUnsupported)
	}
	for _, r := range x.Images {
		for _, l := range r.Layers {
			if l.Disk != "" && (filepath.Base(l.Disk) != l.Disk || !fs.ValidPath(l.Disk)) {
				return nil, fmt.Errorf("image index %s: %q is not a file name", s.indexPath(), l.Disk)
			}
		}
	}
	return &x, nil
}

// updateIndex changes the index with change while no other process does, and
// puts the result on the disk. Without an error from change it is replaced, else left.
func (s *Store) updateIndex(ctx context.Context, change func(*index) error) error {
	lock := flock.New(s.indexLockPath())
	if _, err := lock.TryLockContext(ctx, lockPoll); err != nil {
		return fmt.Errorf("lock the image index: %w", err)
	}
	defer lock.Unlock()
	x, err := s.readIndex()
	if err != nil {
		return err
	}
	if err := change(x); err != nil {
		return err
	}
	b, err := json.MarshalIndent(x, "", "\t")
	if err != nil {
		return err
	}
	f, err := newTemp(s.tempDir(), "index-")
	if err != nil {
		return fmt.Errorf("write the image index: %w", err)
	}
	defer f.discard()
	if _, err := f.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write the image index: %w", err)
	}
	if err := f.commit(s.indexPath(), 0o600); err != nil {
		return fmt.Errorf("write the image index: %w", err)
	}
	return syncDir(s.imagesDir())
}

// byID returns the record of an image, or nil.
func (x *index) byID(id v1.Hash) *record {
	for _, r := range x.Images {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// byReference returns the record that has a name, or nil.
func (x *index) byReference(ref Reference) *record {
	for _, r := range x.Images {
		if r.has(ref) {
			return r
		}
	}
	return nil
}

// has tells whether the image has a name. Of a name with a tag and a digest
// the digest counts, as for docker.
func (r *record) has(ref Reference) bool {
	if ref.Digest != "" {
		ref.Tag = ""
		return slices.Contains(r.Digests, ref.String())
	}
	return slices.Contains(r.References, ref.String())
}

// assign gives the image r a tagged name and takes it from the one that had it.
func (x *index) assign(r *record, name string) {
	for _, other := range x.Images {
		if i := slices.Index(other.References, name); i >= 0 {
			other.References = slices.Delete(other.References, i, i+1)
		}
	}
	r.References = append(r.References, name)
	slices.Sort(r.References)
}

// addDigest notes under which digest a registry has the image.
func (r *record) addDigest(name string) {
	if !slices.Contains(r.Digests, name) {
		r.Digests = append(r.Digests, name)
		slices.Sort(r.Digests)
	}
}
