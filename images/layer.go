package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/hullvm/hull/images/layerdisk"
)

// lazyTree is the tree of a layer that is read when somebody needs it, at most once.
type lazyTree struct {
	mu   sync.Mutex
	tree *layerdisk.Tree
	make func(context.Context) (*layerdisk.Tree, error)
}

func (l *lazyTree) get(ctx context.Context) (*layerdisk.Tree, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tree != nil {
		return l.tree, nil
	}
	tree, err := l.make(ctx)
	if err == nil {
		l.tree = tree
	}
	return tree, err
}

func emptyTree(ctx context.Context) (*layerdisk.Tree, error) {
	return layerdisk.Scan(ctx, bytes.NewReader(nil), layerdisk.Limits{})
}

// hasBlob tells whether a blob is there.
func (s *Store) hasBlob(h v1.Hash) bool {
	_, err := os.Stat(s.blobPath(h))
	return err == nil
}

// hasDisk tells whether a disk image is there in full length.
func (s *Store) hasDisk(name string, size int64) bool {
	info, err := os.Stat(s.diskPath(name))
	return err == nil && info.Size() == size
}

// unpackedLimit bounds a layer's uncompressed archive: what its files may have
// and as much again for headers and padding.
func (s *Store) unpackedLimit() int64 { return 2*s.limits.Layer.Unpacked + 64*mib }

// scanBlob reads a layer's archive, checks that it is the one with this
// diffID, and returns what is in it. The digest of the blob has been checked
// before. With keep, the layer may come with a spool, which must be closed.
func (o *operation) scanBlob(ctx context.Context, blob, diffID v1.Hash, keep bool, report *reporter) (*archivedLayer, error) {
	if err := o.s.cpu.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer o.s.cpu.Release(1)
	f, err := o.openBlob(blob)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	in, format, err := decompress(report.reader(withContext(ctx, f), PhaseVerifying, info.Size()))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var kept *spool
	if keep && format == types.OCILayer {
		kept = o.s.newSpool(info.Size())
	}
	sum := newHasher()
	tree, err := o.s.scan(ctx, io.TeeReader(in, io.MultiWriter(sum, kept)))
	if err == nil {
		if err = sum.check(diffID, -1); err != nil {
			err = fmt.Errorf("uncompressed layer: %w", err)
		}
	}
	if err != nil {
		kept.close()
		return nil, err
	}
	return &archivedLayer{diffID: diffID, blob: blob, size: info.Size(), mediaType: format, tree: tree, spool: kept}, nil
}

// scan reads an uncompressed archive to its very end.
func (s *Store) scan(ctx context.Context, r io.Reader) (*layerdisk.Tree, error) {
	r = &atMost{r: r, left: s.unpackedLimit(), what: "uncompressed layer"}
	tree, err := layerdisk.Scan(ctx, r, s.limits.Layer)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, r)
	return tree, err
}

// storeLayer reads a layer's archive, compressed or not, and stages it as a blob
// compressed with gzip, which everybody reads (decision 14). Only what comes from
// an archive of docker save or an import is treated so: there it is not
// compressed and its digest not yet known to anyone. size is how long the archive
// is, 0 if that is not known. The layer may come with a spool, which must be closed.
func (o *operation) storeLayer(ctx context.Context, r io.Reader, size int64) (*archivedLayer, error) {
	if err := o.s.cpu.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer o.s.cpu.Release(1)
	in, _, err := decompress(withContext(ctx, r))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	t, err := newTemp(o.s.tempDir(), "layer-")
	if err != nil {
		return nil, err
	}
	var kept *spool
	if size > 0 {
		kept = o.s.newSpool(size)
	}
	a, err := o.compressLayer(ctx, in, kept, t)
	if err != nil {
		kept.close()
		t.discard()
		return nil, err
	}
	o.stage(a.blob, t)
	return a, nil
}

// compressLayer reads an uncompressed archive, copies it to kept and writes it
// compressed to out.
func (o *operation) compressLayer(ctx context.Context, in io.Reader, kept *spool, out io.Writer) (*archivedLayer, error) {
	blob, diff := newHasher(), newHasher()
	z, err := gzip.NewWriterLevel(io.MultiWriter(out, blob), gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	tree, err := o.s.scan(ctx, io.TeeReader(in, io.MultiWriter(diff, z, kept)))
	if err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return &archivedLayer{diffID: diff.digest(), blob: blob.digest(), size: blob.n, mediaType: types.OCILayer, tree: tree, spool: kept}, nil
}

// writeDisk makes the disk image name in layers/, unless it is there, and
// returns its size. open opens the layers that the recipe is made of.
func (o *operation) writeDisk(ctx context.Context, name string, id v1.Hash, recipe *layerdisk.Recipe, open func(layer int) (io.ReadCloser, error), report *reporter) (size int64, err error) {
	final := o.s.diskPath(name)
	if info, err := os.Stat(final); err == nil {
		return info.Size(), nil
	}
	t, err := openTemp(ctx, o.s.layerTempDir()+"/"+name, func() { report.report(PhaseWaiting, 0, 0, "") })
	if err != nil {
		return 0, err
	}
	defer t.discard()
	if info, err := os.Stat(final); err == nil {
		return info.Size(), nil // another process has made it
	}
	if err := t.Truncate(0); err != nil {
		return 0, err
	}
	if err := o.s.cpu.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer o.s.cpu.Release(1)
	if err := recipe.Write(ctx, t.File, sumBytes(id), open); err != nil {
		return 0, fmt.Errorf("convert to a disk image: %w", err)
	}
	info, err := t.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), t.commit(final, 0o444)
}

// openLayer opens a layer's archive, uncompressed.
func (o *operation) openLayer(ctx context.Context, blob v1.Hash, report *reporter) (io.ReadCloser, error) {
	f, err := o.openBlob(blob)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	in, _, err := decompress(report.reader(withContext(ctx, f), PhaseConverting, info.Size()))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &closeBoth{in, f}, nil
}

// readAndClose is a reader and the closer of what it reads from.
type readAndClose struct {
	io.Reader
	io.Closer
}

// closeBoth is a reader that stands on another one.
type closeBoth struct {
	io.ReadCloser
	below io.Closer
}

func (c *closeBoth) Close() error {
	return errors.Join(c.ReadCloser.Close(), c.below.Close())
}

// withContext makes a reader end when ctx does.
func withContext(ctx context.Context, r io.Reader) io.Reader {
	return &contextReader{ctx, r}
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
