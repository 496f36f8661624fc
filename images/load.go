package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// LoadOptions are the options of Load.
type LoadOptions struct {
	Progress Progress // may be nil
	// Platform, as "linux/amd64", is chosen where an OCI layout has one image for several platforms. Empty: linux/amd64.
	Platform string
}

// Load reads an archive of docker save or an OCI layout in a tar, plain or
// compressed with gzip, zstd, xz or bzip2, and returns the images in it in the
// archive's order. Either all are in the store afterwards or, with an error, none.
func (s *Store) Load(ctx context.Context, r io.Reader, opts LoadOptions) ([]*Image, error) {
	images, err := s.load(ctx, opts, func(o *operation) (fileSet, error) {
		return o.openArchive(ctx, r, &reporter{to: opts.Progress, id: "archive"})
	})
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	return images, nil
}

// LoadPath is Load from a file, or from a directory that is an OCI layout.
func (s *Store) LoadPath(ctx context.Context, path string, opts LoadOptions) ([]*Image, error) {
	images, err := s.load(ctx, opts, func(o *operation) (fileSet, error) {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			root, err := os.OpenRoot(path)
			return &dirSet{root}, err
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		set, err := o.openArchive(ctx, f, &reporter{to: opts.Progress, id: filepath.Base(path)})
		if err != nil {
			f.Close()
			return nil, err
		}
		return &closeAfter{set, f}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("load images from %s: %w", path, err)
	}
	return images, nil
}

// closeAfter closes the file a set was read from.
type closeAfter struct {
	fileSet
	f *os.File
}

func (c *closeAfter) close() error { return errors.Join(c.fileSet.close(), c.f.Close()) }

func (s *Store) load(ctx context.Context, opts LoadOptions, open func(*operation) (fileSet, error)) (images []*Image, err error) {
	platform, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, err
	}
	o, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = o.end(err); err != nil {
			images = nil
		}
	}()
	set, err := open(o)
	if err != nil {
		return nil, err
	}
	defer set.close()
	l := &loader{o: o, set: set, platform: platform, progress: opts.Progress}
	// hull and newer versions of docker write both; manifest.json has the full names.
	found, err := l.dockerArchive(ctx)
	if errors.Is(err, errNoManifest) {
		found, err = l.ociLayout(ctx)
		if errors.Is(err, errNoManifest) {
			err = fmt.Errorf("neither manifest.json (docker save) nor index.json (OCI layout) is in it: %w", ErrArchive)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := o.commit(ctx, found); err != nil {
		return nil, err
	}
	return o.images(found)
}

// errNoManifest: the file that tells what is in an archive is not there.
var errNoManifest = errors.New("no manifest")

// loader reads the images of one archive.
type loader struct {
	o        *operation
	set      fileSet
	platform v1.Platform
	progress Progress
	// manifests are those of an archive of docker save that is an OCI layout as well, by configuration; nil until
	// somebody asks.
	manifests map[v1.Hash]*original
}

// read reads a manifest, an index or a configuration.
func (l *loader) read(name string) ([]byte, error) {
	b, err := readSmall(l.set, name, l.o.s.limits.Manifest)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%q is not in the archive: %w", shorten(name), ErrArchive)
	}
	return b, err
}

// readFirst is read for the file that tells what is in the archive.
func (l *loader) readFirst(name string) ([]byte, error) {
	b, err := readSmall(l.set, name, l.o.s.limits.Manifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoManifest
	}
	return b, err
}

// open is for layers.
func (l *loader) open(name string) (io.ReadCloser, int64, error) {
	f, size, err := l.set.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%q is not in the archive: %w", shorten(name), ErrArchive)
	}
	if err == nil && size > l.o.s.limits.Blob {
		f.Close()
		err = fmt.Errorf("%q has %d bytes, at most %d: %w", shorten(name), size, l.o.s.limits.Blob, ErrLimit)
	}
	return f, size, err
}
