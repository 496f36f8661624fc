package images

import (
	"context"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Store is the image store in one data directory. Its methods may be called
// from several goroutines and, on one directory, from several processes.
type Store struct {
	dir    string
	limits Limits
}

// Options change how a store works. The zero value is what hull uses.
type Options struct {
	Limits Limits
}

// Open opens the store in the data directory dir, which is created when it is
// not there, and removes what killed processes have left half-written.
func Open(dir string) (*Store, error) { return OpenOptions(dir, Options{}) }

// OpenOptions is Open with options.
func OpenOptions(dir string, opts Options) (*Store, error) { return nil, errStub }

// Close releases what the store holds open. Images that were handed out stay valid.
func (s *Store) Close() error { return nil }

// SetInUse sets the hook that tells which images containers use: it returns
// container names by image ID. Remove refuses those images and garbage
// collection keeps them. Without a hook no image is in use.
func (s *Store) SetInUse(hook func() (map[v1.Hash][]string, error)) {}

// SetBuiltin makes an image that hull carries available under name, such as
// "uroot". An image in the store with the same name comes first.
func (s *Store) SetBuiltin(name string, b Builtin) error { return errStub }

// Builtin is an image that is part of hull: its configuration and its layers,
// lowest first, as disk images that already lie on this host.
type Builtin struct {
	Config v1.ConfigFile
	Layers []Disk
}

// LoadOptions are the options of Load.
type LoadOptions struct {
	Progress Progress // may be nil
	// Platform, as "linux/amd64", is chosen where an OCI layout has one image for several platforms. Empty: linux/amd64.
	Platform string
}

// Load reads an archive of docker save or an OCI layout in a tar, plain or
// compressed with gzip or zstd, and returns the images in it in the archive's
// order. Either all are in the store afterwards or, with an error, none.
func (s *Store) Load(ctx context.Context, r io.Reader, opts LoadOptions) ([]*Image, error) {
	return nil, errStub
}

// LoadPath is Load from a file, or from a directory that is an OCI layout.
func (s *Store) LoadPath(ctx context.Context, path string, opts LoadOptions) ([]*Image, error) {
	return nil, errStub
}

// ImportOptions are the options of Import.
type ImportOptions struct {
	Progress Progress // may be nil
	// Reference is the name of the new image; empty for none.
	Reference string
	// Changes are Dockerfile instructions that set the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL,
	// ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR.
	Changes []string
	// Message goes to the image's history.
	Message string
	// Platform, as "linux/amd64". Empty: linux/amd64.
	Platform string
}

// Import makes an image of one layer from the tar of a root file system,
// plain or compressed with gzip, zstd or xz.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ImportOptions) (*Image, error) {
	return nil, errStub
}

// PullOptions are the options of Pull.
type PullOptions struct {
	Progress Progress // may be nil
	// Platform, as "linux/amd64" or "linux/arm64/v8". Empty: linux/amd64.
	Platform string
	// Insecure allows plain HTTP and unverified TLS for any registry; loopback addresses need no permission.
	Insecure bool
	// Keychain has the credentials; nil: those of ~/.docker/config.json and its helpers.
	Keychain authn.Keychain
	// Parallel is the number of layers fetched at once; 0: 3, as docker has it.
	Parallel int
}

// Pull fetches an image from its registry. A pull that is cut short leaves
// what it has fetched in images/partial, and the next one goes on from there.
// The second result tells whether the store already had exactly this image.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (img *Image, upToDate bool, err error) {
	return nil, false, errStub
}

// Image is one image of the store, ready to be run.
type Image struct {
	// ID is the digest of the configuration, which docker calls the image ID.
	ID v1.Hash
	// Manifest is the digest of the manifest; the zero Hash for a built-in image.
	Manifest v1.Hash
	// References are the image's tagged names, sorted; none for a dangling image.
	References []Reference
	// Digests are names with the digest under which a registry has it, sorted.
	Digests []Reference
	// Config is the image's configuration. It must not be changed.
	Config *v1.ConfigFile
	// Disks are the layers as read-only ext4 images, lowest first; at least one. There may be fewer than the
	// configuration has layers: empty ones have no disk.
	Disks []Disk
	// Size is the size of all disks together, in bytes.
	Size int64
	// Builtin is set for images that are part of hull.
	Builtin bool
}

// Disk is one layer as a disk image.
type Disk struct {
	// DiffID is the digest of the layer's uncompressed archive.
	DiffID v1.Hash
	// Path is the file, Size its length in bytes: a multiple of 4096.
	Path string
	Size int64
}

// List returns all images, the newest first, built-in ones included.
func (s *Store) List(ctx context.Context) ([]*Image, error) { return nil, errStub }

// Get finds an image by a name as docker takes it ("debian", "debian:12",
// "debian@sha256:…", "localhost:5000/x"), by its ID or by the first digits of it.
// The error is ErrNotFound, ErrReference, ErrAmbiguous or ErrMissing.
func (s *Store) Get(ctx context.Context, ref string) (*Image, error) { return nil, errStub }

// Acquire is Get with a hold: until release is called, which may be done more
// than once, no process removes the image's disks. A container is created under it.
func (s *Store) Acquire(ctx context.Context, ref string) (img *Image, release func(), err error) {
	return nil, nil, errStub
}

// RemoveOptions are the options of Remove.
type RemoveOptions struct {
	// Force removes an image by ID though it has several names, and untags one that stopped containers use.
	Force bool
}

// Removed is one line of what a removal did; one of the fields is set.
type Removed struct {
	Untagged string  // a name, as "debian:12"
	Deleted  v1.Hash // an image ID
}

// Remove takes a name away from an image, and the image itself with its last
// name. The errors are ErrNotFound, ErrAmbiguous, ErrInUse, ErrConflict and ErrBuiltin.
func (s *Store) Remove(ctx context.Context, ref string, opts RemoveOptions) ([]Removed, error) {
	return nil, errStub
}

// Tag gives the image src a further name. An image that had the name loses it.
func (s *Store) Tag(ctx context.Context, src, name string) error { return errStub }

var errStub = errors.New("not written yet")
