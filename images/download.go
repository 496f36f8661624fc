package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// partialSuffix ends the names of layers that are not complete.
const partialSuffix = ".part"

// download brings a layer into images/partial: as a locked file with
// partialSuffix until it is complete and checked, then without. Both stay when
// the pull fails, for the next one, unless the contents are wrong or the disk is full.
type download struct {
	client *registryClient
	want   v1.Descriptor
	report *reporter
	file   *tempFile
	sum    *hasher // of what file has so far
}

// fetchLayer makes a layer a blob of the operation.
func (o *operation) fetchLayer(ctx context.Context, client *registryClient, d v1.Descriptor, report *reporter) error {
	if o.s.hasBlob(d.Digest) {
		return nil
	}
	complete := filepath.Join(o.s.partialDir(), d.Digest.Hex)
	there := func() bool {
		if _, err := os.Stat(complete); err != nil {
			return o.s.hasBlob(d.Digest)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.fetched[d.Digest] = complete
		return true
	}
	if there() {
		return nil
	}
	file, err := openTemp(ctx, complete+partialSuffix, func() { report.report(PhaseWaiting, 0, d.Size, "") })
	if err != nil {
		return err
	}
	if there() {
		file.discard()
		return nil
	}
	f := &download{client: client, want: d, report: report, file: file}
	if err := f.run(ctx); err != nil {
		if errors.Is(err, ErrDigest) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || f.sum == nil || f.sum.n == 0 {
			file.discard()
		}
		file.release()
		return fmt.Errorf("fetch %s: %w", d.Digest, err)
	}
	if err := file.commit(complete, 0o400); err != nil {
		file.discard()
		return err
	}
	there()
	return nil
}

// forget removes a layer that turned out to be none from images/partial.
func (o *operation) forget(blob v1.Hash) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if path, ok := o.fetched[blob]; ok {
		delete(o.fetched, blob)
		os.Remove(path)
	}
}

// run downloads what is missing.
func (d *download) run(ctx context.Context) error {
	resumed, err := d.resume(ctx)
	if err != nil {
		return err
	}
	for {
		if err := d.complete(ctx); err != nil {
			return err
		}
		err := d.sum.check(d.want.Digest, d.want.Size)
		if err == nil || !resumed {
			return err
		}
		// What an earlier pull had left may have been wrong: once more from the start.
		resumed = false
		d.report.report(PhaseRetrying, 0, d.want.Size, err.Error())
		if err := d.restart(); err != nil {
			return err
		}
	}
}

// resume takes up what an earlier pull has left.
func (d *download) resume(ctx context.Context) (bool, error) {
	d.sum = newHasher()
	info, err := d.file.Stat()
	if err != nil {
		return false, err
	}
	if info.Size() == 0 || info.Size() > d.want.Size {
		return false, d.restart()
	}
	if _, err := io.Copy(d.sum, withContext(ctx, d.file)); err != nil {
		return false, err
	}
	return true, nil
}

// restart forgets what is there.
func (d *download) restart() error {
	d.sum = newHasher()
	if err := d.file.Truncate(0); err != nil {
		return err
	}
	_, err := d.file.Seek(0, io.SeekStart)
	return err
}

// A registry that ends each answer after a byte must not keep a pull busy
// forever: only so many answers may have less than smallPart bytes.
const (
	smallPart = mib
	maxParts  = 1000
)

// complete asks for the rest of the layer until all is there. It gives up
// after a number of failures without progress in between.
func (d *download) complete(ctx context.Context) error {
	net := d.client.net
	failures, pause := 0, net.pause
	for small := 0; small < maxParts; {
		if d.sum.n == d.want.Size {
			return nil
		}
		before := d.sum.n
		err := d.part(ctx)
		if d.sum.n-before < smallPart {
			small++
		}
		if err == nil && d.sum.n > before {
			continue
		}
		if err == nil {
			err = fmt.Errorf("an empty answer: %w", ErrRegistry)
		}
		if ctx.Err() != nil || !isTransient(err) {
			return err
		}
		if d.sum.n > before {
			failures, pause = 0, net.pause
		}
		if failures++; failures >= net.attempts {
			return err
		}
		d.report.report(PhaseRetrying, d.sum.n, d.want.Size, err.Error())
		if err := sleep(ctx, net.pauseAfter(err, pause)); err != nil {
			return err
		}
		pause = min(2*pause, maxPause)
	}
	return fmt.Errorf("the layer comes in more than %d small parts: %w", maxParts, ErrRegistry)
}

// part asks once for all that is missing and keeps what comes.
func (d *download) part(ctx context.Context) error {
	header := http.Header{}
	if d.sum.n > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.sum.n))
	}
	resp, err := d.client.get(ctx, "blobs/"+d.want.Digest.String(), header,
		http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	rest := d.want.Size - d.sum.n
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		if err := d.restart(); err != nil {
			return err
		}
		return fmt.Errorf("the registry cannot go on where it stopped: %w", ErrRegistry)
	case http.StatusPartialContent:
		var first, last int64
		if n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/", &first, &last); n != 2 || first != d.sum.n || last >= d.want.Size || last < first {
			return fmt.Errorf("range %q instead of %q: %w", shorten(resp.Header.Get("Content-Range")), strings.TrimPrefix(header.Get("Range"), "bytes="), ErrDigest)
		}
		rest = last - first + 1
	case http.StatusOK:
		if d.sum.n > 0 { // it does not know ranges
			if err := d.restart(); err != nil {
				return err
			}
			rest = d.want.Size
		}
	}
	if resp.ContentLength >= 0 && resp.ContentLength != rest {
		return fmt.Errorf("%d bytes announced instead of %d: %w", resp.ContentLength, rest, ErrDigest)
	}
	return d.copy(resp.Body, rest)
}

// copy appends at most rest bytes of an answer to the file.
func (d *download) copy(body io.Reader, rest int64) error {
	in := d.report.reader(body, PhaseDownloading, d.want.Size)
	if r, ok := in.(*reportingReader); ok {
		r.current = d.sum.n
	}
	// A byte more than there should be is noticed.
	n, err := io.Copy(io.MultiWriter(d.file, d.sum), io.LimitReader(in, rest))
	if err != nil {
		return err
	}
	if n < rest {
		return fmt.Errorf("the answer ends after %d of %d bytes: %w: %w", n, rest, io.ErrUnexpectedEOF, ErrRegistry)
	}
	var more [1]byte
	if n, _ := io.ReadFull(in, more[:]); n > 0 {
		return fmt.Errorf("more than the %d bytes of the layer: %w", d.want.Size, ErrDigest)
	}
	return nil
}
